"""Random programs of operations from the registry, drawn by hypothesis, and their slopes by differences.

A program is built step by step on concrete numbers, and an operation is taken only where it is finite and
smooth, so that every program has a gradient and finite differences find it.
"""

import inspect
import itertools
import random
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from hypothesis import strategies as st

from distgrad.autograd.dispatch import operations
from distgrad.autograd.functional import grad
from distgrad.autograd.ops.shape_rules import broadcast_shape, reduced_shape, same_shape
from distgrad.autograd.primitive import DTYPE_CHARS, REGISTRY
from distgrad.autograd.tensor import Tensor
from distgrad.errors import DistgradError

NUM_TRIES = 4
SHAPES = [(), (2,), (3,), (2, 3), (3, 2), (1, 3), (3, 3), (2, 2, 3), (2, 1, 2)]
LARGEST = 20.0  # beyond it finite differences lose too many digits


def choose(rule, num_inputs):
    """Names of the differentiable operations with this shape rule that need no further argument."""
    return [
        record.name
        for record in REGISTRY.values()
        if record.shape is rule
        and len(record.inputs) == num_inputs
        and record.differentiable
        and (record.result == "promote" or callable(record.result))
        and "d" in DTYPE_CHARS[record.dtypes]
        and not any(
            parameter.default is parameter.empty and name in record.attributes
            for name, parameter in inspect.signature(record.formula).parameters.items()
        )
    ]


UNARY = choose(same_shape, 1)
BINARY = choose(broadcast_shape, 2)
REDUCTIONS = choose(reduced_shape, 1)


@dataclass(frozen=True)
class Step:
    """One call: the operation, the places of its operands, its attributes, whether operands form a list."""

    name: str
    operands: tuple[int, ...]
    attributes: dict[str, Any] = field(default_factory=dict)
    as_list: bool = False

    def run(self, values):
        operation = operations.__dict__[self.name]
        operands = [values[place] for place in self.operands]
        return operation(*([operands] if self.as_list else operands), **self.attributes)

    def __str__(self):
        operands = ", ".join(f"v{place}" for place in self.operands)
        attributes = "".join(f", {name}={value!r}" for name, value in self.attributes.items())
        return f"dg.{self.name}({f'[{operands}]' if self.as_list else operands}{attributes})"


@dataclass
class Program:
    """Inputs, and steps of which each adds a value; what no step uses is the result."""

    inputs: list[np.ndarray]
    steps: list[Step]

    def run(self, inputs):
        """The results as tensors."""
        values = list(inputs)
        for step in self.steps:
            values.append(step.run(values))
        return [values[place] for place in self.results()]

    def results(self):
        """Places of the values that no step uses, inputs aside."""
        used = {place for step in self.steps for place in step.operands}
        first = len(self.inputs)
        return [place for place in range(first, first + len(self.steps)) if place not in used]

    def _repr_pretty_(self, printer, cycle):  # what hypothesis prints of a failing program
        lines = [f"v{place} = dg.asarray({value!r})" for place, value in enumerate(self.inputs)]
        first = len(self.inputs)
        lines += [f"v{first + place} = {step}" for place, step in enumerate(self.steps)]
        lines.append(f"results: {', '.join(f'v{i}' for i in self.results())}")
        printer.text("\n" + "\n".join(lines) + "\n")


# -- drawing


def value_if_smooth(step, values):
    """What a step gives, if the numbers are moderate and the slopes from both sides agree; else None."""
    rng = np.random.default_rng(0)
    step_size = 1e-4
    moves = [
        step_size * rng.uniform(0.5, 1.0, v.shape) * rng.choice([-1, 1], v.shape)
        for v in (values[place] for place in step.operands)
    ]
    local = Step(step.name, tuple(range(len(step.operands))), step.attributes, step.as_list)
    try:
        with np.errstate(all="ignore"):
            before, here, after = (
                local.run(
                    [np.asarray(values[p] + sign * m) for p, m in zip(step.operands, moves, strict=True)]
                )._data
                for sign in (-1, 0, 1)
            )
    except (DistgradError, IndexError, np.linalg.LinAlgError):
        return None
    with np.errstate(invalid="ignore"):  # what has left the numbers does not fit
        bend = np.abs(after - 2 * here + before)
    fits = here.dtype == np.float64 and here.size and np.abs(here).max() <= LARGEST
    return here if fits and bend.max() <= 100 * step_size**2 else None


