"""Pinned batches on the fake device, which notes from where a copy was sent."""

import fake_device
import numpy as np
import pytest

import distgrad as dg
from distgrad.backend.device import BACKENDS
from distgrad.data import DataLoader, Dataset, TensorDataset
from distgrad.errors import DeviceError
from distgrad.nn.utils.rnn import pack_sequence

fake_device.install()


@pytest.fixture(autouse=True)
def accelerator(monkeypatch):
    """The fake device, also where there is a GPU."""
    for module in ("distgrad.autograd.ops.move", "distgrad.data.loader"):
        monkeypatch.setattr(f"{module}.find_accelerator", lambda: BACKENDS["fake"])


class Structured(Dataset):
    def __len__(self):
        return 5

    def __getitem__(self, index):
        return {"x": np.full(3, index, np.float32), "pair": (index, str(index))}


@pytest.mark.parametrize("num_workers", [0, 2])
def test_a_loader_gives_pinned_batches_that_are_sent_from_where_they_lie(num_workers):
    loader = DataLoader(Structured(), 2, pin_memory=True, num_workers=num_workers)
    seen = []
    for batch in loader:
        x, (numbers, names) = batch["x"], batch["pair"]
        assert x.is_pinned()
        assert numbers.is_pinned()
        assert all(isinstance(name, str) for name in names)
        fake_device.SENT.clear()
        seen.append(x.to("fake", non_blocking=True).cpu()[:, 0].tolist())
        assert fake_device.SENT == ["pinned"]
        x.to("fake")  # without asking, the batch may be changed at once
        assert fake_device.SENT[1:] != ["pinned"]
    assert seen == [[0, 1], [2, 3], [4]]


def test_batches_of_other_kinds():
    (x,) = next(iter(DataLoader(TensorDataset(np.arange(6)), 3, pin_memory=True)))
    assert x[1:].is_pinned()  # a view
    assert not (x * 1).is_pinned()
    assert x.pin_memory() is x
    packed = DataLoader([dg.ones(3), dg.ones(1)], 2, collate_fn=pack_sequence, pin_memory=True)
    assert next(iter(packed)).data.is_pinned()
    assert not next(iter(DataLoader(TensorDataset(np.arange(6)), 3)))[0].is_pinned()


def test_what_lies_on_a_device_cannot_be_pinned():
    with pytest.raises(DeviceError, match="expected a tensor on the host, got one on 'fake:0'"):
        dg.ones(2, device="fake").pin_memory()
