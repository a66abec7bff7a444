"""PyTorch's and NumPy's names for what is here, as data."""
