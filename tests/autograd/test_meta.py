"""The device of shapes: every operation, gradient, module and optimizer on it, beside the real ones."""

import inspect
import re
import tracemalloc

import numpy as np
import primitive_checks as checks
import pytest

import distgrad as dg
from distgrad import nn, optim
from distgrad.autograd.primitive import DTYPE_CHARS
from distgrad.autograd.samples import is_floating, reject_cases, sample_cases
from distgrad.autograd.tensor import Tensor
from distgrad.backend.device import available_devices
from distgrad.backend.meta import MetaArray, indexed_shape
from distgrad.backend.rng import default_generator
from distgrad.errors import DeviceError, StateDictError

#: What no record can say, since the shape, or the way through the formula, depends on elements.
BY_ELEMENTS = {
    *("masked_select", "nonzero", "unique_values", "unique_counts", "unique_inverse", "unique_all"),
    *("repeat-2", "repeat-3", "quantile-several", "ctc_loss"),
}
#: Samples whose attributes are the host's arrays, which may not meet tensors that lie elsewhere.
ON_THE_HOST = {"diff-2", "stft-2", "cov-2", "attention_weights-a_query_that_sees_nothing"}
ON_THE_HOST |= {
    "scaled_dot_product_attention-shared_keys,_a_mask_for_each_of_the_batch",
    "scaled_dot_product_attention-a_query_that_sees_nothing",
    "scaled_dot_product_attention-a_boolean_mask",
}
DTYPES = (np.float64, np.float32, np.float16, np.int32, np.bool_, np.complex64)


def without_elements(x):
    return (
        Tensor(MetaArray(x.shape, x.dtype), requires_grad=is_floating(x)) if isinstance(x, np.ndarray) else x
    )


def known(outs):
    return [(out.shape, out.dtype, out.requires_grad) for out in outs]


def inputs_of(case, dtype):
    """The sample's inputs with its floating arrays in any dtype that the operation takes."""
    given = case.inputs(dtype if np.dtype(dtype).kind == "f" else np.float64)
    with np.errstate(invalid="ignore"):
        return [x.astype(dtype) if is_floating(x) and np.dtype(dtype).kind != "f" else x for x in given]


@pytest.mark.parametrize("case", list(sample_cases()), ids=str)
def test_results_and_gradients_have_the_real_ones_shapes_and_dtypes(case):
    compared = 0
    for dtype in DTYPES:
        if np.dtype(dtype).char not in DTYPE_CHARS[case.record.dtypes]:
            continue
        inputs = inputs_of(case, dtype)
        try:
            with np.errstate(all="ignore"):
                real = checks.as_list(case.call(*checks.recorded(inputs)))
        except Exception:  # LAPACK's own dtypes, and samples whose numbers are no integers
            continue
        shaped = [without_elements(x) for x in inputs]
        if {case.record.name, str(case)} & (BY_ELEMENTS | ON_THE_HOST):
            with pytest.raises(DeviceError, match="meta"):
                case.call(*shaped)
            continue
        outs = checks.as_list(case.call(*shaped))
        assert all(out.device == "meta" for out in outs)
        assert known(outs) == known(real)
        compared += 1
        for out in outs:
            if out.requires_grad:
                out.backward(dg.ones_like(out), retain_graph=True)
        for x in shaped:
            if isinstance(x, Tensor) and x.grad is not None:
                assert (x.grad.shape, x.grad.dtype, x.grad.device) == (x.shape, x.dtype, "meta")
    assert compared or {case.record.name, str(case)} & (BY_ELEMENTS | ON_THE_HOST)


KEYS = [
    3, -1, slice(1, None, 2), None, ..., (..., 0), (1, None, slice(2)), (slice(None), [0, 2]),
    ([1, 0], [2, 2]),
    (0, slice(None), [1, 1, 0]), ([0], slice(None), [[1], [2]]), (slice(None), [0, 1], 2), np.array(2),
    np.array([[0, 1], [2, 3]]), np.ones((4,), bool), np.ones((4, 3), bool),
    (slice(None), np.ones((3,), bool), None),
    (None, [0, 1], ..., [1, 0]), [], (slice(None), [0, 1], ..., [0, 1]), ([0, 1], ..., 2),
]  # fmt: skip


