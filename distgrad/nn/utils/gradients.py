"""What is done to all gradients, or all parameters, at once."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np

from distgrad.autograd.dispatch import operations as ops
from distgrad.autograd.flat import Shares, gradient_arrays, gradient_pieces
from distgrad.autograd.tensor import Tensor
from distgrad.backend.array_module import get_array_module
from distgrad.backend.device import CPU, at_hand, follow, to_device
from distgrad.backend.recording import as_one_call
from distgrad.backend.whole import clip_by_norm, norm_of, scale
from distgrad.errors import ShapeError
from distgrad.nn.parameter import write

__all__ = [
    "clip_grad_norm_",
    "clip_grad_value_",
    "clip_grads_with_norm_",
    "get_total_norm",
    "parameters_to_vector",
    "vector_to_parameters",
]


def _several(tensors: Tensor | Iterable[Tensor]) -> list[Tensor]:
    return [tensors] if isinstance(tensors, Tensor) else list(tensors)


def get_total_norm(
    tensors: Tensor | Iterable[Tensor], norm_type: float = 2.0, error_if_nonfinite: bool = False
) -> Tensor:
    """The norm of all elements of several tensors, as if they were one vector.

    Args:
        tensors: one or several.
        norm_type: p of the p-norm; ``inf`` for the largest size.
        error_if_nonfinite: raise where the norm is not finite.

    Returns:
        A float32 or float64 number, as the widest tensor is, where the tensors lie.

    Raises:
        FloatingPointError: a norm that is infinite or NaN, where it must not be.
    """
    return _total_norm([tensor._data for tensor in _several(tensors)], norm_type, error_if_nonfinite)


def _total_norm(
    arrays: Sequence[Any],
    norm_type: float,
    error_if_nonfinite: bool,
    pieces: Sequence[Any] = (),
    shares: Shares | None = None,
) -> Tensor:
    dtype = np.result_type(np.float32, *(array.dtype for array in (*arrays, *pieces)))
    if shares is not None:
        total = norm_of(tuple(arrays), float(norm_type), tuple(pieces), shares.exchange).astype(dtype)
    else:
        total = norm_of(tuple(arrays), float(norm_type)).astype(dtype) if arrays else np.zeros((), dtype)
    if error_if_nonfinite and not np.isfinite(to_device(total, CPU)):
        raise FloatingPointError(
            f"get_total_norm: the norm of order {norm_type} of the gradients is {float(total)}"
        )
    return Tensor(total)


def clip_grads_with_norm_(parameters: Tensor | Iterable[Tensor], max_norm: float, total_norm: Any) -> None:
    """Scale gradients down in place so that a norm that was ``total_norm`` becomes ``max_norm``.

    Args:
        parameters: those whose ``grad`` is scaled.
        max_norm: what the norm may be at most.
        total_norm: what it is.
    """
    parameters = _several(parameters)
    if isinstance(total_norm, Tensor) and not at_hand(total_norm):
        arrays = gradient_arrays(parameters, "clip_grad_norm_")
        if arrays:
            clip_by_norm(tuple(arrays), total_norm._data, max_norm)
        return
    norm = total_norm._data if isinstance(total_norm, Tensor) else total_norm
    _clip_on_host(tuple(gradient_arrays(parameters, "clip_grad_norm_")), norm, max_norm)


@as_one_call(0)
def _clip_on_host(arrays: tuple[Any, ...], norm: Any, max_norm: float) -> None:
    factor = max_norm / (float(norm) + 1e-6)
    if not factor >= 1.0:  # a NaN goes into the gradients, as it must not be overlooked
        scale(arrays, factor)


def clip_grad_norm_(
    parameters: Tensor | Iterable[Tensor],
    max_norm: float,
    norm_type: float = 2.0,
    error_if_nonfinite: bool = False,
) -> Tensor:
    """Scale all gradients down in place if their norm, as one vector, is above ``max_norm``.

    On the host it is summed in blocks from each gradient's start, so that its bits depend on nothing else.
    Where ranks own parts of the gradients every rank calls it and comes to the same norm.

    Args:
        parameters: those whose ``grad`` counts; those without one are passed over.
        max_norm: what the norm may be at most.
        norm_type: p of the p-norm; ``inf`` for the largest size.
        error_if_nonfinite: raise, and change nothing, where the norm is not finite.

    Returns:
        The norm before.

    Source: Pascanu et al., ICML 2013.
    """
    parameters = _several(parameters)
    whole, pieces, shares = gradient_pieces(parameters)
    if (
        norm_type == 2.0
        and shares is None
        and whole
        and get_array_module(whole[0]).array_type is not np.ndarray
    ):
        whole = gradient_arrays(parameters)  # as few as can be, each a launch
    total = _total_norm(whole, norm_type, error_if_nonfinite, pieces, shares)
    clip_grads_with_norm_(parameters, max_norm, total)
    return total


def clip_grad_value_(parameters: Tensor | Iterable[Tensor], clip_value: float) -> None:
    """Bring every element of the gradients into ``[−clip_value, clip_value]``, in place."""
    for array in gradient_arrays(_several(parameters), "clip_grad_value_"):
        follow(array)
        array[...] = get_array_module(array).clip(array, -clip_value, clip_value)


def parameters_to_vector(parameters: Iterable[Tensor]) -> Tensor:
    """All elements of several tensors in one vector, in order; gradients flow through."""
    return ops.concat([ops.reshape(tensor, (-1,)) for tensor in parameters], axis=0)


def vector_to_parameters(vec: Tensor, parameters: Iterable[Tensor]) -> None:
    """Write a vector's elements into several tensors, in order.

    Raises:
        ShapeError: a vector of another length; nothing is written then.
    """
    parameters = list(parameters)
    count = sum(tensor.size for tensor in parameters)
    if vec.shape != (count,):
        raise ShapeError(f"vector_to_parameters: the parameters have {count} elements, got {list(vec.shape)}")
    start = 0
    for tensor in parameters:
        values = vec._data[start : start + tensor.size].reshape(tensor.shape)
        write(tensor, values, "vector_to_parameters")
        start += tensor.size
