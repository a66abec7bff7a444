"""Runs one program with its random numbers from NumPy and without dropout, and prints its losses as JSON.

``python watched.py LIMIT program.py ARGS`` with PyTorch, ``python -m distgrad.torch watched.py …`` with ours.
"""

import builtins
import importlib
import json
import math
import os
import random
import runpy
import sys
import time

import numpy as np
import torch

OURS = "distgrad" in torch.__version__
LOSSES, TIMES = [], []
_counts = {}


class Enough(BaseException):
    """As many losses as were asked for."""


def draws(kind, shape):
    """A generator for the n-th draw of a kind and shape, the same with both packages."""
    key = (kind, *(int(n) for n in shape))
    _counts[key] = _counts.get(key, 0) + 1
    return np.random.default_rng([sum(map(ord, kind)), _counts[key], *key[1:]])


def uniform(shape):
    return nudged(draws("uniform", shape).random(shape))


def normal(shape):
    return nudged(draws("normal", shape).standard_normal(shape))


def nudged(x):
    """Every number times 1 ± 2⁻²⁴, half a unit of float32's last place, where a seed of signs is given."""
    if "WATCHED_NUDGE" not in os.environ:
        return x
    rng = np.random.default_rng([int(os.environ["WATCHED_NUDGE"]), len(_counts), np.size(x)])
    return x * (1.0 + rng.choice([-1.0, 1.0], np.shape(x)) * 2.0**-24)


def integers(low, high, shape):
    return draws("integers", shape).integers(low, high, shape)


def permutation(n):
    return draws("permutation", (n,)).permutation(n)


def watch_ours():
    """Draw as NumPy does; the generator is asked for everything."""
    from distgrad.backend.rng import Generator

    Generator.uniform = lambda self, shape, dtype=np.float32, device=None: np.asarray(uniform(shape)).astype(
        dtype
    )
    Generator.normal = lambda self, shape, dtype=np.float32, device=None: np.asarray(normal(shape)).astype(
        dtype
    )
    Generator.integers = lambda self, low, high, shape, dtype=np.int64, device=None: np.asarray(
        integers(low, high, shape)
    ).astype(dtype)
    Generator.permutation = lambda self, n: permutation(n)
    importlib.import_module("distgrad.data.sampler")._ROUND = 32  # as many as PyTorch draws at once


