"""Losses against PyTorch's: values, gradients, every reduction."""

import numpy as np
import pytest
from nn.twins import Case, close, compare, make_pair, ours_of

from distgrad.nn import functional as F

RNG = np.random.default_rng(3)
CLASSES = np.array([1, 0, 3, 3, 2])
IMAGE_CLASSES = RNG.integers(0, 4, (2, 3, 5))
IGNORING = np.where(IMAGE_CLASSES == 2, -100, IMAGE_CLASSES)
CLASS_WEIGHTS = np.array([0.5, 2.0, 1.0, 0.25])
PROBABILITIES = RNG.dirichlet(np.ones(4), 5)
SPATIAL = RNG.dirichlet(np.ones(4), (2, 3, 5)).transpose(0, 3, 1, 2)
INSIDE = RNG.uniform(0.05, 0.95, (3, 4))
BITS = RNG.integers(0, 2, (3, 4)).astype(float)
SIGNS = np.where(RNG.integers(0, 2, (3, 4)) == 1, 1, -1)
ROW_SIGNS = np.array([1, -1, 1, -1, -1])
COUNTS = RNG.integers(1, 7, (3, 4)).astype(float)  # PyTorch's gradient of Stirling's formula is NaN at 0
LABELS = np.array([[3, 0, -1, 1], [-1, 0, 1, 2], [1, 2, 3, 0]])
REDUCTIONS = ["none", "mean", "sum"]

