"""What Python costs an operation, forward and backward, beside PyTorch in the same run.

    env -u OPENBLAS_CORETYPE -u OPENBLAS_L2_SIZE python benchmarks/overhead.py [--rounds 25] [--json FILE]
    python benchmarks/overhead.py --device cuda

A turn on a GPU ends when the GPU has done its calls.

Every case runs on a few elements, so that the time is the library's own. The two libraries take turns, a
few milliseconds each; a time is the median over the turns, a ratio the median of the ratios of neighbouring
turns, and both columns come from one process with one thread. The exit status tells whether all bars hold.

The last table holds operations made of others: least microseconds of processor time a call, of the formula
alone on the same tensors, and of the public function around a formula that does nothing. Below it stand calls
by PyTorch's names beside the operations that they lead to, ``extra`` being the difference.
"""

from __future__ import annotations

import argparse
import functools
import importlib
import itertools
import json
import platform
import statistics
import sys
import time
import timeit
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import torch

import distgrad as dg
from distgrad.autograd.casting import set_weak_scalars
from distgrad.autograd.dispatch import operations
from distgrad.backend.device import CPU, Device
from distgrad.script import add_device_option, find_device, synchronize

TURN_S = 0.004
Call = Callable[[], Any]


@dataclass
class Row:
    """One line of the table.

    Attributes:
        name: what was run.
        distgrad_us, torch_us: median microseconds a call.
        ratio: distgrad's time over PyTorch's, median over the turns.
        bar: the ratio that it must not exceed, or None.
    """

    name: str
    distgrad_us: float
    torch_us: float
    ratio: float
    bar: float | None = None

    @property
    def holds(self) -> bool:
        """Whether the bar, if there is one, is kept."""
        return self.bar is None or self.ratio <= self.bar

    def __str__(self) -> str:
        text = f"{self.name:34} {self.distgrad_us:10.2f} {self.torch_us:10.2f} {self.ratio:8.2f}"
        return text if self.bar is None else f"{text}   at most {self.bar:g}: {'yes' if self.holds else 'NO'}"


def seconds(call: Call, number: int, device: Device = CPU) -> float:
    """Time of one call, from ``number`` of them on a device."""
    start = time.perf_counter()
    for _ in range(number):
        call()
    synchronize(device)
    return (time.perf_counter() - start) / number


def compare(
    name: str, ours: Call, theirs: Call, rounds: int, bar: float | None = None, device: Device = CPU
) -> Row:
    """Let the two take turns."""
    numbers = []
    for call in (ours, theirs):
        seconds(call, 3, device)
        numbers.append(max(1, int(TURN_S / seconds(call, 10, device))))
    pairs = [(seconds(ours, numbers[0], device), seconds(theirs, numbers[1], device)) for _ in range(rounds)]
    return Row(
        name,
        1e6 * statistics.median(a for a, _ in pairs),
        1e6 * statistics.median(b for _, b in pairs),
        statistics.median(a / b for a, b in pairs),
        bar,
    )


#: Operation, shapes of its inputs, and how each library spells it.
OPERATIONS: list[tuple[str, list[tuple[int, ...]], Callable[..., Any], Callable[..., Any]]] = [
    ("x + y", [(4,), (4,)], lambda x, y: x + y, lambda x, y: x + y),
    ("x * y", [(4,), (4,)], lambda x, y: x * y, lambda x, y: x * y),
    ("x * 2.0", [(4,)], lambda x: x * 2.0, lambda x: x * 2.0),
    ("x + row (broadcast)", [(4, 4), (4,)], lambda x, y: x + y, lambda x, y: x + y),
    ("x @ y", [(4, 4), (4, 4)], lambda x, y: x @ y, lambda x, y: x @ y),
    ("x.sum()", [(4,)], lambda x: x.sum(), lambda x: x.sum()),
    ("x.mean(axis)", [(4, 4)], lambda x: x.mean(axis=1), lambda x: x.mean(dim=1)),
    ("x[1:]", [(4,)], lambda x: x[1:], lambda x: x[1:]),
    ("x.reshape", [(4, 4)], lambda x: x.reshape(2, 8), lambda x: x.reshape(2, 8)),
    ("exp", [(4,)], dg.exp, torch.exp),
    ("tanh", [(4,)], dg.tanh, torch.tanh),
    ("relu", [(4,)], dg.relu, torch.relu),
    ("concat", [(4,), (4,)], lambda x, y: dg.concat([x, y]), lambda x, y: torch.cat([x, y])),
    ("softmax", [(4, 4)], lambda x: dg.softmax(x, axis=-1), lambda x: torch.softmax(x, -1)),
    ("linear", [(4, 4), (4, 4), (4,)], dg.linear, torch.nn.functional.linear),
]


def inputs(shapes: list[tuple[int, ...]], device: Device) -> tuple[list[Any], list[Any]]:
    """The same leaves for both libraries."""
    rng = np.random.default_rng(0)
    arrays = [rng.standard_normal(shape).astype(np.float32) for shape in shapes]
    ours = [dg.tensor(array, device=device, requires_grad=True) for array in arrays]
    return ours, [torch.tensor(array, device=str(device), requires_grad=True) for array in arrays]


