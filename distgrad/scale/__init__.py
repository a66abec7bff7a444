"""Scaling: measured, predicted, simulated, and the benchmarks of steps and collectives."""
