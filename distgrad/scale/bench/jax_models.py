"""The benchmark's models in JAX: a loss over a tree of parameters, jitted with AdamW."""

from __future__ import annotations

import functools
import itertools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax

from .workloads import Workload

__all__ = ["jitted_step"]

Tree = Any


class _Init:
    """Random parameters of a scale at which nothing overflows."""

    def __init__(self, dtype: str) -> None:
        self.rng, self.dtype = np.random.default_rng(0), dtype

    def __call__(self, *shape: int) -> Any:
        return jnp.asarray((0.05 * self.rng.standard_normal(shape)).astype(self.dtype))


def jitted_step(name: str, work: Workload) -> Callable[[], Any]:
    """A function that makes one whole training step and waits for it."""
    if work.dtype == "float64":
        jax.config.update("jax_enable_x64", True)
    models: dict[str, Callable[..., Any]] = {
        "tiny": _dense(jnp.tanh),
        "cnn": _cnn,
        "gpt": _gpt,
        "gptm": _gpt,
        "resnet20": _resnet20,
        "lstm": _lstm,
        "embedding": _bag,
        "layernorm": _norms,
        "softmax": _softmaxes,
    }
    parameters, forward = models.get(name, _dense(jax.nn.relu))(_Init(work.dtype), *work.sizes)
    x, y = (jnp.asarray(array) for array in work.batch())
    optimizer = optax.adamw(1e-3)
    state = optimizer.init(parameters)

    def loss(p: Tree, x: Any, y: Any) -> Any:
        return optax.softmax_cross_entropy_with_integer_labels(forward(p, x), y).mean()

    @functools.partial(jax.jit, donate_argnums=(0, 1))
    def update(p: Tree, s: Tree, x: Any, y: Any) -> Any:
        value, g = jax.value_and_grad(loss)(p, x, y)
        change, s = optimizer.update(g, s, p)
        return optax.apply_updates(p, change), s, value

    kept = [parameters, state]

    def step() -> Any:
        kept[0], kept[1], value = update(*kept, x, y)
        return value.block_until_ready()

    return step


def _dense(activation: Callable[[Any], Any]) -> Callable[..., Any]:
    def model(init: _Init, *widths: int) -> tuple[Tree, Callable[..., Any]]:
        def forward(p: Tree, x: Any) -> Any:
            for i, (weight, bias) in enumerate(p):
                x = x @ weight + bias
                x = activation(x) if i < len(p) - 1 else x
            return x

        return [(init(k, n), init(n)) for k, n in itertools.pairwise(widths)], forward

    return model


def _conv(x: Any, weight: Any, stride: int = 1, padding: str = "VALID") -> Any:
    layout = ("NHWC", "HWIO", "NHWC")
    return jax.lax.conv_general_dilated(x, weight, (stride, stride), padding, dimension_numbers=layout)


def _cnn(init: _Init) -> tuple[Tree, Callable[..., Any]]:
    dense, head = _dense(jax.nn.relu)(init, 9216, 128, 10)

    def forward(p: Tree, x: Any) -> Any:
        x = jnp.transpose(x, (0, 2, 3, 1))
        for weight, bias in p["conv"]:
            x = jax.nn.relu(_conv(x, weight) + bias)
        x = jax.lax.reduce_window(x, -jnp.inf, jax.lax.max, (1, 2, 2, 1), (1, 2, 2, 1), "VALID")
        return head(p["dense"], x.reshape(len(x), -1))

    return {"conv": [(init(3, 3, 1, 32), init(32)), (init(3, 3, 32, 64), init(64))], "dense": dense}, forward


def _norm(x: Any, weight: Any, bias: Any, axis: Any = -1) -> Any:
    x = x - x.mean(axis, keepdims=True)
    return x * jax.lax.rsqrt((x * x).mean(axis, keepdims=True) + 1e-5) * weight + bias


