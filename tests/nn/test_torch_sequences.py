"""Losses of label sequences and of many classes, and attention, against PyTorch's."""

import numpy as np
import pytest
from nn.twins import TOLERANCE, Case, close, compare, make_pair, ours_of, values

from distgrad.nn import functional as F

RNG = np.random.default_rng(5)
LOGITS = RNG.standard_normal((6, 3, 4))
LABELS = np.array([[1, 2, 2], [3, 1, 0], [2, 0, 0]])
STEPS, LENGTHS = np.array([6, 5, 6]), np.array([3, 2, 1])
IN_A_ROW = np.array([1, 2, 2, 3, 1, 2])
CLASSES = np.array([0, 9, 3, 5, 2, 8])
CTC = [
    *[
        Case("CTCLoss", (), (LOGITS, LABELS, STEPS, LENGTHS), {"reduction": reduction})
        for reduction in ("none", "mean", "sum")
    ],
    Case("CTCLoss", (), (LOGITS, IN_A_ROW, STEPS, LENGTHS)),
    Case("CTCLoss", (), (LOGITS, LABELS % 3, STEPS, LENGTHS), {"blank": 3}),
    Case("CTCLoss", (), (LOGITS[:, 0], LABELS[0], STEPS[0], LENGTHS[0]), {"reduction": "none"}),
    Case("CTCLoss", (), (LOGITS[:3], LABELS, np.array([3, 2, 3]), LENGTHS), {"zero_infinity": True}),
]
CASES = [
    Case("AdaptiveLogSoftmaxWithLoss", (8, 10, [3, 6]), ((6, 8), CLASSES), {"div_value": 2.0}),
    Case("AdaptiveLogSoftmaxWithLoss", (8, 10, [4]), ((8,), np.array(7)), {"head_bias": True}),
]


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("case", CASES, ids=str)
def test_module_equals_its_pytorch_twin(case, dtype):
    compare(case, dtype)


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("case", CTC, ids=str)
def test_ctc_equals_its_pytorch_twin_behind_a_softmax(case, dtype):
    # PyTorch's gradient of the log-probabilities themselves takes it for granted that a softmax made them
    torch = pytest.importorskip("torch", reason="compares with PyTorch, which is not installed")
    ours, theirs = make_pair(case, dtype, torch)
    logits, *rest = values(case, dtype)
    x, t = ours_of(logits, True), torch.tensor(logits, requires_grad=True)
    y = ours(F.log_softmax(x, -1), *map(ours_of, rest))
    u = theirs(torch.nn.functional.log_softmax(t, -1), *map(torch.tensor, rest))
    close(y, u, TOLERANCE[dtype], "output")
    y.sum().backward()
    u.sum().backward()
    close(x.grad, t.grad, TOLERANCE[dtype], "gradient")


@pytest.mark.parametrize("case", [*CTC, *CASES], ids=str)
def test_module_shows_itself_as_its_pytorch_twin(case):
    torch = pytest.importorskip("torch", reason="compares with PyTorch, which is not installed")
    ours, theirs = make_pair(case, "float32", torch)
    assert repr(ours) == repr(theirs)


def test_adaptive_softmax_over_all_classes():
    torch = pytest.importorskip("torch", reason="compares with PyTorch, which is not installed")
    ours, theirs = make_pair(CASES[-2], "float64", torch)
    x = RNG.standard_normal((6, 8))
    close(ours.log_prob(ours_of(x)), theirs.log_prob(torch.tensor(x)), 1e-10, "log_prob")
    close(ours.predict(ours_of(x)), theirs.predict(torch.tensor(x)), 0.0, "predict")
    with pytest.raises(IndexError, match=r"must lie in 0 \.\.\. 9"):
        ours(ours_of(x), CLASSES + 1)


MASK = RNG.integers(0, 2, (5, 7)) == 1
MASK[:, 0] = True


@pytest.mark.parametrize(
    ("heads", "options"),
    [
        (4, {}),
        (4, {"is_causal": True}),
        (4, {"attn_mask": MASK, "scale": 0.3}),
        (4, {"attn_mask": RNG.standard_normal((4, 5, 7))}),
        (2, {"enable_gqa": True, "is_causal": True}),
        (1, {"enable_gqa": True, "attn_mask": MASK}),
        (2, {"enable_gqa": True, "attn_mask": np.stack([MASK[:1], MASK[1:2]])[:, None]}),
        (2, {"enable_gqa": True, "attn_mask": RNG.standard_normal((2, 4, 5, 7)), "scale": 0.7}),
        (4, {"attn_mask": MASK[None, None]}),
    ],
    ids=[
        "plain",
        "causal",
        "mask",
        "bias",
        "grouped",
        "one-key-head-masked",
        "grouped-batch-mask",
        "grouped-biased",
        "mask-of-4-axes",
    ],
)
def test_attention_equals_pytorchs(heads, options):
    torch = pytest.importorskip("torch", reason="compares with PyTorch, which is not installed")
    shapes = [(2, 4, 5, 6), (2, heads, 7, 6), (2, heads, 7, 3)]
    arrays = [RNG.standard_normal(shape) for shape in shapes]
    xs = [ours_of(a, True) for a in arrays]
    ts = [torch.tensor(a, requires_grad=True) for a in arrays]
    kept = {key: value for key, value in options.items() if not isinstance(value, np.ndarray)}
    masks = {key: value for key, value in options.items() if isinstance(value, np.ndarray)}
    y = F.scaled_dot_product_attention(*xs, **kept, **{key: ours_of(value) for key, value in masks.items()})
    u = torch.nn.functional.scaled_dot_product_attention(
        *ts, **kept, **{key: torch.tensor(value) for key, value in masks.items()}
    )
    close(y, u, 1e-10, "output")
    (y * y).sum().backward()
    (u * u).sum().backward()
    for x, t in zip(xs, ts, strict=True):
        close(x.grad, t.grad, 1e-10, "gradient")
