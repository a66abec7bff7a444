"""Stands in for gym, which is no longer kept: gymnasium, which has its interface."""

from gymnasium import *  # noqa: F403
