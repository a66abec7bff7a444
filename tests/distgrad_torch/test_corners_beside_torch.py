"""Arguments at the edge of what operations take, with PyTorch's results and gradients."""

import numpy as np
import pytest

import distgrad.torch

torch = pytest.importorskip("torch")

CORNERS = {
    "circular padding of what is left": (
        ((1, 3, 4, 4),),
        lambda lib, x: lib.nn.functional.pad(x, (-1, 1, -2, 1), "circular"),
    ),
    "axes of length 1 in tensordot": (
        ((3, 1, 2), (2, 4, 1)),
        lambda lib, x, y: lib.tensordot(x, y, dims=([0, 1], [2, 1])),
    ),
    "a scalar gathered": (((),), lambda lib, x: lib.gather(x, 0, lib.zeros(1, dtype=lib.int64))),
    "nothing gathered": (((5,),), lambda lib, x: lib.gather(x, 0, lib.zeros(2, 0, dtype=lib.int64))),
    "quantiles of a scalar": (
        ((),),
        lambda lib, x: lib.quantile(x, lib.tensor([0.2, 0.7]).double(), 0, True),
    ),
    "quantiles at parts that are differentiated": (
        ((3, 5), (2,)),
        lambda lib, x, q: lib.quantile(x, lib.sigmoid(q), 1),
    ),
    "a norm below 1 at a zero": (
        ((4,),),
        lambda lib, x: lib.linalg.vector_norm(x * lib.tensor([1.0, 0.0, 1.0, 2.0]), 0.5),
    ),
    "attention over given weights": (
        ((3, 2, 4), (12, 4), (12,), (4, 4), (4,)),
        lambda lib, x, w, b, v, c: lib.nn.functional.multi_head_attention_forward(
            x, x, x, 4, 2, w, b, None, None, True, 0.0, v, c
        )[0],
    ),
    "attention over keys that are projected already": (
        ((3, 2, 4), (4, 4), (4, 5, 2)),
        lambda lib, x, w, k: lib.nn.functional.multi_head_attention_forward(
            x,
            x[:1].expand(5, 2, 4),
            x[:1].expand(5, 2, 4),
            4,
            2,
            None,
            None,
            None,
            None,
            False,
            0.0,
            w,
            None,
            False,
            use_separate_proj_weight=True,
            q_proj_weight=w,
            k_proj_weight=w,
            v_proj_weight=w,
            static_k=k,
            static_v=k * 2,
        )[0],
    ),
    "windows side by side": (((1, 1, 4, 6),), lambda lib, x: lib.nn.functional.avg_pool2d(x, (2, 3), ())),
    "one score": (
        ((),),
        lambda lib, x: lib.nn.functional.multi_margin_loss(x, lib.tensor(0)),
    ),
    "one sample": (
        ((5,),),
        lambda lib, x: lib.nn.functional.multi_margin_loss(x, lib.tensor([3]), p=2),
    ),
    "labels of one score": (
        ((),),
        lambda lib, x: lib.nn.functional.multilabel_margin_loss(x, lib.tensor(0)),
    ),
    "an empty tensor of one axis among others": (
        ((2, 3), (2, 1)),
        lambda lib, x, y: lib.cat([lib.tensor([]).double(), x, y], dim=1),
    ),
}


@pytest.mark.parametrize("corner", CORNERS)
def test_corners(corner):
    shapes, function = CORNERS[corner]
    rng = np.random.default_rng(0)
    start = [rng.standard_normal(shape) for shape in shapes]
    got = []
    for lib in (torch, distgrad.torch):
        inputs = [lib.tensor(each).requires_grad_() for each in start]
        out = function(lib, *inputs)
        (out * out).sum().backward()
        got.append([each.detach().numpy() for each in (out, *[x.grad for x in inputs])])
    for theirs, ours in zip(*got, strict=True):
        assert ours.shape == theirs.shape
        np.testing.assert_allclose(ours, theirs, rtol=1e-12, atol=1e-12)
