"""Sweeps: a grid of runs, and the launchers that execute them."""
