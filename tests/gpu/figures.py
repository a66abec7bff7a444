"""Figures of one library on one GPU: steps, products, attention, convolutions, bandwidth, memory, launches.

    python tests/gpu/figures.py distgrad|torch [--seconds 0.5] [--device cpu] [--small]

The most wanted come first, and each is written down as it is measured. ``--small`` and ``--device cpu`` are
for trying the measurement itself: such figures say nothing of a GPU.
"""

from __future__ import annotations

import argparse
import importlib.util
import statistics
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from math import prod
from operator import add, matmul
from typing import Any

import numpy as np
from contenders import PRECISIONS, Contender
from rows import say

from distgrad.scale.bench.workloads import WORKLOADS

STEPS = ("tiny", "mlp", "cnn", "gpt", "gptm", "resnet20", "lstm", "embedding")
FEW_STEPS = ("tiny", "lstm")
Call = Callable[[], Any]


def both_ways(call: Call, inputs: Sequence[Any], g: Any) -> Call:
    """The call, and backward from ``g`` to its inputs, whose gradients are not added to former ones."""

    def run() -> None:
        for x in inputs:
            x.grad = None
        call().backward(g)

    return run


def without_graph(contender: Contender, call: Call) -> Call:
    """The call, with nothing kept for backward."""

    def run() -> None:
        with contender.no_grad():
            call()

    return run


class Bench:
    """What all measurements need.

    Args:
        contender: whose figures these are.
        seconds: that a step is repeated for.
        is_small: sizes to try the measurement itself.
    """

    def __init__(self, contender: Contender, seconds: float, is_small: bool) -> None:
        self.contender, self.seconds, self.is_small = contender, seconds, is_small
        self.failed = False

    def say(self, figure: str, name: str, **values: Any) -> None:
        """Write a figure down."""
        shown = {
            key: float(f"{value:.4g}") if isinstance(value, float) else value for key, value in values.items()
        }
        say(figure=figure, library=self.contender.name, name=name, **shown)

    @contextmanager
    def attempt(self, figure: str, name: str) -> Iterator[None]:
        """What fails is written down too, and the rest goes on."""
        try:
            yield
        except Exception as error:
            self.failed = True
            self.say(figure, name, error=f"{type(error).__name__}: {error}"[:300])

    def queued_ms(self, call: Call, repeats: int = 10) -> float:
        """Milliseconds of a call among many that are queued at once: the device's, if the host is faster."""
        repeats = 1 if self.is_small else repeats
        for _ in range(min(3, repeats)):
            call()
        self.contender.synchronize()
        best = float("inf")
        for _ in range(3):
            start_s = time.perf_counter()
            for _ in range(repeats):
                call()
            self.contender.synchronize()
            best = min(best, 1e3 * (time.perf_counter() - start_s) / repeats)
        return best

    def tflops(self, figure: str, name: str, num_flops: float, call: Call, repeats: int = 10) -> None:
        """Time a product, and write down how fast it was."""
        ms = self.queued_ms(call, repeats)
        self.say(figure, name, ms=ms, tflops=num_flops / ms / 1e9)


# -- steps


def steps(bench: Bench) -> None:
    """A training step's time, and the host's part: until all of it is queued."""
    for name in FEW_STEPS if bench.is_small else STEPS:
        with bench.attempt("step", name):
            step = bench.contender.step(name)
            for _ in range(5):
                step()
            bench.contender.synchronize()
            whole: list[float] = []
            host: list[float] = []
            end_s = time.perf_counter() + bench.seconds
            while len(whole) < 5 or (time.perf_counter() < end_s and len(whole) < 2000):
                start_s = time.perf_counter()
                step()
                host.append(1e3 * (time.perf_counter() - start_s))
                bench.contender.synchronize()
                whole.append(1e3 * (time.perf_counter() - start_s))
            ms = statistics.median(whole)
            rate = 1e3 * WORKLOADS[name].inputs[1][0] / ms
            bench.say("step", name, ms=ms, host_ms=statistics.median(host), samples_per_s=rate)


def memory(bench: Bench) -> None:
    """The most memory that a step's arrays hold; counted apart, since counting takes the host's time."""
    for name in FEW_STEPS if bench.is_small else STEPS:
        with bench.attempt("memory", name):
            step = bench.contender.step(name)
            step()
            bench.contender.start_peak()
            step()
            bench.contender.synchronize()
            bench.say("memory", name, peak_mib=bench.contender.peak_mib())


