"""From the folders of many runs to tables. Reads files only; imports no torch."""
