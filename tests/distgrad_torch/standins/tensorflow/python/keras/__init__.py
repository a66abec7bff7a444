"""Callbacks alone."""
