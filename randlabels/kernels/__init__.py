"""Exact kernel regression: kernels and features, the linear system they make, its solution."""
