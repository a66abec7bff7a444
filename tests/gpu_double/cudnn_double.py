"""A double of NVIDIA's frontend of cuDNN: graphs that are planned, kept and executed as there, on the double.

It takes the calls that distgrad makes, by the real names of arguments, and looks at what the real library
trusts: tensors' numbers, where they lie, the workspace, the stream and the device. Engines need workspace,
and leave rubbish in it. :func:`install` puts it in the place of ``cudnn``.
"""

from __future__ import annotations

import ctypes
import enum
import math
import pickle
import sys
import types
from collections import Counter
from collections.abc import Callable
from typing import Any, ClassVar

import ml_dtypes
import numpy as np
from gpu_double import cudnn_formulas as formulas
from gpu_double.build import DoubleError
from gpu_double.runtime import installed

__version__ = "1.28.0"
WORKSPACE = {"conv_wgrad": 4096, "sdpa_backward": 8192}
ALIGNED = 16
_INPUTS = {
    "conv_fprop": ("image", "weight"),
    "conv_dgrad": ("loss", "filter"),
    "conv_wgrad": ("image", "loss"),
    "sdpa": ("q", "k", "v", "bias"),
    "sdpa_backward": ("q", "k", "v", "o", "dO", "stats", "bias"),
}


class cudnnGraphNotSupportedError(Exception):
    """There is no engine."""


data_type = enum.Enum("data_type", "FLOAT HALF BFLOAT16 DOUBLE INT32 BOOLEAN", module=__name__)
heur_mode = enum.Enum("heur_mode", "A B FALLBACK", module=__name__)
build_plan_policy = enum.Enum("build_plan_policy", "HEURISTICS_CHOICE ALL", module=__name__)
numerical_note = enum.Enum(
    "numerical_note",
    "TENSOR_CORE DOWN_CONVERT_INPUTS REDUCED_PRECISION_REDUCTION NONDETERMINISTIC FFT WINOGRAD",
    module=__name__,
)
_DTYPES = {
    data_type.FLOAT: np.dtype(np.float32),
    data_type.HALF: np.dtype(np.float16),
    data_type.BFLOAT16: np.dtype(ml_dtypes.bfloat16),
}


class State:
    """What tests look at and change.

    Attributes:
        planned, loaded: how many graphs of each operation were.
        refuses: says of a graph whether there is no engine for it.
    """

    planned: ClassVar[Counter[str]] = Counter()
    loaded: ClassVar[Counter[str]] = Counter()
    refuses: Callable[[pygraph], bool] = staticmethod(lambda graph: False)


class Handle:
    """Of a device; what it starts runs on its stream."""

    def __init__(self) -> None:
        self.device, self.stream = installed().get_device(), 0


def create_handle() -> Handle:
    """A handle of the current device."""
    return Handle()


def set_stream(handle: Handle, stream: int) -> None:
    """Let a handle start on that stream."""
    if not isinstance(handle, Handle) or not isinstance(stream, int):
        raise TypeError(f"set_stream: {handle}, {stream}")
    handle.stream = stream


def backend_version() -> int:
    """Of the library."""
    return 92400


class Tensor:
    """A description."""

    def __init__(self, uid: int = 0, dim: Any = (), stride: Any = (), data_type: Any = None) -> None:
        self.uid, self.dim, self.stride, self.data_type = uid, tuple(dim), tuple(stride), data_type
        self.is_output = False

    def _set(self, name: str, value: Any) -> Tensor:
        setattr(self, name, value)
        return self

    def set_uid(self, uid: int) -> Tensor:
        """Its number."""
        return self._set("uid", uid)

    def set_output(self, is_output: bool) -> Tensor:
        """Whether it is written to memory."""
        return self._set("is_output", is_output)

    def set_data_type(self, data_type: Any) -> Tensor:
        """Of its elements."""
        return self._set("data_type", data_type)

    def set_dim(self, dim: list[int]) -> Tensor:
        """Its shape."""
        return self._set("dim", tuple(dim))

    def set_stride(self, stride: list[int]) -> Tensor:
        """Elements from one to the next along each axis."""
        return self._set("stride", tuple(stride))

    @property
    def num_bytes(self) -> int:
        """From its first element to its last."""
        steps = zip(self.dim, self.stride, strict=True)
        return (1 + sum((n - 1) * step for n, step in steps)) * _DTYPES[self.data_type].itemsize

    def view(self, pointer: int) -> np.ndarray:
        """Its elements, as they lie there."""
        dtype = _DTYPES[self.data_type]
        flat = np.frombuffer((ctypes.c_char * self.num_bytes).from_address(pointer), dtype)
        strides = [step * dtype.itemsize for step in self.stride]
        return np.lib.stride_tricks.as_strided(flat, self.dim, strides)


