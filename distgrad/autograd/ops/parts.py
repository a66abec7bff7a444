"""Parts of complex numbers, and numbers put together from them.

The gradient of a complex number has as parts the gradients of its parts.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from distgrad.autograd.dispatch import Array, primitive
from distgrad.autograd.ops.elementwise import UNARY
from distgrad.autograd.ops.shape_rules import real_dtype, same_shape
from distgrad.autograd.primitive import Sample
from distgrad.errors import GraphError

COMPLEX = [
    Sample((np.array([[1.0 + 2.0j, -0.5j], [3.0, -1.0 - 1.0j]]),), grad=False),
    Sample((np.array(1.0 - 2.0j),), note="no axes", grad=False),
]


def decline_complex(where: str, x: Array) -> None:
    """Refuse the gradient of a complex input whose formula is that of the real case.

    Raises:
        GraphError: ``x`` is complex.
    """
    if x.dtype.kind == "c":
        raise GraphError(
            f"{where}: there is no gradient with respect to complex matrices; compute with real and "
            "imaginary parts, or detach() the input"
        )


@primitive(math="y = x*", shape=same_shape, dtypes="numeric", samples=[*UNARY, *COMPLEX])
def conj(xp: Any, x: Array, /) -> Array:
    """The complex conjugate; a real array as it is."""
    return xp.conj(x)


@conj.vjp("x")
def _(xp: Any, g: Array) -> Array:
    return xp.conj(g)


@primitive(math="y = Re x", shape=same_shape, dtypes="numeric", result=real_dtype, view=True, samples=UNARY)
def real(xp: Any, x: Array, /) -> Array:
    """The real part, as a view; a real array as it is."""
    return xp.real(x)


@real.vjp("x")
def _(xp: Any, g: Array) -> Array:
    return g


@primitive(
    math="y = Im x",
    shape=same_shape,
    dtypes="complex floating-point",
    result=real_dtype,
    view=True,
    samples=COMPLEX,
)
def imag(xp: Any, x: Array, /) -> Array:
    """The imaginary part of a complex array, as a view."""
    return xp.imag(x)


@imag.vjp("x")
def _(xp: Any, g: Array) -> Array:
    return g * 1j