def launches(bench: Bench) -> None:
    """What a step starts on the device, by PyTorch's profiler, which sees CuPy's kernels too."""
    if bench.contender.device != "cuda" or importlib.util.find_spec("torch") is None:
        bench.say("launches", "all", error="not counted: that takes a GPU and PyTorch's profiler")
        return
    import torch

    for name in FEW_STEPS if bench.is_small else STEPS:
        with bench.attempt("launches", name):
            step = bench.contender.step(name)
            for _ in range(3):
                step()
            bench.contender.synchronize()
            with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CUDA]) as profile:
                step()
                bench.contender.synchronize()
            seen = [event for event in profile.key_averages() if event.self_device_time_total > 0]
            longest = sorted(seen, key=lambda event: -event.self_device_time_total)[:8]
            bench.say(
                "launches",
                name,
                launches=sum(event.count for event in seen),
                device_ms=sum(event.self_device_time_total for event in seen) / 1e3,
                longest=[
                    [event.key[:48], event.count, round(event.self_device_time_total / 1e3, 4)]
                    for event in longest
                ],
            )


# -- arithmetic


def products(bench: Bench) -> None:
    """Matrix products: one, and a stack whose right side is transposed, as attention has them."""
    size, stack, inner = (64, 2, 16) if bench.is_small else (8192, 64, 1024)
    random, no_grad = bench.contender.random, bench.contender.no_grad
    for name, (dtype, precision) in PRECISIONS.items():
        with bench.attempt("product", name), no_grad():
            bench.contender.set_precision(precision)
            a, b = random(size, size, dtype=dtype), random(size, size, dtype=dtype)
            bench.tflops("product", name, 2 * size**3, partial(matmul, a, b))
        with bench.attempt("stacked product", name), no_grad():
            a, b = (random(stack, inner, inner, dtype=dtype) for _ in range(2))
            bench.tflops("stacked product", name, 2 * stack * inner**3, partial(matmul, a, b.mT))
    bench.contender.set_precision("highest")


