"""For programs that start others: every Python with this folder on its path has the double's GPUs.

What the double cannot play, other libraries' GPU code, is not to be found there.
"""

import os
import sys

sys.path.insert(0, os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__)))))

from gpu_double.runtime import install

for _name in ("torch", "jax"):
    sys.modules[_name] = None  # type: ignore[assignment]
install(int(os.environ.get("DISTGRAD_GPU_DOUBLE_DEVICES", "2")))
