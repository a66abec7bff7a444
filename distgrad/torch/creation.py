"""Functions of ``torch`` that make tensors."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from distgrad.autograd import creation, random
from distgrad.autograd.casting import DEFAULTS
from distgrad.autograd.dispatch import operations as ops
from distgrad.autograd.layouts import numbers, resized
from distgrad.autograd.meanings import kind
from distgrad.autograd.tensor import Tensor
from distgrad.errors import OptionError

__all__ = [
    "arange", "as_tensor", "asarray", "empty", "empty_like", "empty_strided", "eye", "from_dlpack",
    "from_numpy", "frombuffer", "full", "full_like", "linspace", "logspace", "normal", "ones",
    "ones_like", "rand", "rand_like", "randint", "randint_like", "randn", "randn_like", "randperm",
    "range", "scalar_tensor", "tensor", "tril_indices", "triu_indices", "unravel_index", "zeros",
    "zeros_like",
]  # fmt: skip

_IGNORED = ("layout", "pin_memory", "memory_format", "names")


def _options(options: dict[str, Any], where: str) -> dict[str, Any]:
    """Options in our words; layouts and pinned memory change nothing that is computed."""
    out = options.pop("out", None)
    for name in _IGNORED:
        options.pop(name, None)
    unknown = set(options) - {"dtype", "device", "requires_grad", "generator"}
    if unknown:
        raise TypeError(f"{where}: unexpected keyword {sorted(unknown)[0]!r}")
    if options.get("dtype") is not None:
        options["dtype"] = kind(options["dtype"])
    if isinstance(options.get("device"), int):
        options["device"] = f"cuda:{options['device']}"
    return {"out": out, **options}


def _finish(result: Tensor, out: Tensor | None) -> Tensor:
    if out is None:
        return result
    out = resized(out, result.shape) if out.shape != result.shape else out
    out._data[...] = result._data
    out.changed("out=")
    return out


def _sized(name: str, make: Callable[..., Tensor]) -> Callable[..., Tensor]:
    """A function of lengths, given one at a time or as one sequence."""

    def create(*size: Any, **options: Any) -> Tensor:
        if not options and size:
            return make(numbers(size))
        size = size or (options.pop("size"),)
        given = _options(options, name)
        out = given.pop("out")
        return _finish(make(numbers(size), **given), out)

    create.__name__ = create.__qualname__ = name
    create.__doc__ = make.__doc__
    return create


zeros = _sized("zeros", creation.zeros)
ones = _sized("ones", creation.ones)
empty = _sized("empty", creation.empty)
rand = _sized("rand", random.rand)
randn = _sized("randn", random.randn)


def full(size: Any, fill_value: Any, **options: Any) -> Tensor:
    """A tensor of one number."""
    given = _options(options, "full")
    out = given.pop("out")
    return _finish(creation.full(numbers((size,)), getattr(fill_value, "_data", fill_value), **given), out)


def empty_strided(size: Any, stride: Any, **options: Any) -> Tensor:
    """A tensor of that shape; its elements lie in row order."""
    return empty(size, **options)


def _like(name: str, make: Callable[..., Tensor]) -> Callable[..., Tensor]:
    def create(input: Tensor, *args: Any, **options: Any) -> Tensor:
        given = _options(options, name)
        out = given.pop("out")
        return _finish(make(input, *args, **given), out)

    create.__name__ = create.__qualname__ = name
    create.__doc__ = make.__doc__
    return create


def _random_like(make: Callable[..., Tensor]) -> Callable[..., Tensor]:
    def create(x: Tensor, **options: Any) -> Tensor:
        dtype, device = options.pop("dtype", None), options.pop("device", None)
        return make(x.shape, dtype=dtype or x.dtype, device=device or x.device, **options)

    return create


zeros_like = _like("zeros_like", creation.zeros_like)
ones_like = _like("ones_like", creation.ones_like)
empty_like = _like("empty_like", creation.empty_like)
full_like = _like("full_like", creation.full_like)
rand_like = _like("rand_like", _random_like(random.rand))
randn_like = _like("randn_like", _random_like(random.randn))


def tensor(
    data: Any, *, dtype: Any = None, device: Any = None, requires_grad: bool = False, pin_memory: bool = False
) -> Tensor:
    """A tensor with a copy of the data."""
    given = _options({"dtype": dtype, "device": device, "requires_grad": requires_grad}, "tensor")
    given.pop("out")
    return creation.tensor(data, **given)


def as_tensor(data: Any, dtype: Any = None, device: Any = None) -> Tensor:
    """A tensor of the data, in the same memory where that is possible."""
    given = _options({"dtype": dtype, "device": device}, "as_tensor")
    given.pop("out")
    return creation.asarray(data, **given)


def asarray(
    obj: Any, *, dtype: Any = None, device: Any = None, copy: Any = None, requires_grad: bool = False
) -> Tensor:
    """As :func:`as_tensor`; ``copy`` says whether it must, or must not, be one."""
    out = creation.asarray(obj, dtype=kind(dtype), device=device, copy=copy)
    return out.requires_grad_() if requires_grad else out


def from_numpy(ndarray: np.ndarray) -> Tensor:
    """A tensor over the array's memory.

    Raises:
        TypeError: no array.
    """
    if not isinstance(ndarray, np.ndarray):
        raise TypeError(f"from_numpy: expected a NumPy array, got {type(ndarray).__name__}")
    return Tensor(np.asarray(ndarray))


from_dlpack = creation.from_dlpack


def frombuffer(
    buffer: Any, *, dtype: Any, count: int = -1, offset: int = 0, requires_grad: bool = False
) -> Tensor:
    """A tensor over a buffer's memory."""
    return Tensor(np.frombuffer(buffer, kind(dtype), count, offset), requires_grad)


