"""Batches of samples of every kind are PyTorch's, dtypes and containers included."""

from collections import OrderedDict, defaultdict, namedtuple
from collections.abc import Mapping, Sequence

import numpy as np
import pytest
from distgrad.torch.utils import data as ours

import distgrad.torch

torch = pytest.importorskip("torch")

Pair = namedtuple("Pair", "x y")


class Frozen(Mapping):
    def __init__(self, entries):
        self.entries = dict(entries)

    def __getitem__(self, key):
        return self.entries[key]

    def __iter__(self):
        return iter(self.entries)

    def __len__(self):
        return len(self.entries)


class Named(dict):
    pass


class Listed(list):
    pass


SAMPLES = {
    "floats": [1.0, 2.0],
    "integers": [2**40, 1],
    "booleans": [True, False],
    "an integer first": [1, 2.5],
    "strings": ["a", "b"],
    "strings in tuples": [("a", b"x"), ("b", b"y")],
    "strings in dicts": [{"name": "a"}, {"name": "b"}],
    "NumPy's numbers": [np.float64(1), np.float64(2)],
    "NumPy's narrow numbers": [np.float32(1), np.float32(2)],
    "NumPy's strings": [np.str_("a")],
    "arrays without axes": [np.array(1.0), np.array(2.0)],
    "arrays": [np.ones(2, np.int8)] * 2,
    "nested": [{"a": (1, [2.0, np.ones(1)])}, {"a": (3, [4.0, np.ones(1)])}],
    "named tuples": [Pair(1, 2.0), Pair(3, 4.0)],
    "ordered dicts": [OrderedDict(b=1, a=2.0)] * 2,
    "dicts with defaults": [defaultdict(int, a=1.0)] * 2,
    "mappings": [Frozen({"a": 1.0})] * 2,
    "dicts of their own": [Named(a=1)] * 2,
    "lists of their own": [Listed([1.0, 2])] * 2,
    "ranges": [range(2)] * 2,
    "lists of nothing": [[], []],
    "None": [None, None],
    "None inside": [(1, None)] * 2,
    "arrays of strings": [np.array(["a"])],
    "complex numbers": [1j],
    "lists of other lengths": [[1], [1, 2]],
}


def shown(value):
    """Kinds, dtypes and values of a batch."""
    if hasattr(value, "tolist") and hasattr(value, "requires_grad"):
        return "tensor", str(value.dtype).removeprefix("torch."), value.tolist()
    if isinstance(value, Mapping):
        return type(value).__name__, {key: shown(value[key]) for key in value}
    if isinstance(value, Sequence) and not isinstance(value, str | bytes):
        return type(value).__name__, [shown(each) for each in value]
    return type(value).__name__, value


@pytest.mark.parametrize("kind", SAMPLES)
def test_batches_are_pytorchs(kind):
    found = []
    for collate in (torch.utils.data.default_collate, ours.default_collate):
        try:
            found.append(shown(collate(SAMPLES[kind])))
        except (TypeError, ValueError, RuntimeError):
            found.append("an error")
    assert found[1] == found[0]


def test_functions_for_kinds_are_asked_first():
    found = []
    for name, map_of in (("torch", torch), ("distgrad.torch", distgrad.torch)):
        tool = __import__(f"{name}.utils.data._utils.collate", fromlist=["collate"])

        class Own:
            def __init__(self, value):
                self.value = value

        def function(batch, *, collate_fn_map=None):
            return [each.value for each in batch]

        batch = [(Own(1), 1.0), (Own(2), 2.0)]
        out = tool.collate(batch, collate_fn_map={Own: function, **tool.default_collate_fn_map})
        converted = tool.default_convert([[np.ones(1), "a", 1.0, {"b": np.int32(3)}]])
        found.append((shown(out), shown(converted), len(list(map_of.utils.data.DataLoader([1.5, 2.5])))))
    assert found[1] == found[0]
