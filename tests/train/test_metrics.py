"""Metrics over uneven ranks have scikit-learn's values on the whole set, and one set of bits."""

import math

import numpy as np
import pytest

import distgrad as dg
from distgrad import train
from distgrad.comm import ThreadWorld
from distgrad.errors import DataError, DTypeError, OptionError, ShapeError
from distgrad.nn import functional as F

sk = pytest.importorskip("sklearn.metrics", reason="the values are scikit-learn's (make install)")
SIZES = (1, 2, 3, 5)
N, CLASSES = 97, 4


def samples(seed=0):
    rng = np.random.default_rng(seed)
    scores = np.round(rng.standard_normal((N, CLASSES)), 1)  # with ties
    targets = rng.integers(0, CLASSES - (seed % 2), N)  # with an odd seed the last class never occurs
    return scores, targets


def on_ranks(size, make, batches):
    """The value that every rank computes, where rank 0 has seen nothing if there is more than one."""

    def run(comm):
        metric = make()
        for i, batch in enumerate(batches):
            if i % max(1, size - 1) + (size > 1) == comm.rank:
                metric.update(*batch)
        return metric.compute()

    return ThreadWorld(size, timeout_s=60).run(run)


def in_batches(*arrays, parts=7):
    return list(zip(*(np.array_split(each, parts) for each in arrays), strict=True))


def check(make, expected, *arrays):
    for size in SIZES:
        values = on_ranks(size, make, in_batches(*arrays))
        np.testing.assert_allclose(values[0], expected, rtol=1e-12, atol=1e-14)
        assert all(np.array_equal(values[0], each) for each in values)


@pytest.mark.parametrize("seed", [0, 1])
@pytest.mark.parametrize("average", ["macro", "micro", "weighted", None])
@pytest.mark.parametrize(
    ("metric", "reference"),
    [
        (train.Precision, sk.precision_score),
        (train.Recall, sk.recall_score),
        (train.F1, sk.f1_score),
        (train.IoU, sk.jaccard_score),
    ],
)
def test_scores_of_classes(metric, reference, average, seed):
    scores, targets = samples(seed)
    labels = range(CLASSES) if average is None else None
    expected = reference(targets, scores.argmax(1), average=average, labels=labels, zero_division=0)
    check(lambda: metric(CLASSES, average=average), expected, scores, targets)


@pytest.mark.parametrize(
    ("metric", "reference"),
    [
        (train.Precision, sk.precision_score),
        (train.Recall, sk.recall_score),
        (train.F1, sk.f1_score),
        (train.IoU, sk.jaccard_score),
    ],
)
def test_scores_of_two_classes(metric, reference):
    scores, targets = samples()
    probabilities, truth = 1 / (1 + np.exp(-scores[:, 0])), targets % 2
    expected = reference(truth, probabilities > 0.5)
    check(metric, expected, probabilities, truth)
    check(metric, expected, (probabilities > 0.5).astype(np.int64), truth)


def test_accuracy_and_confusion():
    scores, targets = samples()
    predicted = scores.argmax(1)
    check(train.Accuracy, sk.accuracy_score(targets, predicted), scores, targets)
    check(train.Accuracy, sk.accuracy_score(targets, predicted), predicted, targets)
    distinct = scores + np.random.default_rng(1).random(scores.shape) / 100
    expected = sk.top_k_accuracy_score(targets, distinct, k=2, labels=range(CLASSES))
    check(lambda: train.Accuracy(top_k=2), expected, distinct, targets)
    counted = targets != 1
    expected = sk.accuracy_score(targets[counted], predicted[counted])
    check(lambda: train.Accuracy(ignore_index=1), expected, scores, targets)
    for ours, theirs in ((None, None), ("true", "true"), ("predicted", "pred"), ("all", "all")):
        expected = sk.confusion_matrix(targets, predicted, normalize=theirs)
        check(lambda ours=ours: train.ConfusionMatrix(CLASSES, normalize=ours), expected, scores, targets)