@pytest.mark.parametrize("key", KEYS, ids=str)
def test_an_index_gives_numpys_shape(key):
    x = np.zeros((4, 3, 5))
    assert indexed_shape(x.shape, key) == x[key].shape


@pytest.mark.parametrize("key", [4, (0, 0, 0, 0), (..., ...), np.ones((3,), bool), [7], (0, [-4])], ids=str)
def test_a_wrong_index_is_an_error(key):
    with pytest.raises(IndexError):
        np.zeros((4, 3, 5))[key]
    with pytest.raises(IndexError):
        indexed_shape((4, 3, 5), key)


MODULES = [
    ("Linear", (4, 3), ((2, 4),), {}),
    ("Conv2d", (3, 6, 3), ((2, 3, 8, 8),), {"groups": 3, "stride": 2, "padding": 1}),
    ("ConvTranspose1d", (3, 6, 3), ((2, 3, 8),), {"stride": 2}),
    ("BatchNorm2d", (3,), ((2, 3, 4, 4),), {}),
    ("LayerNorm", (4,), ((2, 4),), {}),
    ("GroupNorm", (2, 4), ((2, 4, 5),), {}),
    ("MaxPool2d", (2,), ((2, 3, 8, 8),), {}),
    ("AdaptiveAvgPool2d", (3,), ((2, 3, 8, 8),), {}),
    ("LSTM", (4, 5, 2), ((3, 2, 4),), {"bidirectional": True}),
    ("GRU", (4, 5), ((3, 2, 4),), {}),
    ("RNN", (4, 5), ((3, 2, 4),), {}),
    ("Embedding", (7, 4), (np.array([[1, 2], [0, 6]]),), {}),
    ("EmbeddingBag", (7, 4), (np.array([[1, 2], [0, 6]]),), {}),
    ("MultiheadAttention", (8, 2), ((3, 2, 8),) * 3, {}),
    ("TransformerEncoderLayer", (8, 2, 16), ((3, 2, 8),), {}),
    ("Upsample", (), ((2, 3, 4, 4),), {"scale_factor": 2}),
    ("Dropout", (0.5,), ((2, 4),), {}),
    ("PReLU", (), ((2, 4),), {}),
    ("Bilinear", (3, 4, 5), ((2, 3), (2, 4)), {}),
]


def flat(result):
    """All tensors of a module's result."""
    if isinstance(result, tuple):
        return [each for part in result for each in flat(part)]
    return [] if result is None else [result]


@pytest.mark.parametrize(("name", "args", "inputs", "options"), MODULES, ids=lambda each: str(each)[:20])
def test_a_module_of_shapes_gives_the_real_ones(name, args, inputs, options):
    rng = np.random.default_rng(0)
    arrays = [rng.standard_normal(x).astype(np.float32) if isinstance(x, tuple) else x for x in inputs]
    real = flat(getattr(nn, name)(*args, **options)(*map(Tensor, arrays)))
    before = default_generator.get_state()
    with dg.device("meta"):
        module = getattr(nn, name)(*args, **options)
    assert default_generator.get_state() == before  # no numbers are drawn for what holds none
    outs = [out for out in flat(module(*map(without_elements, arrays))) if out is not None]
    assert [(out.shape, out.dtype) for out in outs] == [
        (out.shape, out.dtype) for out in real if out is not None
    ]
    outs[0].sum().backward()
    assert all(p.grad is not None and p.grad.shape == p.shape for p in module.parameters())


#: All but the one whose line search looks at numbers.
OPTIMIZERS = [
    each
    for each in vars(optim).values()
    if inspect.isclass(each)
    and issubclass(each, optim.Optimizer)
    and each not in (optim.Optimizer, optim.LBFGS)
]


@pytest.mark.parametrize("optimizer", OPTIMIZERS, ids=lambda each: each.__name__)
def test_an_optimizer_keeps_state_of_shapes(optimizer):
    weights = {device: dg.zeros((4, 3), device=device, requires_grad=True) for device in ("cpu", "meta")}
    states = {}
    for device, weight in weights.items():
        stepper = optimizer([weight], lr=0.1)
        for _ in range(2):
            weight.grad = dg.ones((4, 3), device=device)
            stepper.step()
        states[device] = stepper.state_dict()["state"][0]
    shapes = [{k: getattr(v, "shape", ()) for k, v in states[d].items()} for d in ("cpu", "meta")]
    assert shapes[0] == shapes[1]


