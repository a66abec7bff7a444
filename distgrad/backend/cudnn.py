"""Graphs of cuDNN: planned once for a shape, kept in memory and on disk, started on the current stream.

``distgrad[cudnn]`` brings the library and NVIDIA's frontend for it. What it has no engine for, by type, shape
or memory, is answered with None, and the caller's own kernels compute; that is noted by shape. Any other
answer is an error. Engines whose sums come in another order from run to run are left out.
"""

from __future__ import annotations

import functools
import hashlib
import importlib
import importlib.util
import re
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple, Protocol

from distgrad.backend.kernels import cache
from distgrad.backend.precision import get_float32_matmul_precision
from distgrad.env import read
from distgrad.errors import DeviceError

__all__ = ["ALIGNED", "Plan", "Setting", "data_type", "is_exact", "plan_for", "steps_of"]

ALIGNED = 16  # bytes, that addresses are multiples of
_OLDEST = (1, 23)
_DIGITS = 16
_TYPES = {"f": "FLOAT", "e": "HALF", "E": "BFLOAT16"}


class Setting(Protocol):
    """What a plan is for: a named tuple of numbers, whose text names the file on disk."""

    @property
    def char(self) -> str:
        """The dtype's."""

    @property
    def exact(self) -> bool:
        """As :func:`is_exact` has it."""

    @property
    def most_bytes(self) -> int:
        """Of workspace."""

    def __hash__(self) -> int:
        """Of what it holds."""

    def declare(self, library: Any, graph: Any) -> None:
        """Enter the operation and its tensors, each by its number."""


class Plan(NamedTuple):
    """An operation that cuDNN has an engine for."""

    graph: Any
    workspace: int
    device: int

    def run(self, arrays: Mapping[int, Any]) -> None:
        """Start it on the current stream.

        Args:
            arrays: by the tensors' numbers; they lie as they were declared to.
        """
        cuda = importlib.import_module("cupy").cuda
        room = cuda.alloc(self.workspace) if self.workspace else None
        library, place = _library(), _place(self.device)
        pointers = {number: int(array.data.ptr) for number, array in arrays.items()}
        with place.lock, _errors("execute"):
            library.set_stream(handle=place.handle, stream=cuda.get_current_stream().ptr)
            self.graph.execute(pointers, room.ptr if room else 0, handle=place.handle)


class _Place(NamedTuple):
    """A device: its handle, which one thread at a time may use, and folders of its plans."""

    handle: Any
    options: dict[str, Any]
    folders: list[Path]
    lock: threading.Lock


@functools.cache
def _library() -> Any:
    """NVIDIA's frontend of cuDNN; None if it is not to be used, too old, or not there."""
    if not read().gpu_libraries:
        return None
    try:
        library = importlib.import_module("cudnn")
    except ImportError:
        return None
    numbers = re.findall(r"\d+", getattr(library, "__version__", ""))
    return library if tuple(map(int, numbers[:2])) >= _OLDEST else None


@contextmanager
def _errors(call: str) -> Iterator[None]:
    """What the library raises, as an error of ours; but for a refusal."""
    try:
        yield
    except _library().cudnnGraphNotSupportedError:
        raise
    except Exception as error:
        raise DeviceError(f"cudnn.{call}: {error}; DISTGRAD_GPU_LIBRARIES=0 does without cuDNN") from error


@functools.cache
def _place(device: int) -> _Place:
    """The current device's."""
    library = _library()
    with _errors("create_handle"):
        handle = library.create_handle()
    facts = importlib.import_module("cupy").cuda.runtime.getDeviceProperties(device)
    kind = tuple(facts[name] for name in ("name", "major", "minor", "multiProcessorCount"))
    return _Place(handle, {"handle": handle}, _folders(library, repr(kind)), threading.Lock())


def _folders(library: Any, kind: str) -> list[Path]:
    """Where plans for a kind of GPU, of this version of the library, may lie."""
    version = f"{library.__version__} {library.backend_version()} {kind}"
    return cache.places("cudnn", hashlib.sha256(version.encode()).hexdigest()[:_DIGITS])


def data_type(library: Any, char: str) -> Any:
    """The library's name of a dtype."""
    return getattr(library.data_type, _TYPES[char])


def is_exact(char: str) -> bool:
    """Whether inputs are multiplied as they are; otherwise the tensor cores may round them to TF32."""
    return char == "f" and get_float32_matmul_precision() == "highest"


def steps_of(shape: tuple[int, ...]) -> list[int]:
    """Elements from one to the next along each axis of an array in row order."""
    steps = [1]
    for length in reversed(shape[1:]):
        steps.insert(0, steps[0] * length)
    return steps


def plan_for(setting: Setting) -> Plan | None:
    """How to compute something on the current device.

    Returns:
        None where the library has no engine, or is not there.
    """
    if setting.char not in _TYPES or _library() is None:
        return None
    return _plan(importlib.import_module("cupy").cuda.Device().id, setting.__class__, setting)


@functools.lru_cache(maxsize=4096)
def _plan(device: int, kind: type, setting: Setting) -> Plan | None:
    place = _place(device)
    name = f"{hashlib.sha256(f'{kind.__name__} {setting}'.encode()).hexdigest()}.plan"
    with place.lock:
        graph = _loaded(place, setting, name)
        if graph is None:
            graph = _planned(place, setting, name)
        if graph is None:
            return None
        with _errors("get_workspace_size"):
            return Plan(graph, int(graph.get_workspace_size()), device)


def _graph(place: _Place, setting: Setting) -> Any:
    library = _library()
    wide = library.data_type.FLOAT
    kinds = {"intermediate_data_type": wide, "compute_data_type": wide}
    return library.pygraph(io_data_type=data_type(library, setting.char), **kinds, **place.options)


def _loaded(place: _Place, setting: Setting, name: str) -> Any:
    """The graph that lies on disk; None where there is none that this library takes."""
    data = cache.read_from(place.folders, name)
    if data is None:
        return None
    graph = _graph(place, setting)
    try:
        graph.deserialize(list(data))
    except Exception:  # whatever it says of it, it is planned anew
        return None
    return graph


def _planned(place: _Place, setting: Setting, name: str) -> Any:
    """A new graph, which is kept on disk; None where there is no engine."""
    library = _library()
    notes = library.numerical_note
    unwanted = [notes.NONDETERMINISTIC, notes.DOWN_CONVERT_INPUTS, notes.REDUCED_PRECISION_REDUCTION]
    try:
        with _errors("plan"):
            graph = _graph(place, setting)
            setting.declare(library, graph)
            graph.validate()
            graph.build_operation_graph()
            graph.create_execution_plans([library.heur_mode.A, library.heur_mode.FALLBACK])
            graph.deselect_numeric_notes([*unwanted, notes.TENSOR_CORE] if setting.exact else unwanted)
            graph.deselect_workspace_greater_than(setting.most_bytes)
            graph.check_support()
            graph.build_plans(library.build_plan_policy.HEURISTICS_CHOICE)
            data = bytes(graph.serialize())
    except library.cudnnGraphNotSupportedError:
        return None
    cache.write_to(place.folders, name, data)
    return graph
