"""How a run computes on this machine: resources, captured steps, early stops."""
