"""Arrays as files of other machines give them: the other byte order, odd addresses, masks, subclasses."""

import numpy as np
import pytest

import distgrad as dg
from distgrad import nn
from distgrad.errors import DTypeError
from distgrad.nn import functional as F

RNG = np.random.default_rng(0)
PLAIN = RNG.standard_normal((4, 3)).astype(np.float32)
IMAGE = RNG.standard_normal((2, 3, 8, 8)).astype(np.float32)


def swapped(array):
    return array.astype(array.dtype.newbyteorder())


def at_odd_addresses(array):
    return np.frombuffer(b"\0" + array.tobytes(), array.dtype, offset=1).reshape(array.shape)


def in_records(array):
    records = np.zeros(array.shape, [("flag", "u1"), ("value", array.dtype.newbyteorder())])
    records["value"] = array
    return records["value"]


FOREIGN = {"byte order": swapped, "address": at_odd_addresses, "records": in_records}


@pytest.fixture(params=FOREIGN.values(), ids=FOREIGN)
def foreign(request):
    return request.param


def twin(module):
    for i, p in enumerate(module.parameters()):
        p.data = np.random.default_rng(i).standard_normal(p.shape).astype(np.float32)
    return module


def assigned(x):
    y = dg.zeros((4, 3))
    y[...] = x
    return y


def with_data(x):
    y = dg.zeros((4, 3))
    y.data = x
    return y


def with_state(x):
    module = nn.Linear(3, 4)
    module.load_state_dict({"weight": x, "bias": x[:, 0]})
    return module.weight


#: What is made of an array, each by its own door.
DOORS = {
    "tensor": dg.tensor,
    "asarray": dg.asarray,
    "Tensor": dg.Tensor,
    "from_dlpack": dg.from_dlpack,
    "Parameter": nn.Parameter,
    "operand": lambda x: dg.zeros((4, 3)) + x,
    "only operand": dg.exp,
    "of several": lambda x: dg.concat([x, x]),
    "stacked": lambda x: dg.tensor([x, x]),
    "assigned": assigned,
    "data": with_data,
    "loss": lambda x: F.mse_loss(dg.zeros((4, 3)), x),
    "Linear": twin(nn.Linear(3, 2)),
    "Linear of a tensor": lambda x: twin(nn.Linear(3, 2))(dg.asarray(x)),
    "BatchNorm1d": lambda x: nn.BatchNorm1d(3)(dg.asarray(x)),
    "collated": lambda x: dg.data.default_collate([x, x]),
    "converted": dg.data.default_convert,
    "loaded": lambda x: next(iter(dg.data.DataLoader(dg.data.TensorDataset(x), batch_size=2)))[0],
    "state": with_state,
}


@pytest.mark.parametrize("door", DOORS.values(), ids=DOORS)
def test_arrays_are_converted_where_they_enter(door, foreign):
    x = foreign(PLAIN)
    found, expected = door(x), door(PLAIN)
    assert found._data.dtype.isnative
    assert found._data.flags.aligned
    assert found.dtype == expected.dtype
    np.testing.assert_array_equal(found.detach().numpy(), expected.detach().numpy())


def test_images_and_whole_numbers(foreign):
    conv = twin(nn.Conv2d(3, 2, 3))
    for x in (foreign(IMAGE), dg.asarray(foreign(IMAGE))):
        np.testing.assert_array_equal(conv(x).detach().numpy(), conv(dg.tensor(IMAGE)).detach().numpy())
    scores = dg.tensor(RNG.standard_normal((300, 3)).astype("f"))
    target = RNG.integers(0, 3, 300)
    for classes in (foreign(target), dg.asarray(foreign(target))):
        assert F.cross_entropy(scores, classes).item() == F.cross_entropy(scores, target).item()
        np.testing.assert_array_equal(F.embedding(classes, scores).numpy(), scores.numpy()[target])
        np.testing.assert_array_equal(scores[classes].numpy(), scores.numpy()[target])


@pytest.mark.parametrize("dtype", [">f4", ">f8", ">f2"])
def test_a_dtype_of_the_other_byte_order_is_that_of_the_machine(dtype):
    made_of = [dg.zeros(3, dtype=dtype), dg.full(2, 1, dtype=dtype), dg.tensor(np.zeros(2, dtype))]
    made_of += [dg.asarray([1, 2], dtype=dtype), dg.ones(3).astype(dtype), dg.eye(2, dtype=dtype)]
    made_of += [dg.zeros_like(dg.ones(2), dtype=dtype), dg.linspace(0, 1, 3, dtype=dtype)]
    for made in made_of:
        assert made.dtype.isnative
        assert made.dtype == np.dtype(dtype).newbyteorder("=")


def test_what_cannot_be_had_without_a_copy_says_so(foreign):
    with pytest.raises(ValueError, match=r"copy=False, but .* must be copied"):
        dg.asarray(foreign(PLAIN), copy=False)
    assert np.shares_memory(dg.asarray(PLAIN, copy=False)._data, PLAIN)
    empty = np.zeros((0, 3), np.float32)
    assert dg.asarray(empty, copy=False).shape == (0, 3)


@pytest.mark.parametrize("door", ["tensor", "asarray", "Tensor", "operand", "converted", "assigned"])
def test_a_mask_is_not_dropped_in_silence(door):
    masked = np.ma.masked_array(PLAIN, PLAIN > 0)
    with pytest.raises(DTypeError, match=r"without a mask.*x\.filled"):
        DOORS[door](masked)


def test_subclasses_enter_as_arrays(tmp_path):
    mapped = np.memmap(tmp_path / "m", np.float32, "w+", shape=(4, 3))
    mapped[:] = PLAIN
    for made in (dg.Tensor(mapped), dg.asarray(mapped), dg.Tensor(np.rec.array(PLAIN))):
        assert type(made._data) is np.ndarray
        np.testing.assert_array_equal((made * 2).numpy(), 2 * PLAIN)
    assert np.shares_memory(dg.asarray(mapped)._data, mapped)
