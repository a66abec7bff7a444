"""Recurrent networks against PyTorch's."""

import numpy as np
import pytest
from nn.twins import Case, close, compare, make_pair, ours_of

from distgrad.autograd.functional import grad
from distgrad.errors import DeviceError
from distgrad.nn.utils import rnn

KINDS = ["RNN", "GRU", "LSTM"]
HARD = {"num_layers": 2, "bidirectional": True, "batch_first": True, "bias": False}
CASES = [
    *[Case(kind, (3, 4), ((5, 2, 3),)) for kind in KINDS],
    *[Case(kind, (3, 4), ((5, 3),)) for kind in KINDS],
    *[Case(kind, (3, 4), ((2, 5, 3),), HARD) for kind in KINDS],
    *[Case(kind, (3, 4, 2), ((5, 2, 3),), {"dropout": 0.5}, training=False) for kind in KINDS],
    *[Case(kind, (3, 4, 2), ((5, 2, 3), (2, 2, 4))) for kind in ("RNN", "GRU")],
    *[
        Case(kind, (3, 4, 3), ((5, 2, 3),), {"bidirectional": True, "dropout": 0.3}, training=False)
        for kind in KINDS
    ],
    *[Case(kind, (3, 4, 2), ((5, 2, 3),), {"bidirectional": True, "dropout": 0.0}) for kind in KINDS],
    *[Case(kind, (3, 4, 2), ((5, 2, 3),), {"dropout": 1.0}) for kind in KINDS],  # all between the layers
    Case("RNN", (3, 4), ((5, 2, 3),), {"nonlinearity": "relu"}),
    Case("LSTM", (3, 4, 2), ((5, 2, 3), ((2, 2, 4), (2, 2, 4)))),
    Case("LSTM", (3, 4, 2), ((5, 3), ((4, 2), (4, 4))), {"bidirectional": True, "proj_size": 2}),
    *[Case(f"{kind}Cell", (3, 4), ((2, 3),)) for kind in KINDS],
    *[Case(f"{kind}Cell", (3, 4), ((3,),), {"bias": False}) for kind in KINDS],
    *[Case(f"{kind}Cell", (3, 4), ((2, 3), (2, 4))) for kind in ("RNN", "GRU")],
    Case("RNNCell", (3, 4), ((2, 3),), {"nonlinearity": "relu"}),
    Case("LSTMCell", (3, 4), ((2, 3), ((2, 4), (2, 4)))),
]


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("case", CASES, ids=str)
def test_network_equals_its_pytorch_twin(case, dtype):
    compare(case, dtype)


@pytest.mark.parametrize("case", CASES, ids=str)
def test_network_shows_itself_as_its_pytorch_twin(case):
    torch = pytest.importorskip("torch", reason="compares with PyTorch, which is not installed")
    ours, theirs = make_pair(case, "float32", torch)
    assert repr(ours) == repr(theirs)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("lengths", [[5, 5], [4, 3, 1], [2, 5, 4, 5, 1]], ids=str)
def test_packed_sequences_equal_pytorchs(kind, lengths):
    torch = pytest.importorskip("torch", reason="compares with PyTorch, which is not installed")
    case = Case(kind, (3, 4, 2), (), {"bidirectional": True})
    ours, theirs = make_pair(case, "float64", torch)
    padded = np.random.default_rng(0).standard_normal((max(lengths), len(lengths), 3))
    x, t = ours_of(padded, True), torch.tensor(padded, requires_grad=True)
    packed = rnn.pack_padded_sequence(x, lengths, enforce_sorted=False)
    twin = torch.nn.utils.rnn.pack_padded_sequence(t, torch.tensor(lengths), enforce_sorted=False)
    close(packed.data, twin.data, 0.0, "packed data")
    close(packed.batch_sizes, twin.batch_sizes, 0.0, "batch sizes")
    (y, state), (u, twin_state) = ours(packed), theirs(twin)
    y, ours_lengths = rnn.pad_packed_sequence(y, padding_value=-7.0)
    u, theirs_lengths = torch.nn.utils.rnn.pad_packed_sequence(u, padding_value=-7.0)
    close(y, u, 1e-10, "output")
    close(ours_lengths, theirs_lengths, 0.0, "lengths")
    states = zip(
        state if kind == "LSTM" else [state], twin_state if kind == "LSTM" else [twin_state], strict=True
    )
    for mine, yours in states:
        close(mine, yours, 1e-10, "state")
    (y * y).sum().backward()
    (u * u).sum().backward()
    close(x.grad, t.grad, 1e-10, "gradient of the input")
    for (name, p), q in zip(ours.named_parameters(), theirs.parameters(), strict=True):
        close(p.grad, q.grad, 1e-10, f"gradient of {name}")


def test_padding_of_sequences_equals_pytorchs():
    torch = pytest.importorskip("torch", reason="compares with PyTorch, which is not installed")
    rng = np.random.default_rng(0)
    arrays = [rng.standard_normal((n, 2)) for n in (3, 1, 4)]
    for options in ({}, {"batch_first": True, "padding_value": 2.5}, {"padding_side": "left"}):
        ours = rnn.pad_sequence([ours_of(a) for a in arrays], **options)
        close(
            ours, torch.nn.utils.rnn.pad_sequence([torch.tensor(a) for a in arrays], **options), 0.0, "padded"
        )
    parts = rnn.unpad_sequence(rnn.pad_sequence([ours_of(a) for a in arrays]), [3, 1, 4])
    for part, a in zip(parts, arrays, strict=True):
        np.testing.assert_array_equal(part._data, a)
    x = ours_of(arrays[0], True)
    (g,) = grad(rnn.pad_sequence([x, ours_of(arrays[2])]).sum(), x)
    np.testing.assert_array_equal(g._data, np.ones((3, 2)))


def test_packed_sequences_convert():
    packed = rnn.pack_sequence([ours_of(np.ones((3, 2))), ours_of(np.ones((1, 2)))])
    for method, dtype in (("half", np.float16), ("float", np.float32), ("double", np.float64)):
        converted = getattr(packed, method)()
        assert converted.data.dtype == dtype
        np.testing.assert_array_equal(converted.batch_sizes, packed.batch_sizes)
    assert packed.cpu().data is packed.data
    assert packed.to("cpu", np.float32).data.dtype == np.float32
    with pytest.raises(DeviceError, match="cuda"):
        packed.cuda(99)


def test_packed_sequences_come_back_in_their_order():
    arrays = [np.full((length, 2), float(length)) for length in (3, 1, 4)]
    packed = rnn.pack_sequence([ours_of(a) for a in arrays], enforce_sorted=False)
    for part, array in zip(rnn.unpack_sequence(packed), arrays, strict=True):
        np.testing.assert_array_equal(part.numpy(), array)