def test_rankings():
    scores, targets = samples()
    truth = targets % 2
    check(train.AUROC, sk.roc_auc_score(truth, scores[:, 0]), scores[:, 0], truth)
    check(train.AveragePrecision, sk.average_precision_score(truth, scores[:, 0]), scores[:, 0], truth)
    shares = np.exp(scores) / np.exp(scores).sum(1, keepdims=True)
    check(train.AUROC, sk.roc_auc_score(targets, shares, multi_class="ovr"), shares, targets)
    one_hot = np.eye(CLASSES)[targets]
    check(train.AveragePrecision, sk.average_precision_score(one_hot, shares), shares, targets)


@pytest.mark.parametrize("shape", [(N,), (N, 3)])
def test_regression(shape):
    rng = np.random.default_rng(3)
    target = rng.standard_normal(shape) + 1e6  # far from 0: naive sums of squares would lose all digits
    predicted = target + rng.standard_normal(shape) / 3
    check(train.MeanSquaredError, sk.mean_squared_error(target, predicted), predicted, target)
    check(train.MeanAbsoluteError, sk.mean_absolute_error(target, predicted), predicted, target)
    root = sk.mean_squared_error(target.ravel(), predicted.ravel()) ** 0.5
    check(lambda: train.MeanSquaredError(root=True), root, predicted, target)
    for size in SIZES:
        values = on_ranks(size, train.R2Score, in_batches(predicted, target))
        np.testing.assert_allclose(values, sk.r2_score(target, predicted), rtol=1e-9)


def test_perplexity_is_that_of_the_loss_over_all_tokens():
    rng = np.random.default_rng(4)
    scores = rng.standard_normal((12, 5, 7)).astype(np.float32)
    targets = rng.integers(0, 7, (12, 5))
    targets[:, 3:] = -100
    loss = F.cross_entropy(dg.asarray(scores.reshape(-1, 7)), dg.asarray(targets.ravel()))
    for size in SIZES:
        values = on_ranks(size, train.Perplexity, in_batches(scores, targets))
        np.testing.assert_allclose(values, math.exp(float(loss)), rtol=1e-6)


def test_bleu():
    """The paper's own example, and sums over sentences that are on different ranks."""
    references = [
        "it is a guide to action that ensures that the military will forever heed Party commands",
        (
            "it is the guiding principle which guarantees the military forces always being under the command "
            "of the Party"
        ),
        "it is the practical guide for the army always to heed the directions of the party",
    ]
    good = "it is a guide to action which ensures that the military always obeys the commands of the party"
    metric = train.BLEU(max_n=1)
    metric.update([good.split()], [[each.split() for each in references]])
    assert metric.compute() == pytest.approx(17 / 18)
    metric = train.BLEU(max_n=1)
    metric.update(
        [["the"] * 7],
        [[["the", "cat", "is", "on", "the", "mat"], ["there", "is", "a", "cat", "on", "the", "mat"]]],
    )
    assert metric.compute() == pytest.approx(2 / 7)
    short = train.BLEU(max_n=2)
    short.update([["a", "b"]], [[["a", "b", "c"]]])
    assert short.compute() == pytest.approx(math.exp(1 - 3 / 2))
    pairs = [
        ([text], [[reference] for reference in [good.split()]])
        for text in (good.split(), references[0].split())
    ]
    values = [on_ranks(size, train.BLEU, pairs) for size in SIZES]
    assert len({value for each in values for value in each}) == 1
    with pytest.raises(OptionError, match="sequences of tokens, got a string"):
        metric.update(["text"], [["text"]])


def test_means_by_weight():
    losses, sizes = np.array([1.0, 4.0, 2.5]), np.array([32, 32, 5])
    expected = np.average(losses, weights=sizes)
    for size in SIZES:
        np.testing.assert_allclose(
            on_ranks(size, train.Mean, list(zip(losses, sizes, strict=True))), expected
        )
    mean = train.Mean()
    mean.update(dg.asarray([1.0, 3.0]))
    mean.update(np.float32(5.0), weight=2)
    assert mean.compute() == 3.5
    mean.reset()
    assert math.isnan(mean.compute())