def attention(bench: Bench) -> None:
    """Causal attention, of whose products half count; backward has five for forward's two."""
    contender = bench.contender
    for name, (dtype, precision) in PRECISIONS.items():
        for length in (16,) if bench.is_small else (1024, 4096):
            batch, heads, width = (1, 2, 8) if bench.is_small else (16384 // length, 16, 64)
            num_flops = 2 * batch * heads * length**2 * width
            with bench.attempt(f"attention {length}", name):
                contender.set_precision(precision)
                qkv = [
                    contender.random(batch, heads, length, width, dtype=dtype, gradient=True)
                    for _ in range(3)
                ]
                g = contender.random(batch, heads, length, width, dtype=dtype)
                call = partial(contender.attend, *qkv, is_causal=True)
                with contender.no_grad():
                    bench.tflops(f"attention {length}, forward", name, num_flops, call, 3)
                both = both_ways(call, qkv, g)
                bench.tflops(f"attention {length}, both ways", name, 3.5 * num_flops, both, 3)
    contender.set_precision("highest")


#: name: images, filters, their size, stride
CONVOLUTIONS = {
    "3x3 of 64": ((64, 64, 56, 56), 64, 3, 1),
    "1x1 to 256": ((64, 64, 56, 56), 256, 1, 1),
    "7x7 by 2": ((64, 3, 224, 224), 64, 7, 2),
}


def convolutions(bench: Bench) -> None:
    """Those of a ResNet-50, forward and with both gradients."""
    contender = bench.contender
    for name, (dtype, precision) in PRECISIONS.items():
        for place, (shape, filters, size, stride) in CONVOLUTIONS.items():
            if bench.is_small:
                shape, filters = (1, shape[1], 9, 9), 4
            with bench.attempt(f"convolution {place}", name):
                contender.set_precision(precision)
                x = contender.random(*shape, dtype=dtype, gradient=True)
                w = contender.random(filters, shape[1], size, size, dtype=dtype, gradient=True)
                call = partial(contender.functional.conv2d, x, w, stride=stride, padding=size // 2)
                y = call()
                g = contender.random(*y.shape, dtype=dtype)
                num_flops = 2 * prod(y.shape) * shape[1] * size**2
                with contender.no_grad():
                    bench.tflops(f"convolution {place}, forward", name, num_flops, call, 3)
                both = both_ways(call, (x, w), g)
                bench.tflops(f"convolution {place}, both ways", name, 3 * num_flops, both, 3)
    contender.set_precision("highest")


# -- memory


def bandwidth(bench: Bench) -> None:
    """What fused kernels move in a second: the least bytes that the task needs, by the time that it takes.

    An array that must be read before any of it can be written counts twice.
    """
    elements = 1 << 12 if bench.is_small else min(1 << 28, bench.contender.free_bytes() // 64)
    for dtype, width in (("float32", 4), ("bfloat16", 2)):
        for kernels in (row_kernels, image_kernels):
            with bench.attempt("bandwidth", f"{kernels.__name__}, {dtype}"):
                for name, passes, size, call in kernels(bench.contender, dtype, elements):
                    with bench.attempt("bandwidth", f"{name}, {dtype}"):
                        ms = bench.queued_ms(call)
                        rate = passes * size * width / ms / 1e6
                        bench.say("bandwidth", f"{name}, {dtype}", ms=ms, gb_per_s=rate)


#: Name, passes over the array, its elements, and the call.
Kernel = tuple[str, float, int, Call]


def row_kernels(contender: Contender, dtype: str, elements: int) -> Iterator[Kernel]:
    """Those over rows of 1,024 numbers."""
    F, rows, columns = contender.functional, elements // 1024, 1024
    x = contender.random(rows, columns, dtype=dtype, gradient=True)
    g = contender.random(rows, columns, dtype=dtype)
    w, b = contender.random(columns, dtype=dtype), contender.random(columns, dtype=dtype)
    target = contender.whole(np.random.default_rng(0).integers(0, columns, rows))
    forward = partial(without_graph, contender)
    yield "copy", 2, elements, forward(g.clone)
    yield "add", 3, elements, forward(partial(add, x, g))
    yield "transposed copy", 2, elements, forward(x.detach().mT.contiguous)
    yield "sum of rows", 1, elements, forward(partial(x.sum, -1))
    yield "sum of columns", 1, elements, forward(partial(x.sum, 0))
    yield "dropout", 2, elements, forward(partial(F.dropout, x, 0.1, True))
    for name, call in {
        "gelu": partial(F.gelu, x),
        "softmax": partial(F.softmax, x, -1),
        "layer norm": partial(F.layer_norm, x, (columns,), w, b),
    }.items():
        yield name, 2, elements, forward(call)
        yield f"{name}, both ways", 5, elements, both_ways(call, (x,), g)
    loss = partial(F.cross_entropy, x, target)
    yield "cross entropy", 1, elements, forward(loss)
    yield "cross entropy, both ways", 3, elements, both_ways(loss, (x,), None)
    table = contender.random(2, columns, dtype=dtype, gradient=True)
    for name, index in {"two rows": target % 2, "one row": target * 0}.items():
        look_up = partial(F.embedding, index, table)
        yield f"embedding of {name}, both ways", 2, elements, both_ways(look_up, (table,), g)


def image_kernels(contender: Contender, dtype: str, elements: int) -> Iterator[Kernel]:
    """Those over images, and the optimizer's."""
    F, channels = contender.functional, 64
    side = 56 if elements > channels * 56**2 else 4
    x = contender.random(max(elements // (channels * side**2), 1), channels, side, side, dtype=dtype)
    w, b = contender.random(channels, dtype=dtype), contender.random(channels, dtype=dtype)
    forward = partial(without_graph, contender)
    norm = partial(F.batch_norm, x, None, None, w, b, training=True)
    yield "batch norm", 3, prod(x.shape), forward(norm)
    for images in (len(x), 1):
        grouped = partial(F.group_norm, x[:images], 8, w, b)
        yield f"group norm of {images} images", 3, prod(x[:images].shape), forward(grouped)
    yield "max pool", 1.25, prod(x.shape), forward(partial(F.max_pool2d, x, 3, 2, 1))
    if dtype == "float32":
        p = contender.module.nn.Parameter(contender.random(elements // 4))
        p.grad = contender.random(elements // 4)
        options = {} if contender.is_ours else {"fused": True}
        yield "AdamW", 7, elements // 4, contender.module.optim.AdamW([p], lr=1e-3, **options).step


def all_reduce(bench: Bench) -> None:
    """NCCL with one rank, which has nothing to reduce: what a call costs."""
    if not bench.contender.is_ours:
        return
    from distgrad.comm import nccl
    from distgrad.comm.single import SingleCommunicator

    with bench.attempt("NCCL", "one rank"), nccl.connect(SingleCommunicator(), "cuda") as comm:
        for num_bytes in (1 << 10, 1 << 16 if bench.is_small else 1 << 28):
            x = bench.contender.random(num_bytes // 4)
            ms = bench.queued_ms(partial(comm.all_reduce, x._data))
            bench.say("NCCL", f"one rank, {num_bytes} bytes", ms=ms)


MEASURES = (steps, products, attention, convolutions, bandwidth, memory, all_reduce, launches)


def main() -> int:
    """Measure; 1 if anything failed."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n", 1)[0])
    parser.add_argument("library", choices=("distgrad", "torch"))
    parser.add_argument("--device", default="cuda", choices=("cuda", "cpu"))
    parser.add_argument("--seconds", type=float, default=0.5, help="that a step is repeated for")
    parser.add_argument("--small", action="store_true", help="to try the measurement itself")
    options = parser.parse_args()
    seconds = 0.0 if options.small else options.seconds
    bench = Bench(Contender(options.library, options.device), seconds, options.small)
    for measure in MEASURES:
        with bench.attempt(measure.__name__, "all"):
            measure(bench)
    return int(bench.failed)


if __name__ == "__main__":
    raise SystemExit(main())
