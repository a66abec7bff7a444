"""A step captured and replayed: :func:`capture`."""

from distgrad.replay.capture import Captured, capture

__all__ = ["Captured", "capture"]
