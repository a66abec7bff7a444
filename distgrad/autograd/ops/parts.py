"""Parts of complex numbers.

Complex arrays compute, but no gradient goes through them: what has a complex result or a complex input raises
when backward reaches it.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from distgrad.autograd.dispatch import Array, primitive
from distgrad.autograd.ops.elementwise import UNARY
from distgrad.autograd.ops.rules import same_shape
from distgrad.autograd.primitive import Sample
from distgrad.errors import GraphError

COMPLEX = [
    Sample((np.array([[1.0 + 2.0j, -0.5j], [3.0, -1.0 - 1.0j]]),), grad=False),
    Sample((np.array(1.0 - 2.0j),), note="no axes", grad=False),
]


def through_complex(xp: Any, g: Array) -> Array:
    """The gradient of a real result with respect to a complex input: an error."""
    raise GraphError(
        "the input is complex, and gradients through complex values are not defined here; "
        "compute with real and imaginary parts, or detach() the input"
    )


@primitive(math="y = x*", shape=same_shape, dtypes="numeric", samples=[*UNARY, *COMPLEX])
def conj(xp: Any, x: Array, /) -> Array:
    """The complex conjugate; a real array as it is."""
    return xp.conj(x)


@conj.vjp("x")
def _(xp: Any, g: Array) -> Array:
    return g


@primitive(math="y = Re x", shape=same_shape, dtypes="numeric", result="any", view=True, samples=UNARY)
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
    result="any",
    view=True,
    samples=COMPLEX,
)
def imag(xp: Any, x: Array, /) -> Array:
    """The imaginary part of a complex array, as a view."""
    return xp.imag(x)


imag.vjp("x")(through_complex)
