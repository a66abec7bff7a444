"""PyTorch's files: read and written, and nothing built but tensors and containers."""

import contextlib
import io
import pickle
import zipfile
from collections import Counter, OrderedDict

import numpy as np
import pytest

import distgrad as dg
from distgrad.errors import DataError, OptionError
from distgrad.torch import Size, files

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


def test_variables_of_the_process_say_whether_a_file_is_trusted(tmp_path, monkeypatch):
    files.save(Counter(a=1), tmp_path / "x.pt")
    files.save(contextlib.nullcontext(3), tmp_path / "y.pt")
    with pytest.raises(DataError, match="nullcontext"):
        files.load(tmp_path / "y.pt")
    monkeypatch.setenv("TORCH_FORCE_NO_WEIGHTS_ONLY_LOAD", "1")
    assert files.load(tmp_path / "y.pt").enter_result == 3
    with pytest.raises(DataError, match="nullcontext"):
        files.load(tmp_path / "y.pt", weights_only=True)
    monkeypatch.setenv("TORCH_FORCE_WEIGHTS_ONLY_LOAD", "1")
    with pytest.raises(OptionError, match="both set"):
        files.load(tmp_path / "x.pt")
    monkeypatch.delenv("TORCH_FORCE_NO_WEIGHTS_ONLY_LOAD")
    assert files.load(tmp_path / "x.pt") == {"a": 1}
    with pytest.raises(DataError, match="nullcontext"):
        files.load(tmp_path / "y.pt", weights_only=False)


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


KINDS = {
    "size": Size([2, 3]), "dtype": dg.float16, "device": dg.device("cpu"), "complex": 1 + 2j,
    "bytes": b"a", "bytearray": bytearray(b"ab"), "empty": bytearray(), "counter": Counter([3, 3, 5]),
    "ordered": OrderedDict(a=1), "set": {1, 2},
}  # fmt: skip


@pytest.mark.parametrize("kind", KINDS)
def test_kinds_that_states_hold(tmp_path, kind):
    files.save({"x": KINDS[kind]}, tmp_path / "x.pt")
    found = files.load(tmp_path / "x.pt")["x"]
    assert (found, type(found)) == (KINDS[kind], type(KINDS[kind]))


@pytest.mark.parametrize("kind", KINDS)
def test_kinds_go_between_distgrad_and_pytorch(tmp_path, kind):
    torch = pytest.importorskip("torch")
    theirs = {"size": torch.Size([2, 3]), "dtype": torch.float16, "device": torch.device("cpu")}
    files.save({"x": KINDS[kind]}, tmp_path / "ours.pt")
    assert torch.load(tmp_path / "ours.pt")["x"] == theirs.get(kind, KINDS[kind])
    torch.save({"x": theirs.get(kind, KINDS[kind])}, tmp_path / "theirs.pt")
    assert files.load(tmp_path / "theirs.pt")["x"] == KINDS[kind]


def test_tied_weights_are_one_storage(tmp_path):
    weight = dg.nn.Parameter(dg.ones((300, 100)))
    files.save({"in": weight, "out": weight.detach(), "again": weight, "n": dg.ones(2)}, tmp_path / "tied.pt")
    assert (tmp_path / "tied.pt").stat().st_size < 1.2 * weight.nbytes
    found = files.load(tmp_path / "tied.pt")
    assert found["again"] is found["in"]
    assert np.shares_memory(found["in"].detach().numpy(), found["out"].numpy())


def test_what_stands_twice_is_written_once(tmp_path):
    x, size, device = dg.ones(2), Size([2]), dg.device("cpu")
    files.save([x, x, size, size, device, device, dg.float32, dg.float32], tmp_path / "x.pt")
    found = files.load(tmp_path / "x.pt")
    assert found[0] is found[1]
    assert found[2:] == [size, size, device, device, dg.float32, dg.float32]


def test_files_from_before_pytorch_1_6(tmp_path):
    torch = pytest.importorskip("torch")
    x = torch.arange(12.0).reshape(3, 4)
    state = {"x": x, "t": x.t()[1:], "w": torch.nn.Parameter(x[0]), "n": torch.tensor(5), "empty": x[:0]}
    path = tmp_path / "legacy.pth"
    torch.save({**state, **STATE}, path, _use_new_zipfile_serialization=False)
    found = files.load(path)
    for name, value in state.items():
        np.testing.assert_array_equal(found[name].detach().numpy(), value.detach().numpy())
    assert {key: found[key] for key in STATE} == STATE
    with open(path, "rb") as file:
        assert files.load(file)["n"].item() == 5


@pytest.mark.parametrize("legacy", [False, True])
def test_damaged_files_are_errors_in_words(tmp_path, legacy):
    if legacy:
        torch = pytest.importorskip("torch")
        torch.save({"x": torch.ones(20)}, tmp_path / "x.pt", _use_new_zipfile_serialization=False)
    else:
        files.save({"x": dg.ones(20)}, tmp_path / "x.pt")
    whole = (tmp_path / "x.pt").read_bytes()
    rng = np.random.default_rng(0)
    for length in [0, 1, 2, 20, 100, len(whole) - 1, *rng.integers(0, len(whole), 20)]:
        with pytest.raises(files.UnreadableError, match=r"torch\.load"):
            files.load(io.BytesIO(whole[:length]))
    for place, value in zip(rng.integers(0, len(whole), 200), rng.integers(0, 256, 200), strict=True):
        changed = bytearray(whole)
        changed[place] = value
        with contextlib.suppress(files.UnreadableError):
            files.load(io.BytesIO(changed))


def test_a_missing_file_is_pythons_own_error(tmp_path):
    with pytest.raises(FileNotFoundError):
        files.load(tmp_path / "none.pt")
    with pytest.raises(pickle.UnpicklingError, match="neither"):
        files.load(io.BytesIO(b"hello"))


def test_a_bytearray_of_a_number_is_refused():
    whole = io.BytesIO()
    with zipfile.ZipFile(whole, "w") as archive:
        archive.writestr("archive/data.pkl", b"\x80\x02c__builtin__\nbytearray\nJ\x00\x00\x00\x7f\x85R.")
    whole.seek(0)
    with pytest.raises(files.UnreadableError, match="bytearray"):
        files.load(whole)


def test_a_schedules_state_goes_through_a_file(tmp_path):
    optimizer = dg.optim.SGD([dg.nn.Parameter(dg.ones(2))], lr=0.1)
    scheduler = dg.optim.lr_scheduler.MultiStepLR(optimizer, [1, 1, 3])
    files.save(scheduler.state_dict(), tmp_path / "scheduler.pt")
    scheduler.load_state_dict(files.load(tmp_path / "scheduler.pt"))
    scheduler.step()
    assert scheduler.get_last_lr() == pytest.approx([0.001])
