"""The array class whose computations are recorded: it shares its memory with a plain array.

Results are computed by NumPy on the plain arrays, so that a recorded step gives what an eager one does.
"""

from __future__ import annotations

import operator
from typing import Any

import numpy as np

from distgrad.backend.array_module import register_host_array
from distgrad.backend.recording import here
from distgrad.replay.calls import LiveFloat, mapped

__all__ = ["Traced", "plain", "plain_tree"]


def plain(x: Any) -> Any:
    """The plain array of a traced one; anything else as it is."""
    if x.__class__ is not Traced:
        return x
    found = x.__dict__["plain"]
    return np.ndarray.view(x, np.ndarray) if found is None else found  # None: NumPy made it of another


def plain_tree(tree: Any) -> Any:
    """A nested structure with plain arrays in the places of traced ones."""
    return mapped(tree, _plain_end)


def _plain_end(x: Any) -> Any:
    return float(x) if x.__class__ is LiveFloat else plain(x)  # only Python's own take an array's dtype


def _set(x: np.ndarray, key: Any, value: Any) -> None:
    x[key] = value


def _get(x: np.ndarray, key: Any) -> Any:
    return x[key]


class Traced(np.ndarray):
    """An array that tells this thread's recorder what is computed with it; without one it computes alone."""

    @property
    def base(self) -> Any:
        """Whose memory it is, as the plain array has it."""
        x = plain(self)
        return x if x.base is None else x.base

    def __array_finalize__(self, other: Any) -> None:
        """Such an array may also be made by NumPy, of another."""
        self.__dict__.setdefault("plain", None)

    def __array_ufunc__(self, ufunc: Any, method: str, *inputs: Any, **kwargs: Any) -> Any:
        recorder: Any = here.listener
        if recorder is None:
            return getattr(ufunc, method)(*plain_tree(inputs), **plain_tree(kwargs))
        return recorder.ufunc(ufunc, method, inputs, kwargs)

    def __array_function__(self, function: Any, types: Any, args: Any, kwargs: Any) -> Any:
        recorder: Any = here.listener
        if recorder is None:
            return function(*plain_tree(args), **plain_tree(kwargs))
        return recorder.function(function, args, kwargs)

    def __getitem__(self, key: Any) -> Any:
        return _call(_get, self, (key,), {})

    def __setitem__(self, key: Any, value: Any) -> None:
        _change(_set, self, (key, value), {})

    def __pow__(self, other: Any) -> Any:  # type: ignore[override]
        return _power(operator.pow, self, other)

    def __rpow__(self, other: Any) -> Any:  # type: ignore[override]
        return _power(lambda x, y: operator.pow(y, x), self, other)

    def __bool__(self) -> bool:
        return bool(_look(self, bool))

    def __int__(self) -> int:
        return int(_look(self, int))

    def __index__(self) -> int:
        return int(_look(self, operator.index))

    def __float__(self) -> float:
        return float(_look(self, float))

    def __complex__(self) -> complex:
        return complex(_look(self, complex))

    def __iter__(self) -> Any:
        return iter([self[i] for i in range(len(self))])

    def __contains__(self, value: Any) -> bool:
        return bool((self == value).any())

    def item(self, *args: Any) -> Any:
        """One element, which is looked at."""
        return _look(self, lambda x: x.item(*args))

    def tolist(self) -> Any:
        """All elements, which are looked at."""
        return _look(self, np.ndarray.tolist)

    def tobytes(self, order: Any = "C") -> bytes:
        """All elements, which are looked at."""
        return bytes(_look(self, lambda x: x.tobytes(order)))

    def fill(self, value: Any) -> None:
        """Set all elements."""
        _change(np.ndarray.fill, self, (value,), {})


def _look(x: Any, kind: Any) -> Any:
    recorder: Any = here.listener
    return kind(plain(x)) if recorder is None else recorder.look(x, kind)


def _call(function: Any, x: Any, args: Any, kwargs: Any) -> Any:
    recorder: Any = here.listener
    if recorder is None:
        return function(plain(x), *plain_tree(args), **plain_tree(kwargs))
    return recorder.call(function, (x, *args), kwargs)


def _change(function: Any, x: Any, args: Any, kwargs: Any) -> None:
    recorder: Any = here.listener
    if recorder is None:
        function(plain(x), *plain_tree(args), **plain_tree(kwargs))
    else:
        recorder.change(function, (x, *args), kwargs, (x,))


def _power(function: Any, x: Any, other: Any) -> Any:
    """NumPy has shortcuts for arrays (squares), and other ones for its scalars."""
    recorder: Any = here.listener
    if recorder is None:
        return function(plain(x), plain(other))
    return recorder.power(function, x, other)


def _method(name: str, changes: bool = False) -> Any:
    function = getattr(np.ndarray, name)

    def method(self: Any, *args: Any, **kwargs: Any) -> Any:
        return (_change if changes else _call)(function, self, args, kwargs)

    method.__name__ = name
    method.__doc__ = f"As NumPy's ``{name}``, recorded."
    return method


for _name in (
    *("argmax", "argmin", "argpartition", "argsort", "astype", "choose", "compress", "conj", "conjugate"),
    *("copy", "cumprod", "cumsum", "diagonal", "dot", "flatten", "nonzero", "ravel", "repeat", "reshape"),
    *("round", "searchsorted", "squeeze", "swapaxes", "take", "trace", "transpose", "var", "std", "view"),
    *("byteswap", "clip", "mean"),
):
    setattr(Traced, _name, _method(_name))


def _reduction(name: str, ufunc: np.ufunc) -> Any:
    """What NumPy's method is: a reduction, of all axes unless it is told some."""

    def method(self: Any, axis: Any = None, dtype: Any = None, out: Any = None, **options: Any) -> Any:
        if name in ("max", "min"):  # which take no dtype
            dtype, out = None, dtype if out is None else out
        options |= {"axis": axis} | ({} if dtype is None else {"dtype": dtype})
        return self.__array_ufunc__(ufunc, "reduce", self, **options, out=None if out is None else (out,))

    method.__name__ = name
    method.__doc__ = f"As NumPy's ``{name}``, recorded."
    return method


for _name, _ufunc in (
    *(("sum", np.add), ("prod", np.multiply), ("max", np.maximum), ("min", np.minimum)),
    *(("any", np.logical_or), ("all", np.logical_and)),
):
    setattr(Traced, _name, _reduction(_name, _ufunc))
for _name in ("itemset", "partition", "put", "resize", "setfield", "sort"):
    if hasattr(np.ndarray, _name):
        setattr(Traced, _name, _method(_name, changes=True))


def _view_property(name: str) -> Any:
    descriptor = getattr(np.ndarray, name)

    def get(self: Any) -> Any:
        recorder: Any = here.listener
        y = descriptor.__get__(plain(self))
        return y if recorder is None else recorder.view(y)

    def put(self: Any, value: Any) -> None:
        get(self)[...] = value

    return property(get, put)


for _name in ("T", "mT", "real", "imag"):
    setattr(Traced, _name, _view_property(_name))

register_host_array(Traced)