def test_all_metrics_need_one_exchange():
    def run(comm):
        metrics = train.Metrics(
            loss=train.Mean(), accuracy=train.Accuracy(), confusion=train.ConfusionMatrix(3)
        )
        metrics["loss"].update(float(comm.rank))
        metrics["accuracy"].update(np.array([1, comm.rank]), np.array([1, 0]))
        metrics["confusion"].update(np.array([comm.rank]), np.array([2]))
        before = comm.family.num_issued
        values = metrics.compute()
        ranked = train.Metrics(loss=metrics["loss"], area=train.AUROC())
        ranked["area"].update(np.array([comm.rank, 0.5]), np.array([1, 0]))
        counts = [comm.family.num_issued - before]
        before = comm.family.num_issued
        ranked.compute()
        metrics.reset()
        return values, [*counts, comm.family.num_issued - before], metrics.compute()["confusion"]

    for values, counts, empty in ThreadWorld(3, timeout_s=60).run(run):
        assert values["loss"] == 1.0
        assert values["accuracy"] == pytest.approx(4 / 6)
        np.testing.assert_array_equal(values["confusion"][2], [1, 1, 1])
        assert counts == [1, 2]
        assert not empty.any()


def test_a_metric_of_ones_own():
    class Largest(train.Metric):
        def __init__(self):
            super().__init__()
            self.add_rows("values")

        def update(self, x):
            self.rows["values"].append(np.asarray(x))

        def value(self, sums, rows):
            return max(each.max() for each in rows["values"])

    assert on_ranks(3, Largest, [([1.0, 9.0],), ([4.0],)]) == [9.0] * 3


def test_tensors_of_any_kind_are_taken():
    metric = train.Accuracy()
    metric.update(dg.tensor([[0.1, 0.9], [0.8, 0.2]], requires_grad=True), dg.asarray([1, 1]))
    metric.update(dg.asarray([[[0.1, 0.3], [0.9, 0.2]]], dtype=dg.bfloat16), dg.asarray([[1, 0]]))
    assert metric.compute() == 0.75


@pytest.mark.parametrize(
    ("call", "error", "message"),
    [
        (lambda: train.Accuracy(0), OptionError, "top_k must be 1 or more"),
        (lambda: train.Accuracy().update(np.zeros(3), np.zeros(4)), ShapeError, r"predictions are \[3\]"),
        (lambda: train.Accuracy(2).update(np.zeros(3), np.zeros(3)), ShapeError, r"top_k=2 needs scores"),
        (
            lambda: train.Accuracy().update(np.zeros(3), np.full(3, 0.5)),
            DataError,
            "must hold classes, whole numbers",
        ),
        (lambda: train.Accuracy().update(["a"], ["b"]), DTypeError, "must hold real numbers"),
        (lambda: train.Accuracy().update([0.0, 2.0], [0, 2]), DataError, "must be probabilities of class 1"),
        (lambda: train.Accuracy().update([-3.0, 0.2], [0, 1]), DataError, "logits through sigmoid"),
        (
            lambda: train.F1().update(np.zeros((3, 1)), [0, 1, 1]),
            ShapeError,
            r"fewer than two classes.*\[:, 0\]",
        ),
        (lambda: train.F1().update([0, 1], [0, math.inf]), DataError, "must hold classes, whole numbers"),
        (
            lambda: train.AUROC().update([0.1, 0.9], [0, 2]),
            DataError,
            "targets must be classes from 0 to 1, got 2",
        ),
        (lambda: train.AUROC().update([0.1, 0.9], [-1, 1]), DataError, "got -1"),
        (lambda: train.AUROC().update([0.1, 0.9], [0, 0.7]), DataError, "whole numbers"),
        (lambda: train.AUROC().update(np.zeros((3, 1)), [0, 1, 1]), ShapeError, "of two or more"),
        (lambda: train.AUROC().update(np.zeros((1, 3)), [3]), DataError, "from 0 to 2, got 3"),
        (lambda: train.Accuracy().update([[0.1, 0.9]], [-1]), DataError, "from 0 to 1, got -1; name others"),
        (lambda: train.Accuracy(2).update(np.eye(3), [0, 1, 3]), DataError, "from 0 to 2, got 3"),
        (lambda: train.F1(1), OptionError, "num_classes must be 2 or more"),
        (lambda: train.F1(3, average="binary"), OptionError, "'binary' for two classes alone"),
        (
            lambda: train.F1(3).update([0, 3], [0, 1]),
            DataError,
            "predictions must be classes from 0 to 2, got 3",
        ),
        (lambda: train.F1(3).update([0, 1], [0, -1]), DataError, "targets must be classes .* got -1"),
        (lambda: train.ConfusionMatrix(normalize="rows"), OptionError, "normalize must be"),
        (lambda: train.AUROC().update([0.5, math.nan], [0, 1]), DataError, "hold NaN"),
        (lambda: train.AUROC().update(0.5, 1), ShapeError, "scores must be"),
        (lambda: train.Mean().update([1, 2], [1, 2, 3]), ShapeError, "weight must be one number"),
        (
            lambda: train.R2Score().update(np.zeros((2, 2, 2)), np.zeros((2, 2, 2))),
            ShapeError,
            "both must be",
        ),
        (lambda: train.BLEU(0), OptionError, "max_n"),
        (lambda: train.BLEU().update([["a"]], []), OptionError, "1 translations"),
        (lambda: train.BLEU().update([["a"]], [[]]), OptionError, "at least one reference"),
        (lambda: train.Metrics(loss=3), OptionError, "loss must be a Metric"),
    ],
)
def test_what_metrics_refuse(call, error, message):
    with pytest.raises(error, match=message):
        call()


