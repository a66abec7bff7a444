"""What ``torch`` lets be set for a process: default dtype and device, seeds, threads, printing."""

from __future__ import annotations

import math
import os
from typing import Any

import numpy as np

from distgrad.autograd import showing
from distgrad.autograd.casting import DEFAULTS, get_autocast_dtype
from distgrad.autograd.casting import is_autocast_enabled as _is_autocast_enabled
from distgrad.autograd.creation import tensor as _tensor
from distgrad.autograd.info import can_cast as can_cast
from distgrad.autograd.info import finfo as _finfo
from distgrad.autograd.info import iinfo as iinfo
from distgrad.autograd.info import result_type as _result_type
from distgrad.autograd.meanings import kind
from distgrad.autograd.tensor import Tensor
from distgrad.backend.device import CPU, find_accelerator, parse_device
from distgrad.backend.rng import default_generator, manual_seed
from distgrad.backend.threads import get_num_threads
from distgrad.errors import OptionError

__all__ = [
    "are_deterministic_algorithms_enabled",
    "can_cast",
    "default_generator",
    "finfo",
    "fork_rng",
    "get_default_device",
    "get_default_dtype",
    "get_num_interop_threads",
    "get_num_threads",
    "get_rng_state",
    "iinfo",
    "initial_seed",
    "is_autocast_enabled",
    "is_deterministic_algorithms_warn_only_enabled",
    "is_storage",
    "manual_seed",
    "promote_types",
    "random",
    "result_type",
    "seed",
    "set_default_device",
    "set_default_dtype",
    "set_default_tensor_type",
    "set_num_interop_threads",
    "set_printoptions",
    "set_rng_state",
    "use_deterministic_algorithms",
    "version",
]

__version__ = "2.9.0+distgrad"


def set_default_dtype(dtype: Any) -> None:
    """The dtype of Python's floats in new tensors."""
    found = kind(dtype)
    if found.char not in "efd":
        raise OptionError(f"set_default_dtype: expected a floating dtype, got {found}")
    DEFAULTS[float] = found
    DEFAULTS[complex] = np.dtype(np.complex128 if found.char == "d" else np.complex64)


def get_default_dtype() -> Any:
    """The dtype of Python's floats in new tensors."""
    return DEFAULTS[float]


def set_default_tensor_type(kind_of_tensor: Any) -> None:
    """The same, from a type of tensor or its name."""
    name = kind_of_tensor if isinstance(kind_of_tensor, str) else kind_of_tensor.__name__
    dtypes = {"FloatTensor": np.float32, "DoubleTensor": np.float64, "HalfTensor": np.float16}
    set_default_dtype(np.dtype(dtypes[name.split(".")[-1]]))
    on_gpu = ".cuda." in name or getattr(kind_of_tensor, "_place", None) == "cuda"
    set_default_device("cuda" if on_gpu else None)


def set_default_device(device: Any) -> None:
    """Where new tensors lie that are given no device."""
    found = parse_device(device if device is not None else "cpu")
    while _chosen:
        _chosen.pop().__exit__()
    if found != CPU:
        _chosen.append(found.__enter__())


_chosen: list[Any] = []


def get_default_device() -> Any:
    """Where new tensors lie that are given no device."""
    return _chosen[-1] if _chosen else CPU


def result_type(tensor1: Any, tensor2: Any) -> Any:
    """The dtype that operations on both give."""
    return _result_type(*[getattr(each, "_data", each) for each in (tensor1, tensor2)])


def promote_types(type1: Any, type2: Any) -> Any:
    """The dtype that operations on arrays of both give."""
    return _result_type(kind(type1), kind(type2))


def finfo(dtype: Any = None) -> Any:
    """The limits of a floating dtype."""
    return _finfo(DEFAULTS[float] if dtype is None else dtype)


# -- random numbers


def seed() -> int:
    """Seed the default generator by chance; the seed."""
    value = int.from_bytes(os.urandom(7), "little")
    manual_seed(value)
    return value


def initial_seed() -> int:
    """The default generator's seed."""
    return default_generator.seed


def get_rng_state() -> Tensor:
    """The default generator's state, as a tensor of bytes."""
    state = default_generator.get_state()
    return _tensor(np.array([state["seed"], state["stream"], state["block"]], np.int64).view(np.uint8))


def set_rng_state(new_state: Tensor) -> None:
    """Go on from a state of :func:`get_rng_state`."""
    numbers = new_state._data.view(np.int64).tolist()
    default_generator.set_state(dict(zip(("seed", "stream", "block"), numbers, strict=True)))