def unary(values, place, other, pick):
    return Step(pick(UNARY), (place,))


def binary(values, place, other, pick):
    return Step(pick(BINARY), (place, other))


def reduction(values, place, other, pick):
    axes = [None, *range(-values[place].ndim, values[place].ndim)]
    return Step(pick(REDUCTIONS), (place,), {"axis": pick(axes), "keepdims": pick([False, True])})


def reshaped(values, place, other, pick):
    shape = values[place].shape
    return Step(
        "reshape", (place,), {"shape": pick([(values[place].size,), (-1, 1), (*shape, 1), shape[::-1]])}
    )


def permuted(values, place, other, pick):
    axes = list(itertools.permutations(range(values[place].ndim)))
    return Step("permute_dims", (place,), {"axes": pick(axes)})


def repeated(values, place, other, pick):
    return Step("broadcast_to", (place,), {"shape": (2, *values[place].shape)})


def indexed(values, place, other, pick):
    return Step("getitem", (place,), {"key": pick(KEYS)})


def joined(values, place, other, pick):
    partners = [i for i, v in enumerate(values) if v.shape == values[place].shape]
    return Step(pick(["concat", "stack"]), (place, pick(partners)), {"axis": pick([-1, 0])}, as_list=True)


def product(values, place, other, pick):
    partners = [i for i, v in enumerate(values) if v.shape[-2:-1] == values[place].shape[-1:]]
    return Step("matmul", (place, pick(partners or [other])))


KEYS = [0, -1, slice(None, None, -1), slice(1, None), (..., None), (..., 0), [1, 0, 1], (slice(None), [1, 1])]
KINDS = [
    unary,
    unary,
    unary,
    binary,
    binary,
    binary,
    reduction,
    reshaped,
    permuted,
    repeated,
    indexed,
    joined,
    product,
]


NOTHING = None  # comes first, so that hypothesis shrinks to it and a failing program loses steps


def choose_step(kind, values, choices):
    """A step that is possible here, and its value; the hyperbolic tangent always is."""
    for _ in range(NUM_TRIES):
        other, place = sorted(choices.randrange(len(values)) for _ in range(2))  # later values more often
        step = kind(values, place, other, choices.choice)
        value = value_if_smooth(step, values)
        if value is not None:
            return step, value
    step = Step("tanh", (place,))
    return step, value_if_smooth(step, values)


@st.composite
def programs(draw, num_steps):
    """A program of at most ``num_steps`` steps, and mostly no fewer."""
    numbers = st.integers(0, 2**32 - 1)
    rng = np.random.default_rng(draw(numbers))
    shapes = draw(st.lists(st.sampled_from(SHAPES), min_size=1, max_size=3))
    inputs = [np.asarray(np.round(rng.uniform(-2, 2, shape), 3)) for shape in shapes]
    values, steps = list(inputs), []
    for _ in range(num_steps):
        kind, seed = draw(st.sampled_from([NOTHING, *KINDS])), draw(numbers)
        if kind is not NOTHING:
            step, value = choose_step(kind, values, random.Random(seed))
            steps.append(step)
            values.append(value)
    return Program(inputs, steps)


# -- slopes


def slopes(program, step_size=1e-6):
    """The slope of the weighted results along one random direction: by backward, and from left and right.

    Returns:
        (slope by backward, the mean of the slopes from both sides, their distance).
    """
    rng = np.random.default_rng(0)
    directions = [rng.standard_normal(x.shape) for x in program.inputs]
    tensors = [Tensor(x, requires_grad=True) for x in program.inputs]
    outs = program.run(tensors)
    weights = [rng.standard_normal(out.shape) for out in outs]
    gs = grad(outs, tensors, [Tensor(w) for w in weights], allow_unused=True)
    exact = sum(float(np.sum(g._data * d)) for g, d in zip(gs, directions, strict=True) if g is not None)

    def total(shift):
        moved = [Tensor(x + shift * d) for x, d in zip(program.inputs, directions, strict=True)]
        return sum(float(np.sum(out._data * w)) for out, w in zip(program.run(moved), weights, strict=True))

    here = total(0.0)
    right, left = (total(step_size) - here) / step_size, (here - total(-step_size)) / step_size
    return exact, (left + right) / 2, abs(right - left)
