"""Attention by cuDNN in 16 bits: forward, which leaves each query's statistics, and the gradients from them.

Heads may lie within a row, or be parts of one array with others; keys may be shared by queries' heads.
Source: Dao et al., NeurIPS 2022.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, NamedTuple

from distgrad.backend.array_module import ARRAY_MODULES
from distgrad.backend.cudnn import ALIGNED, data_type, plan_for, steps_of
from distgrad.backend.neighbours import as_one

__all__ = ["AttentionSetting", "compute", "takes"]

_MOST_BYTES = 1 << 30  # of workspace
_CHARS = "eE"
_QUERY, _KEY, _VALUE, _Y, _STATISTICS, _G = 1, 2, 3, 4, 5, 6
_BIAS, _KEPT, _ONE, _SAME = 7, 8, 9, 10
_RESULTS = 11  # the gradients' numbers begin there

Sizes = tuple[int, ...]
Layout = tuple[Sizes, Sizes]  # lengths and steps of four axes


class AttentionSetting(NamedTuple):
    """Attention, or its gradients.

    Args:
        char: the dtype's.
        inputs: layouts of query, key and value.
        results: of the result, or of the three gradients.
        given: backward, of the result and its gradient; empty forward.
        bias: shape of what is added to the scores, empty where nothing is.
        has_kept: whether weights are multiplied by an array, as dropout does.
        scale: what products are multiplied by.
        is_causal: whether query i sees keys 0 … i only.
    """

    char: str
    inputs: tuple[Layout, ...]
    results: tuple[Layout, ...]
    given: tuple[Layout, ...]
    bias: Sizes
    has_kept: bool
    scale: float
    is_causal: bool

    @property
    def exact(self) -> bool:
        """No: the tensor cores multiply, and add in float32."""
        return False

    @property
    def most_bytes(self) -> int:
        """Of workspace."""
        return _MOST_BYTES

    def declare(self, library: Any, graph: Any) -> None:
        """Enter the operation."""
        kind, wide = data_type(library, self.char), library.data_type.FLOAT
        (batch, heads, rows, _), columns = self.inputs[0][0], self.inputs[1][0][2]
        statistics = (batch, heads, rows, 1)

        def tensor(number: int, layout: Layout, kind: Any = kind) -> Any:
            return graph.tensor(dim=list(layout[0]), stride=list(layout[1]), data_type=kind, uid=number)

        def in_order(number: int, shape: Sizes, kind: Any) -> Any:
            return tensor(number, (shape, tuple(steps_of(shape))), kind)

        query, key, value = (tensor(_QUERY + i, layout) for i, layout in enumerate(self.inputs))
        how: dict[str, Any] = {"attn_scale": self.scale, "use_causal_mask": self.is_causal}
        if self.bias:
            how["bias"] = in_order(_BIAS, self.bias, wide)
        if self.has_kept:
            ones = [in_order(number, (1, 1, 1, 1), wide) for number in (_ONE, _SAME)[: 1 + bool(self.given)]]
            how["dropout"] = (in_order(_KEPT, (batch, heads, rows, columns), kind), *ones)
        if self.given:
            y, g = (tensor(number, layout) for number, layout in zip((_Y, _G), self.given, strict=True))
            stats, results = in_order(_STATISTICS, statistics, wide), range(_RESULTS, _RESULTS + 3)
            found = graph.sdpa_backward(
                q=query, k=key, v=value, o=y, dO=g, stats=stats, use_deterministic_algorithm=True, **how
            )
        else:
            *found, stats = graph.sdpa(q=query, k=key, v=value, generate_stats=True, **how)
            stats.set_uid(_STATISTICS).set_output(True).set_data_type(wide)
            stats.set_dim(list(statistics)).set_stride(steps_of(statistics))
            results = range(_Y, _Y + 1)
        for number, each, (shape, steps) in zip(results, found, self.results, strict=True):
            each.set_uid(number).set_output(True).set_data_type(kind)
            each.set_dim(list(shape)).set_stride(list(steps))


def _four(shape: Sizes) -> Sizes:
    """With axes in front, up to batch, heads, rows and features."""
    return (*(1,) * (4 - len(shape)), *shape)


def _steps(x: Any) -> Sizes | None:
    """Elements from one to the next along each of the four axes; None where it is to be copied first."""
    whole, shape = math.prod(x.shape), _four(x.shape)
    found = [whole] * (4 - x.ndim) + [step // x.itemsize for step in x.strides]
    steps = tuple(whole if n == 1 else step for n, step in zip(shape, found, strict=True))
    is_even = all(step > 0 and step * x.itemsize % ALIGNED == 0 for step in steps[:-1])
    return steps if is_even and steps[-1] == 1 and x.data.ptr % ALIGNED == 0 else None


def _layout(x: Any) -> Layout:
    """As it lies, or will lie when it is copied."""
    return _four(x.shape), _steps(x) or tuple(steps_of(_four(x.shape)))


def _readable(x: Any) -> Any:
    return x.copy() if _steps(x) is None else x


def _beside(layout: Layout, columns: int) -> Layout:
    """Of an array of ``columns`` features, whose other axes lie in the same order with nothing between."""
    shape = (*layout[0][:-1], columns)
    steps, step = [0, 0, 0, 1], columns
    for axis in sorted((2, 1, 0), key=lambda axis: layout[1][axis]):
        steps[axis], step = step, step * shape[axis]
    return shape, tuple(math.prod(shape) if n == 1 else step for n, step in zip(shape, steps, strict=True))


def _expected(arrays: Sequence[Any]) -> tuple[Layout, ...]:
    """How gradients of query, key and value will lie: as those do, in one array if those are parts of one."""
    layouts = tuple(map(_layout, arrays))
    if as_one(arrays, 0) is not None:
        return layouts
    return tuple(_beside(layout, layout[0][-1]) for layout in layouts)


def _is_fitting(arrays: Sequence[Any]) -> bool:
    """Whether query, key and value are such that the library may be asked."""
    query = arrays[0]
    if query.dtype.char not in _CHARS or not 2 <= query.ndim <= 4 or any(x.size == 0 for x in arrays):
        return False
    if any((x.__class__, x.dtype, x.ndim) != (query.__class__, query.dtype, query.ndim) for x in arrays):
        return False
    (batch, heads, _, features), key, value = (_four(x.shape) for x in arrays)
    return key[:3] == value[:3] and key[0] == batch and heads % key[1] == 0 and key[3] == features


def takes(
    query: Any, key: Any, value: Any, bias: Sizes, kept: bool, scale: float, is_causal: bool, backward: bool
) -> bool:
    """Whether the library computes attention of arrays, and, where ``backward``, its gradients too.

    Args:
        query, key, value: ``[..., heads, rows, features]``; fewer heads of key and value are shared.
        bias: shape of what is added to the scores; empty where nothing is.
        kept: whether weights are multiplied by an array.
        scale, is_causal: as attention has them.
        backward: whether there will be gradients.
    """
    arrays, module = (query, key, value), ARRAY_MODULES.get(query.__class__)
    if module is None or module.__name__ != "cupy" or not _is_fitting(arrays):
        return False
    inputs = tuple(map(_layout, arrays))
    y = _beside(inputs[0], value.shape[-1])
    how = (_four(bias) if bias else (), kept, float(scale), is_causal)
    char = query.dtype.char
    if plan_for(AttentionSetting(char, inputs, (y,), (), *how)) is None:
        return False
    given, results = (y, y), _expected(arrays)
    return not backward or plan_for(AttentionSetting(char, inputs, results, given, *how)) is not None


def compute(
    inputs: Sequence[Any],
    results: Sequence[Any],
    statistics: Any,
    given: Sequence[Any] = (),
    *,
    bias: Any,
    kept: Any,
    scale: float,
    is_causal: bool,
) -> bool:
    """Write the result and its statistics, or from those the gradients.

    Args:
        inputs: query, key and value, as :func:`takes` has them.
        results: the result, or the three gradients; new arrays.
        statistics: logarithms of the queries' sums, float32 ``[..., heads, rows, 1]`` in row order.
        given: the result and its gradient, for the gradients.
        bias: float32, added to the scores; or None.
        kept: of the inputs' dtype, what weights are multiplied by; or None.
        scale, is_causal: as attention has them.

    Returns:
        False where nothing was written, since there is no engine.
    """
    if not _is_fitting(inputs) or any(_steps(x) is None for x in results):
        return False
    char, shape = inputs[0].dtype.char, () if bias is None else _four(bias.shape)
    before, after, beside = (tuple(map(_layout, each)) for each in (inputs, results, given))
    how = (shape, kept is not None, float(scale), is_causal)
    plan = plan_for(AttentionSetting(char, before, after, beside, *how))
    if plan is None:
        return False
    numbers = [_QUERY, _KEY, _VALUE, *([_Y, _G] if given else [])]
    arrays = dict(zip(numbers, map(_readable, (*inputs, *given)), strict=True))
    arrays |= dict(zip(range(_RESULTS, _RESULTS + 3) if given else (_Y,), results, strict=True))
    arrays[_STATISTICS] = statistics
    if bias is not None:
        arrays[_BIAS] = _in_order(bias)
    if kept is not None:
        one = statistics.__class__((1,), statistics.dtype)
        one.fill(1)
        arrays |= {_KEPT: _in_order(kept), _ONE: one, **({_SAME: one} if given else {})}
    plan.run(arrays)
    return True


def _in_order(x: Any) -> Any:
    return x if x.flags.c_contiguous and x.data.ptr % ALIGNED == 0 else x.copy()
