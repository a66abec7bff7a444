"""PyTorch's files: read and written, and nothing built but tensors and containers."""

import io
import pickle
import zipfile
from collections import OrderedDict

import numpy as np
import pytest

import distgrad as dg
from distgrad.errors import DataError
from distgrad.torch import files

STATE = {"epoch": 3, "lr": 0.5, "name": "a", "none": None, "on": True, "list": [1, (2, 3)]}


def test_what_is_written_is_read_again(tmp_path):
    model = dg.nn.Linear(3, 2)
    state = {**STATE, "model": model.state_dict(), "step": dg.tensor(7), "half": dg.ones(2, dtype=dg.float16)}
    files.save(state, tmp_path / "x.pt")
    found = files.load(tmp_path / "x.pt", map_location="cpu")
    assert {key: found[key] for key in STATE} == STATE
    np.testing.assert_array_equal(found["model"]["weight"].numpy(), model.weight.detach().numpy())
    assert (found["step"].item(), found["half"].dtype) == (7, dg.float16)
    buffer = io.BytesIO()
    files.save(OrderedDict(w=dg.ones(2)), buffer)
    buffer.seek(0)
    assert isinstance(files.load(buffer), OrderedDict)


def test_pytorch_reads_and_writes_the_same_files(tmp_path):
    torch = pytest.importorskip("torch")
    model = dg.nn.Sequential(dg.nn.Linear(3, 2), dg.nn.BatchNorm1d(2))
    files.save({"model": model.state_dict(), **STATE}, tmp_path / "ours.pt")
    theirs = torch.load(tmp_path / "ours.pt", weights_only=True)
    assert {key: theirs[key] for key in STATE} == STATE
    np.testing.assert_array_equal(theirs["model"]["0.weight"].numpy(), model[0].weight.detach().numpy())
    x = torch.arange(12.0).reshape(3, 4)
    torch.save(
        {"x": x, "t": x.t()[1:], "model": torch.nn.Linear(3, 2).state_dict(), "n": torch.tensor(5)},
        tmp_path / "t.pt",
    )
    found = files.load(tmp_path / "t.pt")
    np.testing.assert_array_equal(found["t"].numpy(), x.t()[1:].numpy())
    assert list(found["model"]) == ["weight", "bias"]
    assert found["n"].item() == 5


def test_nothing_else_is_built(tmp_path):
    class Evil:
        def __reduce__(self):
            return print, ("built",)

    with zipfile.ZipFile(tmp_path / "evil.pt", "w") as archive:
        archive.writestr("archive/data.pkl", pickle.dumps({"x": Evil()}, 2))
    with pytest.raises(DataError, match="only tensors and containers are read"):
        files.load(tmp_path / "evil.pt")
    with pytest.raises((pickle.PicklingError, AttributeError)):
        files.save({"function": lambda: None}, tmp_path / "model.pt")
    assert not (tmp_path / "model.pt").exists()
    (tmp_path / "text.pt").write_text("no file of ours")
    with pytest.raises(DataError):
        files.load(tmp_path / "text.pt")