#: (name, inputs, options), each taken with every reduction
LOSSES = [
    ("L1Loss", ((3, 4), (3, 4)), {}),
    ("MSELoss", ((3, 4), (3, 4)), {}),
    ("SmoothL1Loss", ((3, 4), (3, 4)), {}),
    ("SmoothL1Loss", ((3, 4), (3, 4)), {"beta": 0.3}),
    ("SmoothL1Loss", ((3, 4), (3, 4)), {"beta": 0.0}),
    ("HuberLoss", ((3, 4), (3, 4)), {"delta": 0.5}),
    ("PoissonNLLLoss", ((3, 4), COUNTS), {}),
    ("PoissonNLLLoss", (INSIDE, COUNTS), {"log_input": False, "full": True}),
    ("GaussianNLLLoss", ((3, 4), (3, 4), INSIDE), {}),
    ("GaussianNLLLoss", ((3, 4), (3, 4), INSIDE[:, :1]), {"full": True}),
    ("GaussianNLLLoss", ((3, 4), (3, 4), INSIDE[:, 0]), {}),
    ("GaussianNLLLoss", ((3, 4), (3, 4), INSIDE[:1]), {}),
    ("MarginRankingLoss", ((3, 4), (3, 4), SIGNS), {}),
    ("MarginRankingLoss", ((3, 4), (3, 4), SIGNS), {"margin": 0.5}),
    ("HingeEmbeddingLoss", ((3, 4), SIGNS), {}),
    ("HingeEmbeddingLoss", ((3, 4), SIGNS), {"margin": 0.3}),
    ("SoftMarginLoss", ((3, 4), SIGNS), {}),
    ("CosineEmbeddingLoss", ((5, 4), (5, 4), ROW_SIGNS), {}),
    ("CosineEmbeddingLoss", ((4,), (4,), np.array(-1)), {"margin": -0.5}),
    ("TripletMarginLoss", ((5, 4), (5, 4), (5, 4)), {}),
    ("TripletMarginLoss", ((5, 4), (5, 4), (5, 4)), {"swap": True, "p": 1.0, "margin": 2.0}),
    ("TripletMarginWithDistanceLoss", ((5, 4), (5, 4), (5, 4)), {"swap": True}),
    ("NLLLoss", ((5, 4), CLASSES), {}),
    ("NLLLoss", ((2, 4, 3, 5), IGNORING), {"weight": CLASS_WEIGHTS}),
    ("NLLLoss", ((4,), np.array(2)), {}),
    ("CrossEntropyLoss", ((5, 4), CLASSES), {}),
    ("CrossEntropyLoss", ((5, 4), CLASSES), {"label_smoothing": 0.1}),
    ("CrossEntropyLoss", ((5, 4), CLASSES), {"ignore_index": 3}),
    (
        "CrossEntropyLoss",
        ((5, 4), CLASSES),
        {"ignore_index": 3, "label_smoothing": 0.3, "weight": CLASS_WEIGHTS},
    ),
    ("CrossEntropyLoss", ((2, 4, 3, 5), SPATIAL), {"label_smoothing": 0.1, "weight": CLASS_WEIGHTS}),
    ("NLLLoss", ((5, 4), CLASSES), {"ignore_index": 1, "weight": CLASS_WEIGHTS}),
    ("CrossEntropyLoss", ((4,), np.array(2)), {}),
    ("CrossEntropyLoss", ((4,), PROBABILITIES[0]), {}),
    ("CrossEntropyLoss", ((2, 4, 3, 5), IMAGE_CLASSES), {}),
    ("CrossEntropyLoss", ((2, 4, 3, 5), IGNORING), {"weight": CLASS_WEIGHTS, "label_smoothing": 0.2}),
    ("CrossEntropyLoss", ((5, 4), PROBABILITIES), {}),
    ("CrossEntropyLoss", ((5, 4), PROBABILITIES), {"weight": CLASS_WEIGHTS, "label_smoothing": 0.2}),
    ("BCELoss", (INSIDE, BITS), {}),
    ("BCELoss", (INSIDE, BITS), {"weight": CLASS_WEIGHTS}),
    ("BCEWithLogitsLoss", ((3, 4), BITS), {}),
    ("BCEWithLogitsLoss", ((3, 4), INSIDE), {"weight": CLASS_WEIGHTS, "pos_weight": CLASS_WEIGHTS[::-1]}),
    ("KLDivLoss", ((5, 4), PROBABILITIES), {}),
    ("KLDivLoss", ((5, 4), np.log(PROBABILITIES)), {"log_target": True}),
    ("MultiMarginLoss", ((5, 4), CLASSES), {}),
    ("MultiMarginLoss", ((5, 4), CLASSES), {"p": 2, "margin": 0.5, "weight": CLASS_WEIGHTS}),
    ("MultiMarginLoss", ((4,), np.array(2)), {}),
    ("MultiLabelMarginLoss", ((3, 4), LABELS), {}),
    ("MultiLabelMarginLoss", ((4,), LABELS[0]), {}),
    ("MultiLabelSoftMarginLoss", ((3, 4), BITS), {}),
    ("MultiLabelSoftMarginLoss", ((3, 4), BITS), {"weight": CLASS_WEIGHTS}),
]
CASES = [
    Case(name, (), inputs, {**options, "reduction": reduction})
    for name, inputs, options in LOSSES
    for reduction in REDUCTIONS
]
CASES += [
    Case("KLDivLoss", (), (shape, values), {"reduction": "batchmean"})
    for shape, values in (((5, 4), PROBABILITIES), ((), np.array(0.4)))
]


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("case", CASES, ids=str)
def test_loss_equals_its_pytorch_twin(case, dtype):
    compare(case, dtype)


def test_binary_cross_entropy_of_certain_probabilities_is_bounded_as_pytorchs():
    torch = pytest.importorskip("torch", reason="compares with PyTorch, which is not installed")
    probabilities, target = np.array([0.0, 1.0, 0.5, 1.0, 0.0]), np.array([0.0, 1.0, 0.3, 0.5, 1.0])
    x, t = ours_of(probabilities, True), torch.tensor(probabilities, requires_grad=True)
    y = F.binary_cross_entropy(x, ours_of(target), reduction="none")
    u = torch.nn.functional.binary_cross_entropy(t, torch.tensor(target), reduction="none")
    close(y, u, 1e-10, "output")
    y.sum().backward()
    u.sum().backward()
    close(x.grad, t.grad, 1e-8, "gradient")  # PyTorch's least divisor is a float32


@pytest.mark.parametrize("case", CASES, ids=str)
def test_loss_shows_itself_as_its_pytorch_twin(case):
    torch = pytest.importorskip("torch", reason="compares with PyTorch, which is not installed")
    ours, theirs = make_pair(case, "float32", torch)
    assert repr(ours) == repr(theirs)
