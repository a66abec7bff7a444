"""Pictures that nobody looks at."""

import torch


def save_image(*args, **options):
    """Nothing."""


def make_grid(tensor, *args, **options):
    """Images side by side."""
    return torch.cat(list(tensor), 2) if tensor.ndim == 4 else tensor


def _log_api_usage_once(network):
    """Nothing."""


def _make_ntuple(x, n):
    """A number ``n`` times."""
    return tuple(x) if hasattr(x, "__iter__") else (x,) * n