def test_a_model_larger_than_memory_takes_none():
    tracemalloc.start()
    with dg.device("meta"):
        model = nn.Sequential(*[nn.TransformerEncoderLayer(8192, 64, 32768) for _ in range(4)])
        stepper = optim.AdamW(model.parameters())
        model(dg.zeros((512, 4, 8192))).sum().backward()
        stepper.step()
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert sum(p.nbytes for p in model.parameters()) > 12e9
    assert peak < 64e6


def test_what_was_built_of_shapes_is_filled_later():
    dg.manual_seed(3)
    real = nn.Sequential(nn.Linear(4, 5), nn.BatchNorm1d(5), nn.Linear(5, 2))
    with dg.device("meta"):
        model = nn.Sequential(nn.Linear(4, 5), nn.BatchNorm1d(5), nn.Linear(5, 2))
    model.to_empty(device="cpu")
    dg.manual_seed(3)
    for part in model:
        part.reset_parameters()
    for ours, theirs in zip(model.state_dict().values(), real.state_dict().values(), strict=True):
        np.testing.assert_array_equal(ours.numpy(), theirs.numpy())


def test_a_state_dict_is_assigned_and_never_lost():
    real = nn.Linear(4, 5)
    with dg.device("meta"):
        model = nn.Linear(4, 5)
    with pytest.raises(StateDictError, match="assign=True"):
        model.load_state_dict(real.state_dict())
    with pytest.raises(StateDictError, match="saved on 'meta'"):
        real.load_state_dict(model.state_dict())
    model.load_state_dict(real.state_dict(), assign=True)
    np.testing.assert_array_equal(model.weight.detach().numpy(), real.weight.detach().numpy())


def test_whoever_asks_for_elements_gets_a_clear_error(tmp_path):
    x = dg.zeros((2, 3), device="meta")
    for ask in (
        lambda: x.sum().item(), lambda: bool(x.sum()), x.numpy, lambda: x.to("cpu"), x.tolist,
        lambda: x[x > 0],
        lambda: dg.save({"x": x}, tmp_path / "x.safetensors"), lambda: x + dg.zeros(3),
        lambda: dg.nonzero(x), lambda: dg.one_hot(x.astype(dg.int64)),
        lambda: nn.Linear(2, 3, device="meta").to("cpu"),
    ):  # fmt: skip
        with pytest.raises(DeviceError, match="meta"):
            ask()
    assert not any(tmp_path.iterdir())
    assert repr(x) == "tensor(..., size=(2, 3), device='meta')"


#: Rejections by what the elements are, which nobody can see there, by a part of their messages.
BY_VALUE = re.compile(
    "index holds|holds class|must lie in|Singular|positive definite|Invalid norm|nothing but|take|nonzero|"
    "repeat|mask is true|searchsorted|put:|eigenvalue"
)


@pytest.mark.parametrize("case", list(reject_cases()), ids=str)
def test_what_is_refused_by_its_shape_is_refused_there(case):
    if BY_VALUE.search(case.example.message) or case.record.name in ("matrix_sqrth", "solve_triangular"):
        pytest.skip("refused by its elements")
    with pytest.raises(case.example.error):
        case.call(*map(without_elements, case.inputs()))


def test_changes_in_place_keep_the_graph():
    x = dg.ones((3, 4), device="meta", requires_grad=True)
    y = x * 2
    y[0] = x[1] * 3
    y.add_(1)
    row = y[2]
    row.mul_(2)
    y.sum().backward()
    assert x.grad.shape == (3, 4)


def test_devices_that_hold_elements_are_counted_alone():
    dg.zeros(1, device="meta")
    assert all(each.kind != "meta" for each in available_devices())
    assert str(dg.device("meta")) == "meta"
    assert dg.device("meta:0") == dg.device("meta")
    with pytest.raises(DeviceError):
        dg.device("meta:1")


@pytest.mark.parametrize("bound", [0.5, np.full(1, 0.5, np.float32), np.full(1, 0.5)], ids=str)
@pytest.mark.parametrize("kind", [np.int32, np.float32])
def test_bounds_of_another_dtype(kind, bound):
    x = np.arange(3).astype(kind)
    shaped = dg.clip(without_elements(x), bound if isinstance(bound, float) else without_elements(bound))
    assert shaped.dtype == dg.clip(x, bound).dtype