def _gpt(
    init: _Init, classes: int, length: int, layers: int, heads: int, width: int
) -> tuple[Tree, Callable[..., Any]]:
    def block() -> Tree:
        shapes = {"inward": 3 * width, "outward": width, "widen": 4 * width}
        p = {name: (init(width, n), init(n)) for name, n in shapes.items()}
        p["narrow"] = (init(4 * width, width), init(width))
        return p | {"norm1": (init(width), init(width)), "norm2": (init(width), init(width))}

    mask = jnp.tril(jnp.ones((length, length), bool))

    def attend(x: Any) -> Any:
        q, k, v = jnp.moveaxis(x.reshape(len(x), length, 3, heads, width // heads), 2, 0)
        scores = jnp.einsum("bqhd,bkhd->bhqk", q, k) / np.sqrt(width // heads)
        weights = jax.nn.softmax(jnp.where(mask, scores, -1e9), -1)
        return jnp.einsum("bhqk,bkhd->bqhd", weights, v).reshape(len(x), length, width)

    def linear(x: Any, p: Tree) -> Any:
        return x @ p[0] + p[1]

    def forward(p: Tree, index: Any) -> Any:
        x = p["characters"][index] + p["places"]
        for w in p["blocks"]:
            x = x + linear(attend(linear(_norm(x, *w["norm1"]), w["inward"])), w["outward"])
            hidden = jax.nn.gelu(linear(_norm(x, *w["norm2"]), w["widen"]), approximate=False)
            x = x + linear(hidden, w["narrow"])
        return (_norm(x, *p["norm"]) @ p["head"]).reshape(-1, classes)

    p = {"characters": init(classes, width), "places": init(length, width), "head": init(width, classes)}
    return p | {"norm": (init(width), init(width)), "blocks": [block() for _ in range(layers)]}, forward


def _resnet20(init: _Init) -> tuple[Tree, Callable[..., Any]]:
    def pair(kernel: int, before: int, width: int) -> Tree:
        return init(kernel, kernel, before, width), init(width), init(width)

    def conv(x: Any, p: Tree, stride: int = 1) -> Any:
        return _norm(_conv(x, p[0], stride, "SAME"), p[1], p[2], axis=(0, 1, 2))

    def forward(p: Tree, x: Any) -> Any:
        x = jax.nn.relu(conv(jnp.transpose(x, (0, 2, 3, 1)), p["stem"]))
        for block in p["blocks"]:
            stride = len(block) - 1
            y = conv(jax.nn.relu(conv(x, block[0], stride)), block[1])
            x = jax.nn.relu(y + (conv(x, block[2], stride) if stride == 2 else x))
        return x.mean((1, 2)) @ p["head"][0] + p["head"][1]

    widths = [16] * 4 + [32] * 3 + [64] * 3
    blocks = []
    for before, width in itertools.pairwise(widths):
        short = [pair(1, before, width)] if before != width else []
        blocks.append([pair(3, before, width), pair(3, width, width), *short])
    return {"stem": pair(3, 3, 16), "blocks": blocks, "head": (init(64, 10), init(10))}, forward


def _lstm(init: _Init, inputs: int, width: int) -> tuple[Tree, Callable[..., Any]]:
    def forward(p: Tree, x: Any) -> Any:
        def cell(carry: Any, z: Any) -> Any:
            h, c = carry
            i, f, g, o = jnp.split(z + h @ p["hidden"], 4, -1)
            c = jax.nn.sigmoid(f) * c + jax.nn.sigmoid(i) * jnp.tanh(g)
            h = jax.nn.sigmoid(o) * jnp.tanh(c)
            return (h, c), None

        start = jnp.zeros((x.shape[1], width), x.dtype)
        (h, _), _ = jax.lax.scan(cell, (start, start), x @ p["input"] + p["bias"])
        return h @ p["head"][0] + p["head"][1]

    p = {"input": init(inputs, 4 * width), "hidden": init(width, 4 * width), "bias": init(4 * width)}
    return p | {"head": (init(width, 10), init(10))}, forward


def _bag(init: _Init, classes: int, width: int) -> tuple[Tree, Callable[..., Any]]:
    dense, head = _dense(jax.nn.relu)(init, width, width, 10)

    def forward(p: Tree, index: Any) -> Any:
        return head(p["dense"], p["table"][index].mean(1))

    return {"table": init(classes, width), "dense": dense}, forward


def _norms(init: _Init, width: int, layers: int) -> tuple[Tree, Callable[..., Any]]:
    def forward(p: Tree, x: Any) -> Any:
        for pair in p["norms"]:
            x = x + _norm(x, *pair)
        return x @ p["head"][0] + p["head"][1]

    norms = [(init(width), init(width)) for _ in range(layers)]
    return {"norms": norms, "head": (init(width, 10), init(10))}, forward


def _softmaxes(init: _Init, width: int, layers: int) -> tuple[Tree, Callable[..., Any]]:
    def forward(p: Tree, x: Any) -> Any:
        x = _norm(x, *p["norm"])
        for _ in range(layers):
            x = x + jax.nn.softmax(x, -1)
        return x @ p["head"][0] + p["head"][1]

    return {"norm": (init(width), init(width)), "head": (init(width, 10), init(10))}, forward
