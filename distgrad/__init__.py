"""Data-parallel training of neural networks on NumPy, CuPy and MPI."""

__version__ = "0.1.0"
