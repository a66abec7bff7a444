"""torchvision's operations on boxes, and its layers, beside their formulas."""

import numpy as np
import pytest

import distgrad as dg
from distgrad.errors import OptionError, ShapeError
from distgrad.torch.vision import ops

BOXES = dg.asarray([[0.0, 0.0, 4.0, 4.0], [1.0, 1.0, 5.0, 5.0], [8.0, 8.0, 9.0, 10.0]])


def test_boxes_by_hand():
    assert ops.box_area(BOXES).tolist() == [16, 16, 2]
    np.testing.assert_allclose(ops.box_iou(BOXES, BOXES[:1]).numpy()[:, 0], [1, 9 / 23, 0], rtol=1e-6)
    scores = dg.asarray([0.5, 0.9, 0.1])
    assert ops.nms(BOXES, scores, 0.3).tolist() == [1, 2]
    assert ops.nms(BOXES, scores, 0.5).tolist() == [1, 0, 2]
    assert ops.nms(BOXES[:0], scores[:0], 0.5).tolist() == []
    assert ops.batched_nms(BOXES, scores, dg.asarray([0, 1, 0]), 0.3).tolist() == [1, 0, 2]
    assert ops.clip_boxes_to_image(BOXES, (3, 9)).tolist()[2] == [8, 3, 9, 3]
    with pytest.raises(ShapeError, match=r"box_area: boxes must be \[N, 4\], got \[4\]"):
        ops.box_area(BOXES[0])
    with pytest.raises(ShapeError, match=r"nms: scores must be \[3\], got \[2\]"):
        ops.nms(BOXES, scores[:2], 0.5)


@pytest.mark.parametrize("form", ["xyxy", "xywh", "cxcywh"])
def test_boxes_come_back_from_every_form(form):
    there = ops.box_convert(BOXES, "xyxy", form)
    assert ops.box_convert(there, form, "xyxy").tolist() == BOXES.tolist()
    assert ops.box_convert(BOXES[2:], "xyxy", "cxcywh").tolist() == [[8.5, 9, 1, 2]]
    with pytest.raises(OptionError, match="box_convert: forms are xyxy"):
        ops.box_convert(BOXES, form, "yxyx")


@pytest.mark.parametrize("reduction", ["none", "mean", "sum"])
def test_the_focal_loss_is_its_formula(reduction):
    x = np.random.default_rng(0).standard_normal((3, 4))
    y = (x > 0.2).astype(np.float64)
    p = 1 / (1 + np.exp(-x))
    shares, weights = np.where(y == 1, p, 1 - p), np.where(y == 1, 0.25, 0.75)
    expected = -weights * (1 - shares) ** 2 * np.log(shares)
    expected = {"none": lambda z: z, "mean": np.mean, "sum": np.sum}[reduction](expected)
    found = ops.sigmoid_focal_loss(dg.asarray(x), dg.asarray(y), reduction=reduction)
    np.testing.assert_allclose(found.numpy(), expected, rtol=1e-12)


def test_frozen_normalization_and_depth_left_out():
    layer = ops.FrozenBatchNorm2d(2)
    layer.running_mean[...] = dg.asarray([1.0, 2.0])
    layer.running_var[...] = dg.asarray([4.0, 9.0])
    x = np.random.default_rng(0).standard_normal((2, 2, 3, 3)).astype(np.float32)
    expected = (x - np.array([1, 2]).reshape(1, 2, 1, 1)) / np.array([2, 3]).reshape(1, 2, 1, 1)
    np.testing.assert_allclose(layer(dg.asarray(x)).numpy(), expected, atol=1e-5)
    assert list(layer.parameters()) == []
    rows = ops.StochasticDepth(0.5, "row")(dg.ones((1000, 3))).numpy()
    assert set(rows.ravel()) == {0.0, 2.0}
    assert 400 < (rows[:, 0] == 2).sum() < 600
    assert (rows[:, 0] == rows.T).all()
    assert ops.StochasticDepth(0.5, "batch").eval()(dg.ones((2,))).tolist() == [1, 1]
    assert ops.stochastic_depth(dg.ones((2, 2)), 1.0, "row").tolist() == [[0, 0], [0, 0]]
    with pytest.raises(OptionError, match="stochastic_depth: expected p in"):
        ops.stochastic_depth(dg.ones((2,)), 2.0, "row")


def test_layers_of_networks_train():
    block = dg.nn.Sequential(ops.Conv2dNormActivation(3, 8), ops.SqueezeExcitation(8, 2))
    out = block(dg.asarray(np.random.default_rng(0).standard_normal((2, 3, 5, 5)).astype(np.float32)))
    assert out.shape == (2, 8, 5, 5)
    out.sum().backward()
    assert all(p.grad is not None for p in block.parameters())
    assert sorted(name for name, _ in block[0].named_parameters()) == ["0.weight", "1.bias", "1.weight"]
