"""Mixed precision, under PyTorch's name for it."""

from distgrad.autograd.casting import autocast, get_autocast_dtype, is_autocast_enabled
from distgrad.optim.grad_scaler import GradScaler

__all__ = ["GradScaler", "autocast", "get_autocast_dtype", "is_autocast_enabled"]