def watch_theirs():
    """Draw as NumPy does, function by function."""

    def fill(make):
        def method(self, *args, generator=None, **options):
            with torch.no_grad():
                self.copy_(
                    torch.from_numpy(np.asarray(make(tuple(self.shape), *args, **options), np.float64))
                )
            return self

        return method

    torch.Tensor.uniform_ = fill(
        lambda shape, a=0.0, b=1.0, **o: uniform(shape) * (o.get("to", b) - o.get("from", a)) + a
    )
    torch.Tensor.normal_ = fill(lambda shape, mean=0.0, std=1.0: normal(shape) * std + mean)
    torch.Tensor.bernoulli_ = fill(lambda shape, p=0.5: uniform(shape) < p)
    torch.Tensor.exponential_ = fill(lambda shape, lambd=1.0: -np.log1p(-uniform(shape)) / lambd)

    def sized(make):
        def create(*size, generator=None, out=None, **options):
            size = size or (options.pop("size"),)
            size = tuple(size[0]) if len(size) == 1 and not isinstance(size[0], int) else size
            options.pop("pin_memory", None)
            options.setdefault("dtype", torch.get_default_dtype())
            return torch.tensor(make(size), **options)

        return create

    torch.rand, torch.randn = sized(uniform), sized(normal)
    torch.rand_like = lambda x, **o: torch.rand(*x.shape, **{"dtype": x.dtype, **o})
    torch.randn_like = lambda x, **o: torch.randn(*x.shape, **{"dtype": x.dtype, **o})

    def randint(*args, size=None, generator=None, low=None, high=None, **options):
        args = [each for each in (low, *args) if each is not None]
        if size is None:
            *args, size = args
        args += [] if high is None else [high]
        bounds = (0, args[0]) if len(args) == 1 else args
        return torch.tensor(integers(*bounds, tuple(size)), **options)

    torch.randint = randint

    def multinomial(x, num_samples, replacement=False, *, generator=None, out=None):
        weights = x.detach().double().numpy()
        if replacement:
            shares = np.cumsum(weights, axis=-1)
            marks = uniform((*weights.shape[:-1], num_samples)) * shares[..., -1:]
            return torch.tensor((marks[..., None] >= shares[..., None, :]).sum(-1))
        waits = -np.log1p(-uniform(weights.shape))
        with np.errstate(divide="ignore", invalid="ignore"):
            order = np.argsort(np.where(weights > 0, waits / weights, np.inf), axis=-1, kind="stable")
        return torch.tensor(order[..., :num_samples])

    torch.multinomial = torch.Tensor.multinomial = multinomial
    sampler = torch.utils.data.RandomSampler
    indices = sampler.__iter__
    sampler.__iter__ = lambda self: (  # PyTorch draws a second permutation at the end, of which it takes none
        indices(self) if self.replacement or self.num_samples % len(self.data_source)
        else iter([i for _ in range(self.num_samples // len(self.data_source))
                   for i in torch.randperm(len(self.data_source)).tolist()])
    )  # fmt: skip
    torch.randperm = lambda n, generator=None, **o: torch.tensor(permutation(n), **o)
    torch.utils.data.dataset.randperm = torch.randperm
    torch.bernoulli = lambda x, **o: torch.tensor(uniform(tuple(x.shape)), dtype=x.dtype).lt(x).to(x.dtype)
    torch.normal = lambda mean, std=1.0, size=None, **o: (
        torch.randn(
            *(size or np.broadcast_shapes(*[x.shape for x in (mean, std) if isinstance(x, torch.Tensor)]))
        )
        * std
        + mean
    )


def without_dropout():
    """Dropout is the identity with both, as their masks differ."""
    functional = importlib.import_module("torch.nn.functional")
    for name in ("dropout", "dropout1d", "dropout2d", "dropout3d", "alpha_dropout", "feature_alpha_dropout"):
        setattr(functional, name, lambda x, *args, **options: x)
    for name in ("Dropout", "Dropout1d", "Dropout2d", "Dropout3d", "AlphaDropout"):
        getattr(torch.nn, name).forward = lambda self, x: x
    for kind in ("RNN", "LSTM", "GRU"):
        wrap(getattr(torch.nn, kind))
    for kind in ("MultiheadAttention", "TransformerEncoderLayer", "TransformerDecoderLayer"):
        wrap(getattr(torch.nn, kind))
    attention = functional.scaled_dot_product_attention

    def without(*args, dropout_p=0.0, **options):
        return attention(*args, **options)

    functional.scaled_dot_product_attention = without


def wrap(kind):
    """Modules of a kind without dropout inside."""
    make = kind.__init__

    def init(self, *args, **options):
        options.pop("dropout", None)
        make(self, *args, **{**options, "dropout": 0.0})

    kind.__init__ = init


def without_gpu():
    """Programs that ask for a GPU, whether there is one or not, get the host."""

    def on_host(method):
        def moved(self, *args, **options):
            args = [HOST if is_gpu(each) else each for each in args]
            return method(self, *args, **{k: HOST if is_gpu(each) else each for k, each in options.items()})

        return moved

    def is_gpu(value):
        return isinstance(value, str | torch.device) and str(value).startswith("cuda")

    HOST = torch.device("cpu")
    torch.Tensor.to, torch.nn.Module.to = on_host(torch.Tensor.to), on_host(torch.nn.Module.to)
    torch.set_default_tensor_type = lambda kind: None
    torch.Tensor.cuda = torch.nn.Module.cuda = lambda self, *args, **options: self
    for name in (
        "zeros",
        "ones",
        "empty",
        "full",
        "arange",
        "linspace",
        "tensor",
        "rand",
        "randn",
        "randint",
    ):
        made = getattr(torch, name)
        setattr(
            torch,
            name,
            lambda *args, _made=made, **o: on_host(lambda _, *a, **k: _made(*a, **k))(0, *args, **o),
        )


def widen_norm():
    """PyTorch's ``clip_grad_norm_`` with squares summed in float64: in float32 they lose up to 1e-3 of it."""

    def clip_grad_norm_(parameters, max_norm, *args, **options):
        gradients = [each.grad for each in parameters if each.grad is not None]
        norm = sum(float((each.double() ** 2).sum()) for each in gradients) ** 0.5
        for each in gradients:
            each.mul_(min(1.0, max_norm / (norm + 1e-6)))
        return torch.tensor(norm)

    torch.nn.utils.clip_grad_norm_ = clip_grad_norm_


def in_float64():
    """All that a program computes in float32 is computed in float64."""
    torch.set_default_dtype(torch.float64)
    torch.float = torch.float32 = torch.float64
    torch.Tensor.float = torch.Tensor.double
    torch.FloatTensor = torch.DoubleTensor
    from_numpy = torch.from_numpy
    torch.from_numpy = lambda x: from_numpy(x.astype(np.float64) if x.dtype == np.float32 else x)


def old_numpy():
    """Names that NumPy had when some of the programs were written."""
    for name, value in {**vars(builtins), "Inf": np.inf, "float_": np.float64}.items():
        if name in ("int", "float", "bool", "object", "Inf", "float_"):
            vars(np).setdefault(name, value)


def give_terminal():
    """Programs that draw bars ask for the width of their terminal."""
    import fcntl
    import pty
    import struct
    import termios

    _, mine = pty.openpty()
    fcntl.ioctl(mine, termios.TIOCSWINSZ, struct.pack("HHHH", 24, 80, 0, 0))
    os.dup2(mine, 0)


def seed_environments():
    """Environments of gymnasium draw the same numbers."""
    try:
        gymnasium = importlib.import_module("gymnasium")
    except ModuleNotFoundError:
        return
    make = gymnasium.make

    def seeded(*args, **options):
        made = make(*args, **options)
        made.reset(seed=0)
        made.action_space.seed(0)
        return made

    gymnasium.make = seeded


def watch_losses(limit):
    """Note every loss that backward starts from, and stop after some."""
    backward = torch.Tensor.backward

    def noted(self, *args, **options):
        LOSSES.append(float(self.detach().reshape(-1).sum().item()))
        TIMES.append(time.process_time())
        backward(self, *args, **options)
        if len(LOSSES) >= limit:
            raise Enough

    torch.Tensor.backward = noted


def main():
    limit, program = int(sys.argv[1]), sys.argv[2]
    sys.argv[:] = sys.argv[2:]
    sys.path.insert(0, os.path.dirname(os.path.abspath(program)))
    sys.path.insert(1, os.path.join(os.path.dirname(os.path.abspath(__file__)), "standins"))
    random.seed(0)
    np.random.seed(0)  # noqa: NPY002 (programs draw from it)
    (watch_ours if OURS else watch_theirs)()
    if os.environ.get("WATCHED_OTHER_KERNELS"):
        torch.backends.mkldnn.enabled = False
    if os.environ.get("WATCHED_WIDE_NORM"):
        widen_norm()
    if os.environ.get("WATCHED_FLOAT64"):
        in_float64()
    without_dropout()
    without_gpu()
    old_numpy()
    give_terminal()
    seed_environments()
    watch_losses(limit)
    error = None
    try:
        runpy.run_path(program, run_name="__main__")
    except Enough:
        pass
    except SystemExit as end:
        error = None if not end.code else f"exit {end.code}"
    except BaseException as failure:
        import traceback

        lines = traceback.extract_tb(failure.__traceback__)
        place = next(
            (
                f"{os.path.basename(e.filename)}:{e.lineno}"
                for e in reversed(lines)
                if program in e.filename or "/pp/" in e.filename
            ),
            "",
        )
        error = f"{type(failure).__name__}: {failure} [{place}]"
    steps = np.diff(TIMES)
    ms = float(np.median(steps) * 1e3) if len(steps) else math.nan
    print("\nWATCHED " + json.dumps({"losses": LOSSES, "error": error, "ms": ms}))
    sys.stdout.flush()
    os._exit(0)


if __name__ == "__main__":
    main()