def operation(
    name: str,
    shapes: list[tuple[int, ...]],
    ours: Callable[..., Any],
    theirs: Callable[..., Any],
    rounds: int,
    device: Device,
) -> Iterator[Row]:
    """Forward with recording, and backward of one operation down to its leaves."""
    xs, ts = inputs(shapes, device)
    yield compare(f"{name}, forward", lambda: ours(*xs), lambda: theirs(*ts), rounds, None, device)
    y, t = ours(*xs), theirs(*ts)
    gy, gt = dg.ones(y.shape, device=device), torch.ones(t.shape, device=str(device))
    yield compare(
        f"{name}, backward",
        lambda: y.backward(gy, retain_graph=True),
        lambda: t.backward(gt, retain_graph=True),
        rounds,
        None,
        device,
    )


@dataclass
class Wrapping:
    """What a public function adds to the operations that it is made of.

    Attributes:
        name: what was run.
        whole_us, parts_us, extra_us: least microseconds a call of the function, of its formula, and of the
            function around an empty one.
        bar: what it must not exceed.
    """

    name: str
    whole_us: float
    parts_us: float
    extra_us: float
    bar: float = 0.8

    @property
    def holds(self) -> bool:
        """Whether the bar is kept."""
        return self.extra_us <= self.bar

    def __str__(self) -> str:
        verdict = f"at most {self.bar:g}: {'yes' if self.holds else 'NO'}"
        return f"{self.name:34} {self.whole_us:10.2f} {self.parts_us:10.2f} {self.extra_us:8.2f}   {verdict}"


#: Operation made of others, shapes of its inputs, and its call.
COMPOSITES: list[tuple[Any, list[tuple[int, ...]], Callable[..., Any]]] = [
    (dg.logit, [(4,)], lambda f, x: f(x)),
    (dg.relu6, [(4,)], lambda f, x: f(x)),
    (dg.smooth_l1_loss, [(4,), (4,)], lambda f, x, y: f(x, y)),
    (dg.bmm, [(2, 3, 3), (2, 3, 3)], lambda f, x, y: f(x, y)),
    (dg.norm, [(4, 4)], lambda f, x: f(x)),
    (dg.split, [(4, 4)], lambda f, x: f(x, 2)),
    (dg.pad, [(4, 4)], lambda f, x: f(x, ((1, 1), (0, 0)))),
    (dg.gather, [(4, 4)], lambda f, x: f(x, 1, _PLACES)),
    (dg.dropout, [(4,)], lambda f, x: f(x, p=0.5)),
    (dg.batch_norm, [(2, 3, 4), (3,), (3,)], lambda f, x, w, b: f(x, w, b)),
    (dg.scaled_dot_product_attention, [(1, 2, 3, 4)] * 3, lambda f, q, k, v: f(q, k, v)),
    (dg.einsum, [(4, 4), (4, 4)], lambda f, x, y: f("ij,jk->ik", x, y)),
]
_PLACES = dg.asarray([[0, 1], [1, 0]])


def least(call: Call, number: int) -> float:
    """Least processor time of one call, in microseconds."""
    return 1e6 * min(timeit.repeat(call, number=number, repeat=5, timer=time.process_time)) / number


def wrapping(rounds: int) -> Iterator[Wrapping]:
    """Composites beside their formulas, on the CPU."""
    for operation, shapes, run in COMPOSITES:
        xs = [dg.sigmoid(x).detach().requires_grad_() for x in inputs(shapes, CPU)[0]]
        whole = functools.partial(run, operation, *xs)
        parts = functools.partial(run, functools.partial(operation.record.formula, operations), *xs)
        number = max(1, int(TURN_S / 5 / seconds(whole, 10)))
        pairs = [(least(whole, number), least(parts, number)) for _ in range(rounds)]
        scope = operation.__globals__
        formula, scope["formula"] = scope["formula"], lambda *args, **options: None
        extra = min(least(whole, 1000) for _ in range(rounds))
        scope["formula"] = formula
        yield Wrapping(operation.__name__, *[min(column) for column in zip(*pairs, strict=True)], extra)