class pygraph:
    """An operation, planned and then executed."""

    def __init__(
        self,
        io_data_type: Any = None,
        intermediate_data_type: Any = None,
        compute_data_type: Any = None,
        handle: Any = None,
    ) -> None:
        if not isinstance(handle, Handle) or intermediate_data_type != data_type.FLOAT != compute_data_type:
            raise TypeError("pygraph: a handle, and float32 inside, are expected")
        self.handle = handle
        self.operation, self.options = "", dict[str, Any]()
        self.given: dict[str, Any] = {}
        self.results: list[Tensor] = []
        self.kept: list[Tensor] = []
        self.bias_of_channels: Tensor | None = None
        self.rounds, self.stage, self.limit = True, 0, math.inf

    # -- declaring

    def tensor(self, dim: list[int], stride: list[int], data_type: Any, uid: int) -> Tensor:
        """One that is read."""
        return Tensor(uid, dim, stride, data_type)

    def _enter(self, operation: str, given: dict[str, Any], results: int, options: dict[str, Any]) -> Any:
        if self.operation:
            raise DoubleError(f"the double of cuDNN has one operation a graph, not {operation} too")
        self.operation, self.given, self.options = operation, given, options
        self.results = [Tensor() for _ in range(results)]
        return self.results

    def _convolve(self, operation: str, given: dict[str, Any], compute_data_type: Any, **how: Any) -> Tensor:
        if compute_data_type != data_type.FLOAT or {*how} != {"padding", "stride", "dilation"}:
            raise TypeError(f"{operation}: {compute_data_type}, {how}")
        return self._enter(operation, given, 1, how)[0]

    def conv_fprop(self, image: Tensor, weight: Tensor, **how: Any) -> Tensor:
        """The forward pass."""
        return self._convolve("conv_fprop", {"image": image, "weight": weight}, **how)

    def conv_dgrad(self, loss: Tensor, filter: Tensor, **how: Any) -> Tensor:
        """The gradient in the image."""
        return self._convolve("conv_dgrad", {"loss": loss, "filter": filter}, **how)

    def conv_wgrad(self, image: Tensor, loss: Tensor, **how: Any) -> Tensor:
        """The gradient in the weight."""
        return self._convolve("conv_wgrad", {"image": image, "loss": loss}, **how)

    def sdpa(
        self,
        q: Tensor,
        k: Tensor,
        v: Tensor,
        attn_scale: float,
        use_causal_mask: bool,
        generate_stats: bool,
        bias: Tensor | None = None,
        dropout: tuple[Tensor, Tensor] | None = None,
    ) -> list[Tensor]:
        """Attention and its statistics."""
        if generate_stats is not True:
            raise TypeError("sdpa: statistics are expected")
        given = {"q": q, "k": k, "v": v, "bias": bias}
        return self._attend("sdpa", given, 2, attn_scale, use_causal_mask, dropout)

    def sdpa_backward(
        self,
        q: Tensor,
        k: Tensor,
        v: Tensor,
        o: Tensor,
        dO: Tensor,
        stats: Tensor,
        attn_scale: float,
        use_causal_mask: bool,
        use_deterministic_algorithm: bool,
        bias: Tensor | None = None,
        dropout: tuple[Tensor, Tensor, Tensor] | None = None,
    ) -> list[Tensor]:
        """The gradients in q, k and v."""
        if use_deterministic_algorithm is not True:
            raise TypeError("sdpa_backward: sums come in another order from run to run")
        given = {"q": q, "k": k, "v": v, "o": o, "dO": dO, "stats": stats, "bias": bias}
        return self._attend("sdpa_backward", given, 3, attn_scale, use_causal_mask, dropout)

    def _attend(
        self, name: str, given: dict[str, Any], results: int, scale: float, is_causal: bool, dropout: Any
    ) -> list[Tensor]:
        if dropout is not None and len(dropout) != results:  # as many as there are results, by chance
            raise TypeError(f"{name}: dropout has {len(dropout)} tensors")
        self.kept = list(dropout or ())
        return self._enter(name, given, results, {"scale": scale, "is_causal": is_causal})

    def bias(self, input: Tensor, bias: Tensor) -> Tensor:
        """The convolution's result with a number added to each channel."""
        if self.operation != "conv_fprop" or input is not self.results[0]:
            raise DoubleError("the double of cuDNN adds a bias to the result of conv_fprop alone")
        self.bias_of_channels = bias
        return input

    # -- planning

    def _move(self, stage: int) -> None:
        if stage != self.stage + 1:
            raise DoubleError(f"cuDNN: step {stage} of planning after step {self.stage}")
        self.stage = stage

    def _tensors(self) -> list[Tensor]:
        found = [*(x for x in self.given.values() if x is not None), *self.kept, *self.results]
        return [*found, *([] if self.bias_of_channels is None else [self.bias_of_channels])]

    def validate(self) -> None:
        """Look at numbers and shapes."""
        self._move(1)
        numbers = [each.uid for each in self._tensors()]
        if len({*numbers}) != len(numbers) or not all(numbers):
            raise DoubleError(f"cuDNN: tensors are numbered {numbers}")
        if not all(each.is_output for each in self.results):
            raise DoubleError("cuDNN: a result is not written to memory")
        if self.operation.startswith("sdpa"):
            self._validate_attention()
        for each in self._tensors():
            if len(each.dim) != len(each.stride) or not 4 <= len(each.dim) <= 5 or min(each.dim) < 1:
                raise cudnnGraphNotSupportedError(f"dim {each.dim}, stride {each.stride}")

    def _validate_attention(self) -> None:
        q, k, v = (self.given[name] for name in "qkv")
        if any(x.dim[3] % 8 or x.dim[3] > 256 or x.stride[3] != 1 for x in (q, k, v)):
            raise cudnnGraphNotSupportedError("hidden_dim should be multiple of 8")
        if self.operation == "sdpa_backward" and q.dim[2] == k.dim[2] == 1:
            raise cudnnGraphNotSupportedError("s_q = s_kv = 1 is not supported.")
        statistics = self.results[1] if self.operation == "sdpa" else self.given["stats"]
        if statistics.data_type != data_type.FLOAT or statistics.dim != (*q.dim[:3], 1):
            raise DoubleError(f"cuDNN: statistics of {statistics.data_type}, {statistics.dim}")
        if q.dim[1] % k.dim[1] or k.dim[:3] != v.dim[:3] or q.dim[3] != k.dim[3] or q.dim[0] != k.dim[0]:
            raise DoubleError(f"cuDNN: q {q.dim}, k {k.dim}, v {v.dim}")

    def build_operation_graph(self) -> None:
        """The next step."""
        self._move(2)

    def create_execution_plans(self, modes: list[Any]) -> None:
        """Look for engines."""
        self._move(3)
        if not all(mode in heur_mode for mode in modes):
            raise TypeError("create_execution_plans")
        if any(each.data_type not in _DTYPES for each in self._tensors()) or State.refuses(self):
            raise cudnnGraphNotSupportedError(self.operation)

    def deselect_numeric_notes(self, notes: list[Any]) -> pygraph:
        """Leave engines out that have one of those; what sums in any order is one of them."""
        if self.stage != 3:
            raise DoubleError("cuDNN: notes are left out before there are plans")
        if numerical_note.NONDETERMINISTIC not in notes:
            raise DoubleError("cuDNN: the sums of an engine come in another order from run to run")
        self.rounds = numerical_note.TENSOR_CORE not in notes
        return self

    def deselect_workspace_greater_than(self, limit: int) -> pygraph:
        """Leave engines out that need more."""
        self.limit = limit
        return self

    def check_support(self) -> None:
        """Whether an engine is left."""
        self._move(4)
        if WORKSPACE.get(self.operation, 0) > self.limit:
            raise cudnnGraphNotSupportedError("workspace")

    def build_plans(self, policy: Any) -> None:
        """The last step."""
        self._move(5)
        State.planned[self.operation] += 1

    def get_workspace_size(self) -> int:
        """Bytes."""
        return WORKSPACE.get(self.operation, 0)

    def serialize(self) -> list[int]:
        """A plan as the real one gives it."""
        return list(pickle.dumps({k: v for k, v in vars(self).items() if k != "handle"}))

    def deserialize(self, data: list[int]) -> None:
        """A plan from what it was made to."""
        found = pickle.loads(bytes(data))
        if not isinstance(found, dict):
            raise RuntimeError("parse error")
        self.__dict__.update(found)
        State.loaded[self.operation] += 1

    # -- executing

    def execute(self, tensor_dict: dict[int, int], workspace: int, handle: Handle) -> None:
        """Queue it on the handle's stream."""
        double = installed()
        tensors = {each.uid: each for each in self._tensors()}
        if self.stage != 5 or tensor_dict.keys() != tensors.keys():
            raise DoubleError(f"cuDNN is given tensors {sorted(tensor_dict)}, and expects {sorted(tensors)}")
        if any(pointer % ALIGNED for pointer in tensor_dict.values()):
            raise DoubleError("cuDNN is given an address that is not aligned")
        if handle.device != double.get_device():
            raise DoubleError("cuDNN is given another device's handle")

        def step() -> bool:
            name, size = self.operation, self.get_workspace_size()
            for uid, each in tensors.items():
                double.memory.check(tensor_dict[uid], each.num_bytes, handle.device, name)
            double.memory.check(workspace, size, handle.device, f"{name}'s workspace")
            ctypes.memset(workspace, 0xAB, size)
            self._compute({each: each.view(tensor_dict[uid]) for uid, each in tensors.items()})
            return True

        double.scheduler.enqueue(handle.stream, handle.device, f"cudnn {self.operation}", step)

    def _read(self, array: np.ndarray) -> np.ndarray:
        """In float64; rounded to TF32's fraction where the tensor cores may do that."""
        if array.dtype != np.float32 or not self.rounds:
            return array.astype(np.float64)
        fraction, exponent = np.frexp(array.astype(np.float64))
        return np.ldexp(np.round(fraction * 2048) / 2048, exponent)

    def _compute(self, arrays: dict[Tensor, np.ndarray]) -> None:
        places = [self.given.get(name) for name in _INPUTS[self.operation]]
        given = [None if each is None else self._read(arrays[each]) for each in places]
        out = self.results[0]
        if self.operation.startswith("conv"):
            found = [getattr(formulas, self.operation)(*given, out.dim, **self.options)]
            if self.bias_of_channels is not None:
                found[0] += arrays[self.bias_of_channels].astype(np.float64)
        else:
            *inputs, bias = given
            kept = math.prod(arrays[each].astype(np.float64) for each in self.kept)
            found = getattr(formulas, self.operation)(*inputs, **self.options, bias=bias, kept=kept)
        for each, result in zip(self.results, found, strict=True):
            arrays[each][...] = result.astype(_DTYPES[each.data_type])


def install() -> types.ModuleType:
    """Put it in the place of ``cudnn``, as it is at first."""
    State.planned.clear()
    State.loaded.clear()
    State.refuses = staticmethod(lambda graph: False)
    module = sys.modules[__name__]
    sys.modules["cudnn"] = module
    return module
