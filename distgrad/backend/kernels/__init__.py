"""Fused kernels: faster ways to compute operations that have a plain formula, which stays their oracle."""
