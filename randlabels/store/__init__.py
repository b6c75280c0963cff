"""Files of a run on disk. Only `checkpoint` and `provenance` import torch."""
