"""Limited-memory BFGS: the inverse Hessian from the last few steps, along a line that may be searched."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping
from typing import Any, NamedTuple

import numpy as np

from distgrad.autograd.modes import enable_grad, no_grad
from distgrad.autograd.parts import are_local, shares_of
from distgrad.autograd.tensor import Tensor
from distgrad.backend.array_module import ARRAY_MODULES, get_array_module
from distgrad.backend.device import Device, to_device, widened
from distgrad.errors import OptionError, ShapeError, StateDictError
from distgrad.optim.optimizer import Optimizer

__all__ = ["LBFGS"]

_SUFFICIENT_DECREASE = 1e-4  # c1 and c2 of the Wolfe conditions, as Nocedal and Wright have them
_CURVATURE = 0.9
_SMALLEST_BRACKET = 1e-9
_LEAST_CURVATURE = 1e-10  # of a pair (s, y): below it the pair says nothing about the Hessian


class _Point(NamedTuple):
    """A place on the search line: how far along, and loss, gradient and the line's slope there."""

    t: float
    loss: float
    g: np.ndarray
    slope: float


class LBFGS(Optimizer):
    """Quasi-Newton descent: ``p = p + t d`` with ``d = −H g`` and H from the last ``history_size`` steps.

    A step calls the closure several times. On several ranks the closure must return the same loss on each
    of them (the mean over the ranks, say), because the loss decides how often it is called.

    Args:
        params: parameters; one group.
        lr: the length t of a step, or the first one tried if the line is searched; the very first step is
            shorter, ``min(1, 1 / Σ|g|)`` of it.
        max_iter: iterations a step.
        max_eval: calls of the closure a step (default: ``max_iter * 5 // 4``).
        tolerance_grad: the step ends once no gradient is larger.
        tolerance_change: the step ends once loss or parameters change by less.
        history_size: how many steps H remembers.
        line_search_fn: ``"strong_wolfe"``, or None for steps of length ``lr``.
        maximize: go up instead of down.

    Source: Liu and Nocedal, Mathematical Programming 1989; the line search is algorithm 3.5 of Nocedal and
    Wright, Numerical Optimization, 2006, with cubic interpolation safeguarded as in Schmidt's minFunc, 2005.
    """

    elementwise = False

    def __init__(
        self,
        params: Iterable[Any],
        lr: float = 1,
        max_iter: int = 20,
        max_eval: int | None = None,
        tolerance_grad: float = 1e-7,
        tolerance_change: float = 1e-9,
        history_size: int = 100,
        line_search_fn: str | None = None,
        *,
        maximize: bool = False,
    ) -> None:
        super().__init__(
            params,
            {
                "lr": lr,
                "max_iter": max_iter,
                "max_eval": max_iter * 5 // 4 if max_eval is None else max_eval,
                "tolerance_grad": tolerance_grad,
                "tolerance_change": tolerance_change,
                "history_size": history_size,
                "line_search_fn": line_search_fn,
                "maximize": maximize,
            },
        )
        self._memory: dict[str, Any] = {}

    def add_param_group(self, param_group: dict[str, Any]) -> None:
        """Take the parameters; there is one group.

        Args:
            param_group: ``params`` and options.

        Raises:
            ValueError: a second group.
        """
        if self.param_groups:
            raise ValueError("LBFGS: expected one group of parameters, got a second; pass them in one list")
        super().add_param_group(param_group)
        dtypes = sorted({str(parameter.dtype) for parameter in self.param_groups[0]["params"]})
        if len(dtypes) > 1:
            raise ValueError(
                f"LBFGS: expected parameters of one dtype, got {', '.join(dtypes)}; convert some"
            )

    def check_options(self, group: dict[str, Any]) -> None:
        """Refuse options outside their range."""
        super().check_options(group)
        if group["line_search_fn"] not in (None, "strong_wolfe"):
            raise OptionError(
                f"LBFGS: line_search_fn must be 'strong_wolfe' or None, got {group['line_search_fn']!r}"
            )

    def step(self, closure: Callable[[], Any] | None = None) -> Any:
        """Take up to ``max_iter`` quasi-Newton iterations.

        Args:
            closure: clears the gradients, computes the loss and its gradients and returns the loss.

        Returns:
            What ``closure`` returned first, before any change.

        Raises:
            ValueError: there is no closure.
        """
        if closure is None:
            raise ValueError("LBFGS: step needs a closure that computes the loss and its gradients anew")
        shares = map(shares_of, self.param_groups[0]["params"])
        if any(each is not None and each.masters is not None for each in shares):
            raise OptionError(
                "LBFGS: it looks for a minimum along lines of whole parameters as they lie, and with "
                "param_dtype or offload each rank updates a copy of its part; leave it out"
            )
        with no_grad():
            first = _call(closure)
            memory = self._memory
            memory["func_evals"] = memory.get("func_evals", 0) + 1
            g = self._gradient()
            if not _largest(g) <= self.param_groups[0]["tolerance_grad"]:
                self._iterate(closure, self._sign * float(first), g)
        return first

    def _iterate(self, closure: Callable[[], Any], loss: float, g: np.ndarray) -> None:
        options, memory = self.param_groups[0], self._memory
        evaluations = 1
        for iteration in range(1, options["max_iter"] + 1):
            memory["n_iter"] = memory.get("n_iter", 0) + 1
            d = self._direction(g)
            t = options["lr"] * (min(1.0, 1.0 / float(abs(g).sum())) if memory["n_iter"] == 1 else 1.0)
            slope, before = float(g @ d), loss
            memory |= {"prev_flat_grad": g, "prev_loss": loss, "d": d, "t": t}
            if slope > -options["tolerance_change"]:
                return
            last = iteration == options["max_iter"]
            calls = 0
            if options["line_search_fn"] is not None:
                point, calls = self._search(
                    closure, _Point(0.0, loss, g, slope), t, d, options["max_eval"] - evaluations
                )
                t, loss, g = point.t, point.loss, point.g
            else:
                self._move(self._values(), t, d)
                if not last:
                    loss, g, calls = self._loss(closure), self._gradient(), 1
            memory["t"] = t
            evaluations += calls
            memory["func_evals"] += calls
            if (
                last
                or evaluations >= options["max_eval"]
                or _largest(g) <= options["tolerance_grad"]
                or _largest(t * d) <= options["tolerance_change"]
                or abs(loss - before) < options["tolerance_change"]
            ):
                return

    def _direction(self, g: np.ndarray) -> np.ndarray:
        """``−H g`` by the two-loop recursion, after the last step has joined the history."""
        memory = self._memory
        if memory["n_iter"] == 1:
            memory |= {"old_dirs": [], "old_stps": [], "ro": [], "H_diag": 1.0}
            return -g
        changes, steps, inverses = memory["old_dirs"], memory["old_stps"], memory["ro"]
        y, s = g - memory["prev_flat_grad"], memory["t"] * memory["d"]
        curvature = float(y @ s)
        if curvature > _LEAST_CURVATURE:
            for history, value in ((changes, y), (steps, s), (inverses, 1.0 / curvature)):
                history.append(value)
                del history[: -self.param_groups[0]["history_size"]]
            memory["H_diag"] = curvature / float(y @ y)
        d = -g
        shares = []
        for y, s, inverse in zip(reversed(changes), reversed(steps), reversed(inverses), strict=True):
            shares.append(inverse * float(s @ d))
            d -= shares[-1] * y
        d *= memory["H_diag"]
        for y, s, inverse, share in zip(changes, steps, inverses, reversed(shares), strict=True):
            d += (share - inverse * float(y @ d)) * s
        return d

    def _search(
        self, closure: Callable[[], Any], start: _Point, t: float, d: np.ndarray, max_trials: int
    ) -> tuple[_Point, int]:
        """Move to a point that meets the strong Wolfe conditions; the point, and the calls it took."""
        values = self._values()

        def evaluate(t: float) -> _Point:
            self._move(values, t, d)
            loss, g = self._loss(closure), self._gradient()
            return _Point(t, loss, g, float(g @ d))

        point, calls = _strong_wolfe(evaluate, start, t, _largest(d), max_trials)
        self._move(values, point.t, d)
        return point, calls

    @property
    def _sign(self) -> float:
        """What turns the user's loss into one to go down."""
        return -1.0 if self.param_groups[0]["maximize"] else 1.0

    def _loss(self, closure: Callable[[], Any]) -> float:
        return self._sign * float(_call(closure))

    def _gradient(self) -> np.ndarray:
        """All gradients of that loss in one vector; zeros for a parameter without."""
        parameters = self.param_groups[0]["params"]
        for shares in self._find_shared():
            shares.gather_gradients()
        xp = get_array_module(parameters[0]._data)
        (gradient,) = widened(
            xp.concat(
                [(xp.zeros_like(p._data) if p.grad is None else p.grad._data).ravel() for p in parameters]
            )
        )
        return gradient if self._sign > 0 else -gradient

    def _values(self) -> np.ndarray:
        arrays = [p._data for p in self.param_groups[0]["params"]]
        return widened(get_array_module(arrays[0]).concat([array.ravel() for array in arrays]))[0]

    def _move(self, values: np.ndarray, t: float, d: np.ndarray) -> None:
        """Set the parameters to ``values + t d``."""
        values = values + t * d
        start = 0
        for parameter in self.param_groups[0]["params"]:
            parameter._data[...] = values[start : start + parameter.size].reshape(parameter.shape)
            parameter.changed("LBFGS.step")
            start += parameter.size

    @property
    def state(self) -> defaultdict[Tensor, dict[str, Any]]:
        """The history, which stands under the first parameter."""
        state: defaultdict[Tensor, dict[str, Any]] = defaultdict(dict)
        if self._memory:
            state[self.param_groups[0]["params"][0]] = self._memory
        return state

    @state.setter
    def state(self, value: Mapping[Any, dict[str, Any]]) -> None:
        self._memory = dict(value.get(self.param_groups[0]["params"][0], {}))

    @property
    def is_sharded(self) -> bool:
        """No: every rank has all of the history."""
        return False

    def state_dict(self, *, rank0_only: bool = False, sharded: bool = False) -> dict[str, Any]:
        """Options and history as PyTorch lays them out, under the number of the first parameter.

        Args:
            rank0_only, sharded: only False, as every rank has all of the history.
        """
        if rank0_only or sharded:
            raise OptionError(
                "LBFGS.state_dict: every rank has all of the history, whoever owns the parameters; leave "
                "rank0_only and sharded out"
            )
        memory = {
            name: list(value)
            if isinstance(value, list)
            else value.copy()
            if name in ("d", "prev_flat_grad") and not are_local()
            else value
            for name, value in self._memory.items()
        }
        return {**super().state_dict(), "state": {0: memory} if memory else {}}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Take over what :meth:`state_dict` returned; nothing is changed if it does not fit.

        Raises:
            StateDictError: parameters that differ in number.
            ShapeError: a history of parameters of another size.
        """
        memory = dict(state_dict["state"].get(0, {}))
        size = sum(parameter.size for parameter in self.param_groups[0]["params"])
        names = ("d", "prev_flat_grad", "old_dirs", "old_stps")
        missing = [name for name in names if "n_iter" in memory and name not in memory]
        if missing:
            raise StateDictError(f"load_state_dict: the state of LBFGS lacks {missing}")
        for name in names if "n_iter" in memory else ():
            vectors = memory[name] if isinstance(memory[name], list) else [memory[name]]
            vectors = [_vector(vector, self.param_groups[0]["params"][0].device) for vector in vectors]
            wrong = [vector.shape for vector in vectors if vector.shape != (size,)]
            if wrong:
                raise ShapeError(f"load_state_dict: {name} is {list(wrong[0])}, expected [{size}]")
            memory[name] = vectors if isinstance(memory[name], list) else vectors[0]
        # The history is one vector in the parameters' order, which names alone would not keep.
        groups = [
            {k: v for k, v in each.items() if k != "param_names"} for each in state_dict["param_groups"]
        ]
        super().load_state_dict({"state": {}, "param_groups": groups})
        self._memory = {k: list(v) if isinstance(v, list) else v for k, v in memory.items()}


def _call(closure: Callable[[], Any]) -> Any:
    with enable_grad():
        return closure()


def _largest(vector: np.ndarray) -> float:
    return float(abs(vector).max()) if vector.size else 0.0


def _vector(value: Any, device: Device) -> Any:
    """A copy of a saved array, on a device."""
    array: Any = value._data if isinstance(value, Tensor) else value
    array = array if array.__class__ in ARRAY_MODULES else np.asarray(array)
    return to_device(array.copy(), device)


def _strong_wolfe(
    evaluate: Callable[[float], _Point], start: _Point, t: float, size: float, max_trials: int
) -> tuple[_Point, int]:
    """Search for a point with ``f ≤ f₀ + c₁ t f₀'`` and ``|f'| ≤ −c₂ f₀'``.

    Args:
        evaluate: the point at t.
        start: the point at 0, with a negative slope.
        t: the first to try.
        size: largest element of the direction, so that brackets are measured in the parameters' own size.
        max_trials: how many points may be tried after the first.

    Returns:
        The point, the best of the last bracket if the trials run out, and how many points were evaluated.
    """

    def too_high(point: _Point) -> bool:
        return point.loss > start.loss + _SUFFICIENT_DECREASE * point.t * start.slope

    def flat_enough(point: _Point) -> bool:
        return abs(point.slope) <= -_CURVATURE * start.slope

    previous, point = start, evaluate(t)
    for trial in range(max_trials):
        if too_high(point) or (trial > 1 and point.loss >= previous.loss):
            return _zoom(evaluate, too_high, flat_enough, previous, point, trial, size, max_trials)
        if flat_enough(point):
            return point, trial + 1
        if point.slope >= 0:
            return _zoom(evaluate, too_high, flat_enough, previous, point, trial, size, max_trials)
        nearest, farthest = point.t + 0.01 * (point.t - previous.t), 10 * point.t
        t = _interpolate(previous, point, nearest, farthest)
        previous, point = point, evaluate(t)
    return (start if start.loss <= point.loss else point), max_trials + 1


def _zoom(
    evaluate: Callable[[float], _Point],
    too_high: Callable[[_Point], bool],
    flat_enough: Callable[[_Point], bool],
    a: _Point,
    b: _Point,
    trial: int,
    size: float,
    max_trials: int,
) -> tuple[_Point, int]:
    """Narrow the bracket (a, b), which holds a point that meets the conditions, down to one."""
    low, high = (a, b) if a.loss <= b.loss else (b, a)
    near_an_end = False  # the last trial lay there: a second one there is moved inwards
    while trial < max_trials and abs(high.t - low.t) * size >= _SMALLEST_BRACKET:
        left, right = sorted((low.t, high.t))
        t = _interpolate(low, high, left, right)
        margin = 0.1 * (right - left)
        if min(right - t, t - left) < margin:
            if near_an_end or t >= right or t <= left:
                t = right - margin if abs(t - right) < abs(t - left) else left + margin
                near_an_end = False
            else:
                near_an_end = True
        else:
            near_an_end = False
        point = evaluate(t)
        trial += 1
        if too_high(point) or point.loss >= low.loss:
            low, high = (low, point) if low.loss <= point.loss else (point, low)
        elif flat_enough(point):
            return point, trial + 1
        else:
            if point.slope * (high.t - low.t) >= 0:
                high = low
            low = point
    return low, trial + 1


def _interpolate(a: _Point, b: _Point, lowest: float, highest: float) -> float:
    """Where the cubic through both points, with their slopes, has its minimum, within the limits."""
    if a.t > b.t:
        a, b = b, a
    if a.t == b.t:
        return (lowest + highest) / 2.0
    d1 = a.slope + b.slope - 3.0 * (a.loss - b.loss) / (a.t - b.t)
    square = d1 * d1 - a.slope * b.slope
    if not square >= 0.0:  # no minimum, or numbers that overflowed
        return (lowest + highest) / 2.0
    d2 = math.sqrt(square)
    width = b.slope - a.slope + 2.0 * d2
    if width == 0.0:
        return (lowest + highest) / 2.0
    return min(max(b.t - (b.t - a.t) * (b.slope + d2 - d1) / width, lowest), highest)
