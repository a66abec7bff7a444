"""Scaling losses so that float16 gradients do not vanish, and leaving out steps in which they overflow."""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from distgrad.autograd.flat import gradient_arrays, gradient_pieces
from distgrad.autograd.tensor import Tensor
from distgrad.backend.device import at_hand
from distgrad.backend.graphs import graph_recording
from distgrad.backend.recording import as_one_call, as_truth, branch, effect
from distgrad.backend.whole import unscale
from distgrad.errors import GraphError, OptionError
from distgrad.optim.optimizer import Optimizer

__all__ = ["GradScaler"]


@as_truth(0)
def _unscale(arrays: tuple[Any, ...], scaler: GradScaler, shares: Any) -> Any:
    """Divide arrays by the scale of now; returns whether all elements are finite, on all who have shares."""
    recording = graph_recording()
    if recording is not None:
        return unscale(arrays, recording.live(1, lambda: (1.0 / scaler._scale,)))
    finite = unscale(arrays, 1.0 / scaler._scale)
    if shares is None:
        return finite
    return all(np.concatenate(shares.exchange(np.array([bool(finite)]))))  # each rank has looked at its own


@as_one_call()
def _scale_of(scaler: GradScaler, dtype: np.dtype) -> np.ndarray:
    """The scale of now, as an array without axes."""
    return np.asarray(scaler._scale, dtype)


