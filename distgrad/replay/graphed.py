"""A step on a GPU as graphs: :func:`graphed`."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

from distgrad.autograd.tensor import Tensor
from distgrad.backend.device import Device
from distgrad.backend.graphs import GraphRecording, graph_recording, private_memory
from distgrad.backend.rng import default_generator
from distgrad.backend.streams import Stream, current_stream
from distgrad.errors import CaptureError, OptionError
from distgrad.replay.calls import mapped

__all__ = ["Graphed", "graphed"]

_PLAIN = (bool, int, float, complex, str, bytes, type(None))
_MOST = 8


def _state() -> tuple[int, int, int]:
    found = default_generator.get_state()
    return found["seed"], found["stream"], found["block"]


class _Graph:
    """A step of one kind of arguments.

    Args:
        step: the function.
        device: where its arguments lie.
        warm_up: how many calls run as they are.
    """

    def __init__(self, step: Callable[..., Any], device: Device, warm_up: int) -> None:
        self._step, self._device, self._warm_up = step, device, warm_up
        self._stream = Stream(device)
        self._memory = private_memory(device)
        self._inputs: list[Any] = []
        self._recording: GraphRecording | None = None
        self._result: Any = None
        self._advance = 0  # of the generator, in a replay

    def __call__(self, args: Any, tensors: list[Tensor]) -> Any:
        """The step; its work lies between what the current stream has been given and what it will be."""
        outer = current_stream(self._device)
        self._stream.wait_stream(outer)
        with self._stream:
            result = self._run(args, tensors)
        outer.wait_stream(self._stream)
        return result

    def _run(self, args: Any, tensors: list[Tensor]) -> Any:
        if self._warm_up:
            self._warm_up -= 1
            with self._memory():  # what stays of it, as an optimizer's state, is where the graphs find it
                return self._step(*args[0], **args[1])
        if self._recording is None:
            self._record(args, tensors)
        else:
            for to, x in zip(self._inputs, tensors, strict=True):
                to[...] = x._data
        assert self._recording is not None
        state = _state()
        self._recording.replay(state)
        default_generator.set_state({"seed": state[0], "stream": state[1], "block": state[2] + self._advance})
        return mapped(self._result, lambda x: Tensor(x._data.copy()) if isinstance(x, Tensor) else x)

    def _record(self, args: Any, tensors: list[Tensor]) -> None:
        """Write the step down; nothing has run when it returns, and Python remembers as before."""
        start = _state()
        self._inputs = [x._data.copy() for x in tensors]
        given = iter(self._inputs)
        args = mapped(args, lambda x: Tensor(next(given)) if isinstance(x, Tensor) else x)
        recording = GraphRecording(self._stream, start)
        try:
            with self._memory(), recording:
                result = self._step(*args[0], **args[1])
        except Exception as error:
            if isinstance(error, CaptureError) or "captur" not in str(error).lower():
                raise
            raise CaptureError(
                "graphed: the step lets the host wait for the device, or sends it numbers (float, item, "
                "print, a branch on a tensor, dg.tensor of new values), which no replay could do again; "
                f"return the tensor, or pass the numbers in as one ({error})"
            ) from error
        self._advance = _state()[2] - start[2]
        default_generator.set_state(dict(zip(("seed", "stream", "block"), start, strict=True)))
        self._result = mapped(result, lambda x: x.detach() if isinstance(x, Tensor) else x)
        self._recording = recording


class Graphed:
    """A step that is written down after its first calls and then played again; :func:`graphed` makes it.

    Attributes:
        step: the function.
        num_replays: how many calls were played.
    """

    def __init__(self, step: Callable[..., Any], warm_up: int) -> None:
        functools.update_wrapper(self, step, updated=())
        self.step, self._warm_up = step, warm_up
        self._graphs: dict[Any, _Graph] = {}
        self.num_replays = 0

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        """The step's result; tensors in it are new ones, outside the graph of gradients.

        Collective: as the step; blocks: where a ``GradScaler`` steps.
        """
        if graph_recording() is not None:
            return self.step(*args, **kwargs)
        tensors: list[Tensor] = []
        key = mapped((args, kwargs), lambda x: self._describe(x, tensors))
        graph = self._graphs.get(shown := repr(key))
        if graph is None:
            if len(self._graphs) == _MOST:
                raise CaptureError(
                    f"graphed: {_MOST} kinds of arguments have come, and now {shown}; keep shapes and "
                    "numbers the same, pass what changes as a tensor, or leave out a smaller last batch"
                )
            if not tensors:
                raise CaptureError("graphed: expected a tensor on a GPU among the arguments, got none")
            graph = self._graphs[shown] = _Graph(self.step, tensors[0].device, self._warm_up)
        self.num_replays += graph._recording is not None
        return graph((args, kwargs), tensors)

    def _describe(self, x: Any, tensors: list[Tensor]) -> Any:
        if isinstance(x, Tensor):
            if x.device.kind != "cuda" or x.requires_grad:
                raise CaptureError(
                    f"graphed: arguments must be tensors on a GPU without a gradient, got one on {x.device}"
                    f"{' that wants one' * x.requires_grad}; move or detach it"
                )
            tensors.append(x)
            return f"{x.dtype}{list(x.shape)} on {x.device}"
        if isinstance(x, _PLAIN):
            return x
        raise CaptureError(f"graphed: an argument is a {type(x).__name__}; pass tensors and plain numbers")


def graphed(step: Callable[..., Any] | None = None, *, warm_up: int = 2) -> Any:
    """Write down what a step does on a GPU, and play that again in later calls: one launch for all kernels.

    The first calls run as they are, and every call is one step. Played again, a step reads anew: its tensor
    arguments, an optimizer's options and number of steps, a ``GradScaler``'s scale, and where the default
    generator is. All else that Python decides or remembers is as it was when it was written down, and memory
    that the step made is its own. Gradients are to be set to zero, and used, inside.

    With ``DistributedDataParallel`` the ranks' reductions are in it, and the hosts agree on weights while it
    is written down, since a batch has one size from there on. Every rank calls it alike.

    Args:
        step: the function; left out, this is a decorator.
        warm_up: calls that run as they are, two or more, in which an optimizer makes its state.

    Returns:
        A :class:`Graphed`, called as ``step`` is.

    Raises:
        OptionError: fewer than two calls to warm up.
        CaptureError: (by its calls) the step needs the host in between, or arguments that are no tensors of a
            GPU and no plain numbers.

    Source: NVIDIA's CUDA graphs; the memory and the generator's place as in PyTorch's ``torch.cuda.graph``.
    """
    if not isinstance(warm_up, int) or warm_up < 2:
        raise OptionError(f"graphed: warm_up must be a whole number from 2 up, got {warm_up!r}")
    if step is None:
        return functools.partial(graphed, warm_up=warm_up)
    return Graphed(step, warm_up)
