"""A function of one sample as one of a batch: ``vmap``."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from distgrad.autograd.dispatch import operations
from distgrad.autograd.tensor import Tensor
from distgrad.autograd.tree import replace_tensors, tensors_in
from distgrad.backend.rng import default_generator
from distgrad.errors import OptionError, ShapeError

__all__ = ["vmap"]

_RANDOMNESS = ("error", "different", "same")


def vmap(
    func: Callable[..., Any],
    in_dims: Any = 0,
    out_dims: Any = 0,
    randomness: str = "error",
    *,
    chunk_size: int | None = None,
) -> Callable[..., Any]:
    """A function of batches that calls ``func`` on each sample and stacks the results.

    It calls as often as there are samples: what can be written with the batch as an axis is faster so. It
    nests, and goes with :func:`grad` and the other transformations: ``vmap(grad(loss), (None, 0, 0))`` gives
    the gradients of every sample.

    Args:
        func: of tensors, in nested tuples, lists and dicts, to tensors in such.
        in_dims: the batch's axis in all arguments, or for each argument: a number, None for one that all
            samples share, or a structure of these.
        out_dims: the batch's axis in all results, or for each.
        randomness: ``"different"`` numbers for each sample, the ``"same"``, or an ``"error"`` where any are
            drawn.
        chunk_size: taken for PyTorch's sake.

    Returns:
        A function of the same arguments; those by keyword have the batch's axis first.

    Raises:
        OptionError: a ``randomness`` that is none of these, or (the new function) numbers that were drawn.
        ShapeError: (the new function) batches of different length, or none.
    """
    if randomness not in _RANDOMNESS:
        raise OptionError(f"vmap: randomness must be one of {', '.join(_RANDOMNESS)}, got {randomness!r}")

    def of_batch(*args: Any, **kwargs: Any) -> Any:
        dims = tuple(in_dims) if isinstance(in_dims, tuple | list) else (in_dims,) * len(args)
        if len(dims) != len(args):
            raise ShapeError(f"vmap: in_dims has {len(dims)} entries for {len(args)} arguments")
        lengths = {n for arg, dim in zip(args, dims, strict=True) for n in _lengths(arg, dim)}
        lengths |= set(_lengths(kwargs, 0))
        if len(lengths) != 1 or lengths == {0}:
            raise ShapeError(
                f"vmap: the batches must be of one length of at least 1, got {sorted(lengths) or 'no batch'}"
            )
        start = default_generator.get_state()
        found = []
        for i in range(lengths.pop()):
            if randomness == "same":
                default_generator.set_state(start)
            found.append(
                func(*(_sample(a, d, i) for a, d in zip(args, dims, strict=True)), **_sample(kwargs, 0, i))
            )
            if randomness == "error" and default_generator.get_state() != start:
                raise OptionError(
                    "vmap: the function drew random numbers; say randomness='different' or 'same'"
                )
        return _stacked(found, out_dims)

    return of_batch


def _lengths(tree: Any, dim: Any) -> list[int]:
    """The lengths of a structure's batches."""
    if dim is None:
        return []
    if isinstance(dim, tuple | list):
        return [n for each, d in zip(tree, dim, strict=True) for n in _lengths(each, d)]
    if isinstance(dim, dict):
        return [n for key, d in dim.items() for n in _lengths(tree[key], d)]
    for each in tensors_in(tree):
        if not -each.ndim <= dim < each.ndim:
            raise ShapeError(f"vmap: in_dims has axis {dim} for a tensor of shape {list(each.shape)}")
    return [each.shape[dim] for each in tensors_in(tree)]


def _sample(tree: Any, dim: Any, place: int) -> Any:
    """One sample of a structure of batches."""
    if dim is None:
        return tree
    if isinstance(dim, tuple | list):
        return type(tree)(_sample(each, d, place) for each, d in zip(tree, dim, strict=True))
    if isinstance(dim, dict):
        return {key: _sample(each, dim.get(key), place) for key, each in tree.items()}
    return replace_tensors(tree, [_entry(each, dim, place) for each in tensors_in(tree)])


def _entry(x: Tensor, dim: int, place: int) -> Any:
    return x[(slice(None),) * (dim % x.ndim) + (place,)]


def _stacked(results: list[Any], dims: Any) -> Any:
    """Results of all samples as one structure of batches."""
    parts = [tensors_in(each) for each in results]
    axes = list(dims) if isinstance(dims, tuple | list) else [dims] * len(parts[0])
    if len(axes) != len(parts[0]) or not parts[0]:
        raise ShapeError(f"vmap: the function returned {len(parts[0])} tensors; out_dims is {dims}")
    joined = [
        operations.stack(list(column), axis=axis)
        for column, axis in zip(zip(*parts, strict=True), axes, strict=True)
    ]
    return replace_tensors(results[0], joined)