class GradScaler:
    """Multiplies the loss by a scale that is as large as gradients bear, and divides gradients by it.

    ::

        scaler = dg.amp.GradScaler()
        with dg.autocast("cuda", dtype=dg.float16):
            loss = criterion(model(x), y)
        scaler.scale(loss).backward()
        scaler.unscale_(optimizer)          # only where gradients are clipped or looked at
        scaler.step(optimizer)
        scaler.update()

    A step whose gradients hold an infinity or NaN is left out, and the scale shrinks; after
    ``growth_interval`` steps without one it grows. Where ranks train together each looks at the reduced
    gradients, which an infinity of any rank has reached and which are the same on all: so all leave out the
    same steps and keep the same scale, with no message of its own, except where ranks own parts of the
    gradients. On a GPU ``step`` waits for that answer.

    Args:
        device: where the losses lie; kept for PyTorch's signature, as tensors know it themselves.
        init_scale: the first scale.
        growth_factor: what the scale grows by, above 1.
        backoff_factor: what it shrinks by, below 1.
        growth_interval: steps without overflow after which it grows.
        enabled: False does nothing at all, and ``step`` calls the optimizer's.

    Source: Micikevicius et al., ICLR 2018.
    """

    def __init__(
        self,
        device: str = "cuda",
        init_scale: float = 2.0**16,
        growth_factor: float = 2.0,
        backoff_factor: float = 0.5,
        growth_interval: int = 2000,
        enabled: bool = True,
    ) -> None:
        if not growth_factor > 1.0:
            raise OptionError(f"GradScaler: growth_factor must be above 1, got {growth_factor}")
        if not 0.0 < backoff_factor < 1.0:
            raise OptionError(f"GradScaler: backoff_factor must lie between 0 and 1, got {backoff_factor}")
        self.device = device
        self._enabled = enabled
        self._scale = float(init_scale)
        self._growth_factor = growth_factor
        self._backoff_factor = backoff_factor
        self._growth_interval = growth_interval
        self._growth_tracker = 0
        self._finite: dict[Optimizer, Any] = {}  # unscaled in this step, and whether all was finite
        self._stepped: dict[Optimizer, bool] = {}  # taken a step, or left it out

    # -- a step

    def scale(self, outputs: Any) -> Any:
        """A loss times the scale, or each of a list or tuple of them.

        Args:
            outputs: a tensor, or a list or tuple of tensors.
        """
        if not self._enabled:
            return outputs
        recording = graph_recording()
        if isinstance(outputs, Tensor) and recording is not None:
            live = recording.live(1, lambda: (self._scale,))
            return outputs * Tensor(live.reshape(()).astype(outputs.dtype))
        if isinstance(outputs, Tensor):
            return outputs * (_scale_of(self, outputs.dtype) if at_hand(outputs) else self._scale)
        if isinstance(outputs, list | tuple):
            return type(outputs)(self.scale(each) for each in outputs)
        raise TypeError(f"GradScaler.scale: outputs must be tensors, got {type(outputs).__name__}")

    def unscale_(self, optimizer: Optimizer) -> None:
        """Divide the gradients by the scale, in place, and see whether they are finite.

        Args:
            optimizer: whose parameters' gradients.

        Raises:
            GraphError: called twice in a step, or after ``step``.
        """
        if not self._enabled:
            return
        if optimizer in self._finite or optimizer in self._stepped:
            when = "after step()" if optimizer in self._stepped else "already"
            raise GraphError(f"GradScaler.unscale_: called {when} since the last update(); call it once")
        parameters = [parameter for group in optimizer.param_groups for parameter in group["params"]]
        arrays = tuple(gradient_arrays(parameters, "unscale_"))
        _, _, shares = gradient_pieces(parameters)
        self._saw(optimizer, _unscale(arrays, self, shares) if arrays or shares is not None else True)

    @effect
    def _saw(self, optimizer: Optimizer, finite: Any) -> None:
        self._finite[optimizer] = finite

    @effect
    def _decide(self, optimizer: Optimizer) -> Any:
        """Whether an optimizer steps, which is known from here on."""
        self._stepped[optimizer] = finite = self._finite.pop(optimizer)
        return finite

    def step(self, optimizer: Optimizer, *args: Any, **kwargs: Any) -> Any:
        """Let the optimizer step if its gradients are finite.

        Args:
            optimizer: steps or not.
            *args, **kwargs: for its ``step``, which must not take a closure.

        Returns:
            What its ``step`` returned; None where it was left out.

        Raises:
            GraphError: called twice since the last ``update``.
        """
        if not self._enabled:
            return optimizer.step(*args, **kwargs)
        if "closure" in kwargs or args:
            raise OptionError("GradScaler.step: a closure computes gradients of another scale; pass none")
        if optimizer in self._stepped:
            raise GraphError("GradScaler.step: called already since the last update(); call it once")
        if optimizer not in self._finite:
            self.unscale_(optimizer)
        recording = graph_recording()
        if recording is not None:
            self._stepped[optimizer] = True

            def tell(is_finite: bool) -> None:
                self._stepped[optimizer] = is_finite

            return recording.branch(self._finite.pop(optimizer), tell, lambda: optimizer.step(**kwargs))
        return branch(self._decide(optimizer), lambda: optimizer.step(**kwargs))

    @effect
    def update(self, new_scale: float | None = None) -> None:
        """End a step: let the scale grow or shrink.

        Args:
            new_scale: the scale from now on, instead.

        Raises:
            GraphError: no optimizer has stepped or been unscaled since the last one.
        """
        if not self._enabled:
            return
        recording = graph_recording()
        if recording is not None:  # done by every replay, when it knows the outcomes
            self._stepped, self._finite = {}, {}
            recording.effect(lambda: self.update(new_scale))
            return
        outcomes = [bool(finite) for finite in (*self._stepped.values(), *self._finite.values())]
        self._stepped, self._finite = {}, {}
        self._settle(outcomes, new_scale)

    def _settle(self, outcomes: list[bool], new_scale: float | None) -> None:
        """Let the scale grow or shrink behind a step, by whether each optimizer's gradients were finite."""
        if new_scale is not None:
            self._scale = float(new_scale)
            return
        if not outcomes:
            raise GraphError("GradScaler.update: no step since the last update(); call step() first")
        if not all(outcomes):
            self._scale *= self._backoff_factor
            self._growth_tracker = 0
            return
        self._growth_tracker += 1
        if self._growth_tracker == self._growth_interval:
            grown = self._scale * self._growth_factor
            if math.isfinite(np.float32(grown)):
                self._scale = grown
            self._growth_tracker = 0

    # -- what it knows

    def is_enabled(self) -> bool:
        """Whether it does anything."""
        return self._enabled

    def get_scale(self) -> float:
        """The scale; 1 if it is not enabled."""
        return self._scale if self._enabled else 1.0

    def get_growth_factor(self) -> float:
        """What the scale grows by."""
        return self._growth_factor

    def set_growth_factor(self, new_factor: float) -> None:
        """Let the scale grow by another factor."""
        self._growth_factor = new_factor

    def get_backoff_factor(self) -> float:
        """What the scale shrinks by."""
        return self._backoff_factor

    def set_backoff_factor(self, new_factor: float) -> None:
        """Let the scale shrink by another factor."""
        self._backoff_factor = new_factor

    def get_growth_interval(self) -> int:
        """Steps without overflow after which the scale grows."""
        return self._growth_interval

    def set_growth_interval(self, new_interval: int) -> None:
        """Let the scale grow after another number of steps."""
        self._growth_interval = new_interval

    def state_dict(self) -> dict[str, Any]:
        """PyTorch's entries; empty if it is not enabled."""
        if not self._enabled:
            return {}
        return {
            "scale": self._scale,
            "growth_factor": self._growth_factor,
            "backoff_factor": self._backoff_factor,
            "growth_interval": self._growth_interval,
            "_growth_tracker": self._growth_tracker,
        }

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Go on from what :meth:`state_dict` gave.

        Raises:
            OptionError: it was of a scaler that is not enabled.
        """
        if not self._enabled:
            return
        if not state_dict:
            raise OptionError("GradScaler.load_state_dict: it is the state of one not enabled; leave it out")
        self._scale = float(state_dict["scale"])
        self._growth_factor = state_dict["growth_factor"]
        self._backoff_factor = state_dict["backoff_factor"]
        self._growth_interval = state_dict["growth_interval"]
        self._growth_tracker = state_dict["_growth_tracker"]
