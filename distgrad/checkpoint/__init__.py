"""State in files."""

from distgrad.checkpoint.files import load, save
from distgrad.checkpoint.manager import CheckpointManager

__all__ = ["CheckpointManager", "load", "save"]
