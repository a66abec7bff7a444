"""What is known about one operation, in one record.

A primitive's formula takes ``xp`` (the array module), then its array inputs (annotated ``Array``, and most of
them positional-only, as in the array API standard; ``*arrays`` for a sequence of them; a default of None
makes one optional), then its attributes::

    @primitive(math="y = log(1 + exp(beta x)) / beta", shape=same_shape, dtypes="real floating-point",
               samples=[Sample(((3, 4),)), Sample(((),), {"beta": 2.0})])
    def softplus(xp, x: "Array", /, *, beta=1.0): ...

    @softplus.vjp("x")
    def _(xp, g, x, beta): ...

The vjp's parameter names say what backward needs, and nothing else is kept: an input, the output ``y``, an
attribute, ``x_shape`` or ``x_dtype`` of an input, ``needs`` (which of the named inputs want a gradient),
``into`` (for each named input an array that its gradient may be written into and returned as, or None), or
``before`` (one element: the gradient that came to the first named input on other paths, or None; the vjp must
add it).
One formula serves both orders: ``xp`` is the array module, or that of tensors when the gradient itself
is to be differentiated.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

from distgrad.backend.kernels.table import accelerated
from distgrad.backend.recording import as_one_call

__all__ = ["REGISTRY", "Composite", "Primitive", "Reject", "Sample", "Vjp", "fast_form"]

#: dtype characters that each category of the array API standard holds (NumPy's codes; E is bfloat16).
DTYPE_CHARS = {
    "all": "?bhilqBHILQefdEFD",
    "numeric": "bhilqBHILQefdEFD",
    "real numeric": "bhilqBHILQefdE",
    "real numeric or boolean": "?bhilqBHILQefdE",
    "floating-point": "efdEFD",
    "real floating-point": "efdE",
    "integer": "bhilqBHILQ",
    "integer or boolean": "?bhilqBHILQ",
    "boolean": "?",
    "complex floating-point": "FD",
}

#: Every primitive by its public name.
REGISTRY: dict[str, Primitive] = {}


@dataclass(frozen=True)
class Sample:
    """Inputs on which a primitive is tested.

    Args:
        args: one entry an input: a shape (random numbers from the primitive's domain), an array (taken as
            it is; a floating one is differentiated), None, or for a sequence input a list of those.
        attributes: keyword arguments.
        note: what is special about it.
        grad: whether its gradient is checked (False where the function has a kink or saturates).
        domain: (low, high) of the random numbers, where the primitive's own does not fit.
    """

    args: tuple[Any, ...]
    attributes: dict[str, Any] = field(default_factory=dict)
    note: str = ""
    grad: bool = True
    domain: tuple[float, float] | None = None


@dataclass(frozen=True)
class Reject:
    """Inputs that a primitive refuses.

    Args:
        args: as in :class:`Sample`.
        error: the exception's class.
        message: text that its message holds.
        attributes: keyword arguments.
    """

    args: tuple[Any, ...]
    error: type[Exception]
    message: str
    attributes: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Vjp:
    """A vector-Jacobian product: the gradient of some inputs from the gradient of the output.

    Args:
        inputs: the inputs whose gradients it returns (a tuple of them if there is more than one).
        function: ``function(xp, g, **names)``.
        names: what it needs, from its signature.
    """

    inputs: tuple[str, ...]
    function: Callable[..., Any]
    names: tuple[str, ...]


@dataclass
class Primitive:
    """The record of one operation; see the module's docstring.

    Attributes:
        name: public name.
        formula: ``formula(xp, *inputs, **attributes)`` on arrays.
        math: the formula as text.
        source: author, venue, year, where there is one.
        shape: the output's shape from the inputs' shapes and the attributes.
        dtypes: category of dtypes that the inputs may have (a key of ``DTYPE_CHARS``).
        result: ``"promote"``, the name of the dtype that always comes out, or what gives it (for several
            results a tuple) from the inputs' dtypes, or numbers, and the attributes.
        view: whether the output may share memory with the first input.
        outputs: number of outputs; 0 means a tuple whose length depends on the inputs.
        sparse: whether its vjps take None for the gradient of an output that nothing used, in place of zeros.
        domain: (low, high) of the samples' random numbers; None means standard normal.
        samples, rejects: what the tests are generated from.
        inputs: names of the array inputs; ``variadic`` if the only one is a sequence.
        optional: the inputs that may be None.
        attributes: names of the attributes, in order.
        vjps: by input name.
        backward: calls the vjps; compiled at the first call.
        scopes: the globals of the functions compiled for it, in which ``formula`` is what they call.
        twin: the same for complex results, made when there is the first.
        signature: the formula's.
    """

    name: str
    formula: Callable[..., Any]
    math: str
    source: str = ""
    shape: Callable[..., Any] | None = None
    dtypes: str = "all"
    result: str | Callable[..., Any] = "promote"
    view: bool = False
    outputs: int = 1
    sparse: bool = False
    domain: tuple[float, float] | None = None
    samples: Sequence[Sample] = ()
    rejects: Sequence[Reject] = ()
    inputs: tuple[str, ...] = ()
    optional: frozenset[str] = frozenset()
    variadic: bool = False
    attributes: tuple[str, ...] = ()
    vjps: dict[str, Vjp] = field(default_factory=dict)
    backward: Callable[..., Any] | None = None
    scopes: list[dict[str, Any]] = field(default_factory=list)
    twin: Primitive | None = None
    signature: inspect.Signature = field(init=False, repr=False)

    def __post_init__(self) -> None:
        if self.dtypes not in DTYPE_CHARS:
            raise TypeError(f"primitive {self.name}: dtypes={self.dtypes!r} is none of {sorted(DTYPE_CHARS)}")
        self.signature = inspect.signature(self.formula)
        parameters = list(self.signature.parameters.values())
        if not parameters or parameters[0].name != "xp":
            raise TypeError(f"primitive {self.name}: the formula's first parameter must be xp")
        inputs, attributes, optional = [], [], set()
        for parameter in parameters[1:]:
            if parameter.kind is parameter.VAR_POSITIONAL:
                self.variadic = True
                inputs.append(parameter.name)
            elif parameter.annotation in ("Array", "Array | None"):
                inputs.append(parameter.name)
                if parameter.default is None:
                    optional.add(parameter.name)
            else:
                attributes.append(parameter.name)
        if self.variadic and len(inputs) != 1:
            raise TypeError(f"primitive {self.name}: a sequence must be the only input, got {inputs}")
        reserved = {"xp", "g", "y", "needs", "into", "before"} & {*inputs, *attributes}
        if reserved:
            raise TypeError(
                f"primitive {self.name}: parameter names {sorted(reserved)} have a meaning in vjps"
            )
        self.inputs, self.attributes, self.optional = tuple(inputs), tuple(attributes), frozenset(optional)

    @property
    def differentiable(self) -> bool:
        """Whether any input has a gradient."""
        return bool(self.vjps)

    def add_vjp(self, inputs: tuple[str, ...], function: Callable[..., Any]) -> None:
        """Register the gradient of ``inputs``; unknown names fail here, at import."""
        names = function.__code__.co_varnames[: function.__code__.co_argcount]
        if names[:2] != ("xp", "g"):
            raise TypeError(f"vjp of {self.name}: the first parameters must be xp and g, got {names[:2]}")
        known = {"y", "needs", "into", "before", *self.inputs, *self.attributes}
        known |= {f"{name}_{kind}" for name in self.inputs for kind in ("shape", "dtype")}
        for name in (*inputs, *names[2:]):
            if name not in (self.inputs if name in inputs else known):
                raise TypeError(
                    f"vjp of {self.name}: {name!r} is neither an input, y, needs, into, before nor "
                    "an attribute"
                )
        record = Vjp(inputs, function, names[2:])
        for name in inputs:
            if name in self.vjps:
                raise TypeError(f"vjp of {self.name}: {name!r} has a gradient already")
            self.vjps[name] = record


@dataclass
class Composite(Primitive):
    """The record of an operation made of other operations, whose gradients are its own.

    A sequence is one of its plain arguments, and its samples' ``args`` are all positional arguments, arrays
    or not.
    """

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.variadic:
            self.inputs, self.variadic = (), False

    @property
    def differentiable(self) -> bool:
        """Yes: through the operations that it is made of."""
        return True


def fast_form(record: Primitive, name: str, plain: Callable[..., Any]) -> Callable[..., Any]:
    """A formula or gradient with its kernel in front; where it draws random numbers it is one call to record.

    Args:
        record: the operation.
        name: of the kernel.
        plain: the formula.
    """
    fast = accelerated(name, plain)
    return as_one_call()(fast) if "state" in record.attributes else fast
