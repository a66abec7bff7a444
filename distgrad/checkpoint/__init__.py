"""State in files."""

from distgrad.checkpoint.files import load, save

__all__ = ["load", "save"]
