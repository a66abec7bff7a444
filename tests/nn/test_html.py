"""What notebooks show."""

from xml.etree import ElementTree

import pytest

import distgrad as dg
from distgrad import nn


@pytest.mark.parametrize(
    ("x", "cells", "kind"),
    [
        (dg.asarray([[1.0, 2.5], [3.0, 4.0]]), ["1", "2.5", "3", "4"], "2 x 2, float32, cpu"),
        (dg.tensor([1.0, 2.0], requires_grad=True), ["1", "2"], "2, float32, cpu, requires grad"),
        (dg.arange(100), ["0", "1", "2", "3", "4", "…", "95", "96", "97", "98", "99"], "100, int64, cpu"),
        (dg.ones((2, 2, 2)), [], "2 x 2 x 2, float32, cpu"),
        (dg.asarray(1.0), [], "one number, float32, cpu"),
        (dg.empty((2, 2), device="meta"), [], "2 x 2, float32, meta"),
    ],
)
def test_tensors(x, cells, kind):
    tree = ElementTree.fromstring(f"<div>{x._repr_html_()}</div>")
    assert [cell.text for cell in tree.iter("td")] == cells
    assert tree.find("small").text == kind


def test_large_tables_are_cut():
    tree = ElementTree.fromstring(f"<div>{dg.zeros((50, 50))._repr_html_()}</div>")
    assert len(list(tree.iter("tr"))) == len(tree.find("table/tr")) == 11


def test_modules():
    model = nn.Sequential(nn.Linear(2, 3), nn.Sequential(nn.ReLU()))
    tree = ElementTree.fromstring(model._repr_html_())
    assert tree.tag == "details"
    assert tree.get("open") == "open"
    texts = ["".join(each.itertext()) for each in tree.iter("b")]
    assert texts[0] == "Sequential()"
    assert texts[1].startswith("Linear(in_features=2, out_features=3")
    assert "9 parameters" in "".join(tree.itertext())
