"""Fused kernels in CUDA C, and what launches them under the names of their twins in the folder above."""