class fork_rng:
    """Inside it random numbers are drawn that leave the default generator as it was."""

    def __init__(self, *args: Any, **options: Any) -> None:
        self._state: Any = None

    def __enter__(self) -> None:
        self._state = default_generator.get_state()

    def __exit__(self, *exc: object) -> None:
        default_generator.set_state(self._state)


class random:
    """``torch.random``."""

    manual_seed = staticmethod(manual_seed)
    seed = staticmethod(seed)
    initial_seed = staticmethod(initial_seed)
    get_rng_state = staticmethod(get_rng_state)
    set_rng_state = staticmethod(set_rng_state)
    fork_rng = fork_rng
    default_generator = default_generator


class version:
    """``torch.version``."""

    __version__ = __version__
    cuda = hip = git_version = None
    debug = False


# -- printing, determinism, threads


def set_printoptions(
    precision: int | None = None,
    threshold: int | None = None,
    edgeitems: int | None = None,
    linewidth: int | None = None,
    profile: str | None = None,
    sci_mode: bool | None = None,
) -> None:
    """How tensors are printed.

    Args:
        precision: digits behind the point, 4 by default.
        threshold: how many elements are printed whole, 1,000.
        edgeitems: how many at each end of an axis that is not, 3.
        linewidth: characters of a line, 80.
        profile: ``default``, ``short`` or ``full``, for the first four.
        sci_mode: whether numbers have powers of ten; None leaves it to the numbers.

    Raises:
        OptionError: another profile.
    """
    if profile not in (None, *_PROFILES):
        raise OptionError(f"set_printoptions: profile must be one of {list(_PROFILES)}, got {profile!r}")
    given = {"precision": precision, "threshold": threshold, "edgeitems": edgeitems, "linewidth": linewidth}
    showing.OPTIONS.update(_PROFILES.get(profile or "", {}), sci_mode=sci_mode)
    showing.OPTIONS.update({key: value for key, value in given.items() if value is not None})


_PROFILES: dict[str, dict[str, float]] = {
    "default": {"precision": 4, "threshold": 1000, "edgeitems": 3, "linewidth": 80},
    "short": {"precision": 2, "threshold": 1000, "edgeitems": 2, "linewidth": 80},
    "full": {"precision": 4, "threshold": math.inf, "edgeitems": 3, "linewidth": 80},
}


def use_deterministic_algorithms(mode: bool, *, warn_only: bool = False) -> None:
    """Nothing: results are repeatable from run to run."""


def are_deterministic_algorithms_enabled() -> bool:
    """Yes."""
    return True


def get_num_interop_threads() -> int:
    """As many as there are threads."""
    return get_num_threads()


def set_num_interop_threads(num_threads: int) -> None:
    """Nothing: one operation runs at a time."""


def is_autocast_enabled(device_type: str = "cuda") -> bool:
    """Whether operations on that kind of device are cast."""
    return _is_autocast_enabled(device_type)


def is_autocast_cpu_enabled() -> bool:
    """Whether operations on the CPU are cast."""
    return _is_autocast_enabled("cpu")


def get_autocast_gpu_dtype() -> Any:
    """The dtype to which operations on GPUs are cast."""
    return get_autocast_dtype("cuda") or kind("float16")


def get_autocast_cpu_dtype() -> Any:
    """The dtype to which operations on the CPU are cast."""
    return get_autocast_dtype("cpu") or kind("bfloat16")


def clear_autocast_cache() -> None:
    """Nothing: casts are kept by nobody."""


def set_flush_denormal(mode: bool) -> bool:
    """No: the processor's mode is left as it is."""
    return False


def set_deterministic_debug_mode(debug_mode: Any) -> None:
    """Nothing: results are repeatable from run to run."""


def get_deterministic_debug_mode() -> int:
    """What stands for "error" at operations that are not repeatable; there are none."""
    return 2


def set_warn_always(b: bool) -> None:
    """Nothing: what is said once is said once."""


def is_warn_always_enabled() -> bool:
    """No."""
    return False


def is_storage(obj: Any) -> bool:
    """No: memory is seen through tensors alone."""
    return False


def is_deterministic_algorithms_warn_only_enabled() -> bool:
    """No."""
    return False


def accelerator_name() -> str | None:
    """The kind of the devices beside the CPU; None where there are none."""
    backend = find_accelerator()
    return None if backend is None else backend.kind