#: Call by PyTorch's name, and the operation's own, of a matrix, another, and a mask.
NAMES: list[tuple[str, Callable[..., Any], Callable[..., Any]]] = [
    ("torch.mul", lambda t, x, y, m: t.mul(x, y), lambda x, y, m: dg.multiply(x, y)),
    ("torch.maximum", lambda t, x, y, m: t.maximum(x, y), lambda x, y, m: dg.maximum(x, y)),
    ("torch.mm", lambda t, x, y, m: t.mm(x, y), lambda x, y, m: dg.matmul(x, y)),
    ("torch.exp", lambda t, x, y, m: t.exp(x), lambda x, y, m: dg.exp(x)),
    ("torch.cat", lambda t, x, y, m: t.cat([x, y]), lambda x, y, m: dg.concat([x, y])),
    ("torch.softmax", lambda t, x, y, m: t.softmax(x, -1), lambda x, y, m: dg.softmax(x, axis=-1)),
    ("torch.where", lambda t, x, y, m: t.where(m, x, y), lambda x, y, m: dg.where(m, x, y)),
    ("torch.clamp", lambda t, x, y, m: t.clamp(x, 0.0, 1.0), lambda x, y, m: dg.clip(x, 0.0, 1.0)),
    ("x.sum(1)", lambda t, x, y, m: x.sum(1), lambda x, y, m: dg.sum(x, axis=1)),
    ("x.mean()", lambda t, x, y, m: x.mean(), lambda x, y, m: dg.mean(x)),
    ("x.view(2, 8)", lambda t, x, y, m: x.view(2, 8), lambda x, y, m: dg.reshape(x, (2, 8))),
    ("x.masked_fill", lambda t, x, y, m: x.masked_fill(m, 0.0), lambda x, y, m: dg.masked_fill(x, m, 0.0)),
]


def naming(rounds: int) -> Iterator[Wrapping]:
    """Calls by PyTorch's names beside the operations that they lead to, on the CPU."""
    x, y = (each.detach() for each in inputs([(4, 4), (4, 4)], CPU)[0])
    mask = x > 0
    module = importlib.import_module("distgrad.torch")
    set_weak_scalars(False)
    for name, named, own in NAMES:
        whole, parts = functools.partial(named, module, x, y, mask), functools.partial(own, x, y, mask)
        pairs = [(least(whole, 1000), least(parts, 1000)) for _ in range(rounds)]
        first, second = [min(column) for column in zip(*pairs, strict=True)]
        yield Wrapping(name, first, second, first - second, 0.3)


def train_tiny(nn: Any, optim: Any, loss: Callable[..., Any], x: Any, y: Any, **options: Any) -> Call:
    """A training step of 16 → 16 → 16 → 2 with tanh on 16 samples: zero, forward, backward, AdamW."""
    model = nn.Sequential(nn.Linear(16, 16), nn.Tanh(), nn.Linear(16, 16), nn.Tanh(), nn.Linear(16, 2))
    model.to(x.device)
    optimizer = optim.AdamW(model.parameters(), lr=1e-3, **options)

    def step() -> None:
        optimizer.zero_grad()
        loss(model(x), y).backward()
        optimizer.step()

    return step


def bars(rounds: int, device: Device) -> Iterator[Row]:
    """The three times that are promised."""
    (x, y), (s, t) = inputs([(4,), (4,)], device)
    yield compare("x + y on 4 elements, recorded", lambda: x + y, lambda: s + t, rounds, 2.0, device)
    yield compare(
        "(x + y).sum().backward()",
        lambda: (x + y).sum().backward(),
        lambda: (s + t).sum().backward(),
        rounds,
        1.0,
        device,
    )
    rng = np.random.default_rng(0)
    samples, labels = rng.standard_normal((16, 16)).astype(np.float32), rng.integers(0, 2, 16)
    ours = train_tiny(
        dg.nn,
        dg.optim,
        dg.nn.functional.cross_entropy,
        dg.asarray(samples, device=device),
        dg.asarray(labels, device=device),
    )
    theirs = train_tiny(
        torch.nn,
        torch.optim,
        torch.nn.functional.cross_entropy,
        torch.tensor(samples, device=str(device)),
        torch.tensor(labels, device=str(device)),
        fused=True,
    )
    yield compare("tiny, the whole training step", ours, theirs, rounds, 1.5, device)


def main() -> int:
    """Print the table, write it if asked to; 1 if a bar is missed."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=25, help="turns of each library a case")
    parser.add_argument("--json", metavar="FILE", help="write the rows there too")
    add_device_option(parser)
    options = parser.parse_args()
    device = find_device(options.device)
    torch.set_num_threads(1)
    print(f"Python {platform.python_version()}, NumPy {np.__version__}, PyTorch {torch.__version__}")
    print(f"{'microseconds':34} {'distgrad':>10} {'PyTorch':>10} {'ratio':>8}")
    rows: list[Row | Wrapping] = []
    parts = [
        bars(options.rounds, device),
        *(operation(*each, options.rounds, device) for each in OPERATIONS),
    ]
    for row in itertools.chain(*parts):
        print(row, flush=True)
        rows.append(row)
    print(f"{'microseconds of processor time':34} {'whole':>10} {'parts':>10} {'extra':>8}")
    for line in itertools.chain(wrapping(options.rounds), naming(options.rounds)):
        print(line, flush=True)
        rows.append(line)
    if options.json:
        with open(options.json, "w") as file:
            json.dump([asdict(row) for row in rows], file, indent=1)
    return 0 if all(row.holds for row in rows) else 1


if __name__ == "__main__":
    sys.exit(main())
