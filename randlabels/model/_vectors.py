"""What the vector registers of AVX512 hold."""

LANES = 16
"""Pairs of bf16, or float32, in a vector of AVX512."""
ROWS, COLUMNS = 2, 8
"""Pixels beside each other whose sums, LANES channels of each, fill half of the registers."""
