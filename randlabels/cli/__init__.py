"""The command line: its help, and its errors in one sentence."""
