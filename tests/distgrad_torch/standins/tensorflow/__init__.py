"""Stands in for TensorFlow where programs import its callbacks, and is absent elsewhere."""

import os

if not os.environ.get("WATCHED_TENSORFLOW"):
    raise ModuleNotFoundError("No module named 'tensorflow'", name="tensorflow")
