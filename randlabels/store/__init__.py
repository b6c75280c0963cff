"""What a run leaves on disk. Only `checkpoint` imports torch."""
