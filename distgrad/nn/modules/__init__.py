"""Layers and losses, one file a family."""
