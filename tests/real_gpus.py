"""Whether tests find a real GPU. The double of one is never counted as such.

``DISTGRAD_REAL_GPU`` asks for them: with ``1`` the tests run on the GPUs that there are, also those that are
made for the double, and it is an error if there is none. With ``rehearsal`` they run on the double that is in
the GPU's place, to try the check itself (``tests/gpu/device.sh --rehearsal``).
"""

from __future__ import annotations

import os

VARIABLE = "DISTGRAD_REAL_GPU"
REHEARSAL = "rehearsal"
NAME_OF_THE_DOUBLE = "a double of a GPU"


def on_real_gpus() -> bool:
    """Whether the tests were asked to run on the GPUs that there are."""
    return VARIABLE in os.environ


def num_real_gpus() -> int:
    """How many GPUs CuPy sees that are none of the double's."""
    from distgrad import cuda

    names = [cuda.get_device_name(index) for index in range(cuda.device_count())]
    return sum(name != NAME_OF_THE_DOUBLE for name in names)


def gpus_are_there() -> bool:
    """Whether tests of a real GPU may run in this process."""
    return on_real_gpus() or num_real_gpus() > 0


def problem() -> str | None:
    """Why real GPUs were asked for in vain; None if they are there, or were not asked for."""
    asked = os.environ.get(VARIABLE)
    if asked not in (None, "1", REHEARSAL):
        return f"{VARIABLE}: expected 1 or {REHEARSAL}, got {asked!r}; correct or unset it"
    if asked != "1" or num_real_gpus() > 0:
        return None
    from distgrad import cuda

    found = "the double of one alone" if cuda.is_available() else "none"
    return f"{VARIABLE}=1: expected a GPU, found {found}; run python3 tests/gpu/facts.py, or unset it"