def test_batches_are_of_the_same_classes():
    area = train.AUROC()
    area.update([0.1, 0.9], [0, 1])
    with pytest.raises(ShapeError, match="in all batches alike"):
        area.update(np.zeros((2, 3)), [0, 1])


def test_empty_batches_count_nothing():
    nothing, classes = np.zeros((0, 3), np.float32), np.zeros(0, int)
    for metric in (train.Accuracy(), train.Accuracy(2), train.F1(3), train.AUROC(), train.AveragePrecision(),
                   train.Perplexity()):  # fmt: skip
        metric.update(nothing, classes)
        assert math.isnan(metric.compute())
    scores, targets = samples()
    for size in SIZES:
        found = on_ranks(size, train.AUROC, [(scores[:0], targets[:0]), *in_batches(scores, targets)])
        np.testing.assert_allclose(found, on_ranks(1, train.AUROC, [(scores, targets)])[0])


def test_a_mask_hides_what_is_no_number():
    mean = train.Mean()
    mean.update([1.0, math.nan, math.inf, 3.0], weight=np.array([True, False, False, True]))
    assert mean.compute() == 2.0


@pytest.mark.parametrize("dtype", [np.bool_, np.uint8, np.float16])
def test_the_highest_scores_are_found_in_any_dtype(dtype):
    scores = np.array([[0, 1, 0, 0], [0, 0, 0, 1]], dtype)
    metric = train.Accuracy(top_k=2)
    metric.update(scores, [0, 1])
    assert metric.compute() == 0.5


def test_scores_by_class_keep_three_counts_a_class():
    metric = train.F1(30_000)
    assert sum(array.nbytes for array in metric.sums.values()) == 3 * 8 * 30_000
    metric.update([29_999, 5, 7], [29_999, 5, 8])
    assert metric.compute() == 2 / 4


@pytest.mark.parametrize("name", ["float16", "bfloat16"])
def test_perplexity_of_half_precision_is_that_of_its_logits(name):
    rng = np.random.default_rng(0)
    logits = dg.asarray(3 * rng.standard_normal((64, 1000))).to(dtype=getattr(dg, name))
    targets = dg.asarray(rng.integers(0, 1000, 64))
    found, expected = train.Perplexity(), train.Perplexity()
    found.update(logits, targets)
    expected.update(logits.double(), targets)
    assert found.compute() == pytest.approx(expected.compute(), rel=1e-5)


def test_nothing_seen_is_nan():
    for kind in (train.Accuracy, train.F1, train.AUROC, train.AveragePrecision, train.MeanSquaredError,
                 train.R2Score, train.Perplexity, train.BLEU):  # fmt: skip
        assert math.isnan(kind().compute())
    area = train.AUROC()
    area.update([0.1, 0.2], [1, 1])
    assert math.isnan(area.compute())