def scalar_tensor(value: Any, **options: Any) -> Tensor:
    """A tensor without axes, float32 unless said otherwise."""
    return full((), value, **{"dtype": DEFAULTS[float], **options})


def _value(x: Any) -> Any:
    return x.item() if isinstance(x, Tensor) else x


def arange(*args: Any, **options: Any) -> Tensor:
    """Numbers from ``start`` up to, and without, ``end``: ``arange(end)``, ``arange(start, end, step)``."""
    given = _options(options | {}, "arange") if not {"start", "end", "step"} & set(options) else None
    if given is None:
        named = {key: options.pop(key) for key in ("start", "end", "step") if key in options}
        given = _options(options, "arange")
        args = (*args, *[named[key] for key in ("start", "end", "step") if key in named])
    out = given.pop("out")
    if not 1 <= len(args) <= 3:
        raise TypeError(f"arange: expected one to three numbers, got {len(args)}")
    numbers = [_value(each) for each in args]
    if len(numbers) > 1 and (numbers[1] - numbers[0]) * (numbers[2] if len(numbers) > 2 else 1) < 0:
        raise OptionError(f"arange: the end lies behind the start, in the steps' direction: got {numbers}")
    return _finish(creation.arange(*numbers, **given), out)


def range(start: float, end: float | None = None, step: float = 1, **options: Any) -> Tensor:
    """Numbers from ``start`` up to, and with, ``end``."""
    first, last = (0, start) if end is None else (start, end)
    options.setdefault("dtype", DEFAULTS[float])
    return arange(first, last + step / 2, step, **options)


def linspace(start: Any, end: Any, steps: int, **options: Any) -> Tensor:
    """``steps`` numbers at equal distances from ``start`` to ``end``."""
    given = _options(options, "linspace")
    out = given.pop("out")
    return _finish(creation.linspace(_value(start), _value(end), _value(steps), **given), out)


