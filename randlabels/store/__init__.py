"""What a run leaves on disk. Only `checkpoint` and `provenance` import torch."""