def logspace(start: Any, end: Any, steps: int, base: float = 10.0, **options: Any) -> Tensor:
    """``base`` to the power of ``steps`` numbers at equal distances."""
    dtype = kind(options.get("dtype")) or DEFAULTS[float]
    exponents = linspace(start, end, steps, **options | {"dtype": np.dtype(np.float64)})
    return ops.astype(ops.pow(float(base), exponents), dtype)


def eye(n: int, m: int | None = None, **options: Any) -> Tensor:
    """Ones on the diagonal."""
    given = _options(options, "eye")
    out, grad = given.pop("out"), given.pop("requires_grad", False)
    made = _finish(creation.eye(n, m, **given), out)
    return made.requires_grad_() if grad else made


def _indices(function: Any, row: int, col: int, offset: int, options: dict[str, Any]) -> Tensor:
    given = _options(options, "tril_indices")
    return creation.tensor(
        np.stack(function(row, offset, col)), dtype=given.get("dtype"), device=given.get("device")
    )


def tril_indices(row: int, col: int, offset: int = 0, **options: Any) -> Tensor:
    """Rows and columns of the lower triangle, ``[2, n]``."""
    return _indices(np.tril_indices, row, col, offset, options)


def triu_indices(row: int, col: int, offset: int = 0, **options: Any) -> Tensor:
    """Rows and columns of the upper triangle, ``[2, n]``."""
    return _indices(np.triu_indices, row, col, offset, options)


# -- random numbers


def unravel_index(indices: Tensor, shape: Any) -> tuple[Tensor, ...]:
    """The places along each axis of elements that are counted along all axes.

    Raises:
        OptionError: an axis without elements.
    """
    lengths = numbers((shape,))
    if any(length < 1 for length in lengths):
        raise OptionError(f"unravel_index: every axis of {list(lengths)} must have elements")
    places = []
    for length in reversed(lengths):
        places.append(indices % length)
        indices = indices // length
    return tuple(reversed(places))


def randint(*args: Any, size: Any = None, **options: Any) -> Tensor:
    """Whole numbers uniform on [low, high): ``randint(high, size)`` or ``randint(low, high, size)``."""
    bounds = [options.pop(name) for name in ("low", "high") if name in options]
    given = _options(options, "randint")
    out, grad = given.pop("out"), given.pop("requires_grad", False)
    if size is None:
        *args, size = args  # type: ignore[assignment]
    bounds = [*bounds, *args] if not bounds or len(bounds) == 2 else [*args, *bounds]
    low, high = (0, bounds[0]) if len(bounds) == 1 else bounds
    result = random.randint(int(low), int(high), numbers((size,)), **given)
    return _finish(result.requires_grad_() if grad else result, out)


def randint_like(input: Tensor, low: int, high: int | None = None, **options: Any) -> Tensor:
    """As :func:`randint`, with the shape and dtype of a tensor."""
    bounds = (0, low) if high is None else (low, high)
    return randint(*bounds, size=input.shape, **{"dtype": input.dtype, "device": input.device, **options})


def randperm(n: int, **options: Any) -> Tensor:
    """The numbers from 0 to n − 1 in random order."""
    given = _options(options, "randperm")
    out, dtype = given.pop("out"), given.pop("dtype", None)
    given.pop("requires_grad", None)
    result = random.randperm(n, **given)
    return _finish(result if dtype is None else ops.astype(result, dtype), out)


def normal(mean: Any = 0.0, std: Any = 1.0, size: Any = None, **options: Any) -> Tensor:
    """Normal numbers of given means and standard deviations, numbers or tensors."""
    given = _options(options, "normal")
    out = given.pop("out")
    if size is None:
        tensors = [each for each in (mean, std) if isinstance(each, Tensor)]
        if not tensors:
            raise OptionError("normal: expected tensors, or size")
        size = np.broadcast_shapes(*[each.shape for each in tensors])
        given.setdefault("dtype", tensors[0].dtype)
        given.setdefault("device", tensors[0].device)
    noise = random.randn(numbers((size,)), **given)
    return _finish(ops.add(ops.multiply(noise, std), mean), out)
