"""Rung 2: everything on a strict fake device, against the CPU; what a GPU's host would wait for counts."""

import contextlib
import copy
import pickle

import device_checks as checks
import device_programs as programs
import fake_device
import numpy as np
import pytest

import distgrad as dg
from distgrad import optim
from distgrad.autograd.dispatch import CREATORS, operations, primitive
from distgrad.autograd.gradcheck import gradcheck, gradgradcheck
from distgrad.autograd.primitive import REGISTRY, Sample
from distgrad.autograd.samples import sample_cases
from distgrad.backend import array_module as rooms
from distgrad.backend.device import CPU, resolve, to_device
from distgrad.backend.streams import Event, Stream, current_stream, synchronize
from distgrad.errors import DeviceError, GraphError

fake_device.install()
FAKE = dg.Device("fake", 0)
CASES = list(sample_cases())


@pytest.fixture(autouse=True)
def fake_is_active():
    """Every test starts on fake:0."""
    fake_device._active.index = 0


@pytest.fixture
def far():
    """Sends an array to fake:0 as a tensor."""
    return programs.sender(FAKE)


# -- operations


@pytest.mark.parametrize("case", CASES, ids=str)
def test_operation(case):
    """The same bits in both orders: the fake device computes with NumPy."""
    checks.check_same_as_on_the_cpu(case, FAKE)
    if case.record.name != "move":
        checks.check_results_stay(case, FAKE)


@pytest.mark.parametrize("case", [case for case in CASES if case.record.name not in checks.WAITING], ids=str)
def test_operation_does_not_wait(case):
    with np.errstate(all="ignore"), fake_device.counted_syncs() as syncs:
        checks.Placed(case, FAKE).run()
    assert syncs == []


#: Those that leave each array where it is, or take numbers for the host's own use from wherever they are.
APART = {"broadcast_arrays", "meshgrid", "quantile", "repeat"}
SEVERAL = [
    case
    for case in CASES
    if case.record.name not in APART and sum(hasattr(x, "dtype") for x in case.inputs()) > 1
]


@pytest.mark.parametrize("case", SEVERAL, ids=str)
def test_mixing_host_and_device_is_refused(case):
    checks.check_mixing_is_refused(case, FAKE)


def test_mixing_two_devices_is_refused(far):
    x, y = far(np.ones(3)), far(np.ones(3)).to("fake:1")
    with pytest.raises(DeviceError, match=r"add: .* on fake:0, .* on fake:1; .*\.to\('fake:0'\)"):
        x + y
    assert (y + 1).device == "fake:1"
    assert ((x.to("fake:1") + y) * 2).tolist() == [4.0] * 3


# -- tensors


def test_gradients_come_back_to_where_the_input_lies():
    x = dg.tensor([1.0, 2.0], requires_grad=True)
    y = (x.to("fake:0") * 3).to("fake:1") * 2
    y.cpu().sum().backward()
    assert (x.grad.tolist(), str(x.grad.device)) == ([6.0, 6.0], "cpu")
    z = dg.tensor([1.0, 2.0], device="fake:1", requires_grad=True)
    (g,) = dg.autograd.grad((z**3).sum(), z, create_graph=True)
    g.sum().backward()
    assert (z.grad.tolist(), str(z.grad.device)) == ([6.0, 12.0], "fake:1")


def test_gradcheck_on_a_device(far):
    x = far(np.random.default_rng(0).standard_normal((3, 4))).requires_grad_()
    assert gradcheck(lambda x: dg.softmax(x * x), [x])
    assert gradgradcheck(lambda x: dg.tanh(x).sum(axis=0), [x])


#: function: its arguments
CREATED = {
    "arange": (4,),
    "asarray": ([1.0, 2.0],),
    "empty": ((2, 3),),
    "eye": (3,),
    "full": ((2,), 7.0),
    "linspace": (0.0, 1.0, 5),
    "ones": ((2, 3),),
    "tensor": ([[1, 2], [3, 4]],),
    "zeros": ((2, 3),),
}


@pytest.mark.parametrize("name", CREATED)
def test_creation(name):
    make = getattr(dg, name)
    found = make(*CREATED[name], device="fake:1")
    with dg.device("fake:1"):
        inside = make(*CREATED[name])
    assert str(found.device) == str(inside.device) == "fake:1"
    assert make(*CREATED[name]).device == "cpu"
    if name != "empty":
        expected = make(*CREATED[name])
        assert found.dtype == expected.dtype
        np.testing.assert_array_equal(found.cpu().numpy(), expected.numpy())
        np.testing.assert_array_equal(inside.cpu().numpy(), expected.numpy())


def test_creation_like(far):
    x = far(np.ones((2, 3), np.float32))
    assert {name for name in CREATORS if name.endswith("_like")} == {
        *("empty_like", "full_like", "ones_like", "zeros_like")
    }
    for made in (dg.zeros_like(x), dg.ones_like(x), dg.empty_like(x), dg.full_like(x, 2), dg.rand_like(x)):
        assert (made.device, made.dtype, made.shape) == (FAKE, x.dtype, x.shape)
    assert dg.zeros_like(x, device="cpu").device == "cpu"


def test_fresh_memory_holds_garbage():
    assert not dg.empty((3,), device="fake:0").isnan().all().item()
    assert np.all(to_device(dg.empty((3,), device="fake:0")._data, CPU).view(np.uint8) == fake_device.GARBAGE)


@pytest.mark.parametrize(
    "draw",
    [
        lambda **at: dg.rand(3, 4, **at),
        lambda **at: dg.randn(7, dtype=dg.float64, **at),
        lambda **at: dg.normal(1.0, 2.0, (5,), **at),
        lambda **at: dg.randint(0, 100, (6,), **at),
        lambda **at: dg.randperm(9, **at),
    ],
)
def test_random_numbers_are_the_same_bits(draw):
    dg.manual_seed(4)
    expected = draw()
    dg.manual_seed(4)
    found = draw(device="fake:1")
    assert str(found.device) == "fake:1"
    np.testing.assert_array_equal(found.cpu().numpy(), expected.numpy())


def test_draws_by_weights_are_the_same_bits(far):
    weights = np.array([0.1, 0.9, 0.5], np.float32)
    for draw in (dg.bernoulli, lambda x: dg.multinomial(x, 2)):
        dg.manual_seed(4)
        expected = draw(dg.asarray(weights))
        dg.manual_seed(4)
        found = draw(far(weights))
        assert found.device == FAKE
        np.testing.assert_array_equal(found.cpu().numpy(), expected.numpy())


def test_numpy_gets_no_device_tensor(far):
    x = far(np.ones(3, np.float32))
    for read in (x.numpy, lambda: np.asarray(x), lambda: np.sin(x), lambda: np.add(x, 1)):
        with pytest.raises(DeviceError, match=r"lies on|on fake:0; call \.cpu\(\) first"):
            read()
    assert x.cpu().numpy().tolist() == [1.0] * 3
    assert "device='fake:0'" in repr(x)


def test_indices(far):
    x, plain = far(np.arange(12.0).reshape(3, 4)), np.arange(12.0).reshape(3, 4)
    rows = far(np.array([2, 0]))
    assert x[rows].tolist() == x[[2, 0]].tolist() == plain[[2, 0]].tolist()
    assert x[1, ::2].tolist() == plain[1, ::2].tolist()
    for key in (np.array([0]), dg.tensor([0])):
        with pytest.raises(DeviceError, match="index on cpu"):
            x[key]
    x[rows, 1] = 5.0
    x[0] = far(np.zeros(4))
    with pytest.raises(DeviceError, match=r"setitem: .* on fake:0, .* on cpu"):
        x[0] = np.ones(4)
    assert x.tolist() == [[0.0] * 4, [4.0, 5.0, 6.0, 7.0], [8.0, 5.0, 10.0, 11.0]]


def test_changes_in_place_reach_views(far):
    def program(put):
        x = put(np.arange(4.0)).requires_grad_()
        y = x * 2
        view = y[1:]
        y.mul_(3)
        view[::2] = 1.0
        (y * view.sum()).sum().backward()
        return x.grad

    assert program(far).tolist() == program(dg.asarray).tolist()
    x = far(np.zeros(3))
    x.copy_(dg.tensor([1.0, 2.0, 3.0]))  # copying is asked for, so it may cross
    assert x.tolist() == [1.0, 2.0, 3.0]


def test_copies_and_pickles(far):
    x = far(np.ones(3)).requires_grad_()
    (x * 2).sum().backward()
    twin = copy.deepcopy(x)
    assert (twin.device, twin.grad.device, twin.requires_grad) == (FAKE, FAKE, True)
    again = pickle.loads(pickle.dumps(x.detach()))
    assert (again.device, again.tolist()) == (FAKE, [1.0] * 3)
    with pytest.raises(DeviceError, match="gradient on cpu"):
        x.grad = dg.ones(3, dtype=dg.float64)


def test_what_to_takes(far):
    x = dg.tensor([1.0, 2.0])
    y = x.to("fake:0", dg.float64)
    assert (y.device, y.dtype) == (FAKE, dg.float64)
    assert x.to(y).dtype == dg.float64
    assert y.to("fake") is y.to(FAKE) is y
    assert y.to("fake:0", copy=True) is not y
    assert x.to(device="fake:1", non_blocking=True).device == "fake:1"
    with pytest.raises(TypeError, match="unknown arguments"):
        x.to(place="fake:0")
    with pytest.raises(DeviceError, match=r"this process has 'fake:0', 'fake:1'"):
        x.to("fake:2")
    with pytest.raises(DeviceError, match="expected 'cpu', 'cuda'"):
        x.to("tpu")


# -- modules, losses, rules, steps

NEAR = {"rtol": 1e-5, "atol": 5e-6}  # the CPU has kernels of its own


@pytest.mark.parametrize("name", programs.MODULES)
def test_module(name):
    with fake_device.counted_syncs() as syncs:
        found = programs.run_module(name, FAKE)
    assert len(syncs) == len(found), "reading the results must be all that waits"
    programs.assert_same(found, programs.run_module(name, "cpu"), **NEAR)


@pytest.mark.parametrize("name", programs.LOSSES)
def test_loss(name):
    with fake_device.counted_syncs() as syncs:
        found = programs.run_loss(name, FAKE)
    assert len(syncs) == len(found), "reading the results must be all that waits"
    programs.assert_same(found, programs.run_loss(name, "cpu"), **NEAR)


@pytest.mark.parametrize(
    ("rule", "options"), programs.RULES, ids=lambda value: getattr(value, "__name__", "")
)
def test_optimizer(rule, options):
    with fake_device.counted_syncs() as syncs:
        found = programs.run_optimizer(rule, options, FAKE)
    assert len(syncs) == len(found) - 1, "reading parameters and state must be all that waits"
    programs.assert_same(found, programs.run_optimizer(rule, options, "cpu"), **NEAR)


def test_every_rule_is_among_those():
    rules = {each for each in vars(optim).values() if isinstance(each, type) and each is not optim.Optimizer}
    rules = {each for each in rules if issubclass(each, optim.Optimizer)}
    assert rules - {rule for rule, _ in programs.RULES} == {optim.LBFGS}


def test_lbfgs():
    def run(device):
        x = dg.tensor([1.5, -0.5], device=device, requires_grad=True)
        optimizer = optim.LBFGS([x], line_search_fn="strong_wolfe", max_iter=5)

        def closure():
            optimizer.zero_grad()
            loss = ((x - dg.tensor([0.2, 0.3], device=device)) ** 4).sum()
            loss.backward()
            return loss

        optimizer.step(closure)
        saved = optimizer.state_dict()
        optimizer.load_state_dict(saved)
        optimizer.step(closure)
        return programs.on_host([x])

    programs.assert_same(run("fake:0"), run("cpu"), **NEAR)


@pytest.mark.parametrize("name", programs.STEPS)
def test_step(name):
    """A step waits for nothing; the loss that the user reads is read after it."""
    syncs = []

    @contextlib.contextmanager
    def counted():
        with fake_device.counted_syncs() as found:
            yield
        syncs.extend(found)

    found = programs.train(name, FAKE, around_step=counted)
    assert syncs == []
    programs.assert_same(found, programs.train(name, "cpu"), rtol=1e-4, atol=1e-5)


def test_a_step_on_another_stream_and_device(far):
    with Stream("fake:1") as stream:
        assert current_stream("fake:1") == stream
        found = programs.train("mlp", "fake:1")
    assert current_stream("fake:1") != stream
    programs.assert_same(found, programs.train("mlp", "cpu"), rtol=1e-4, atol=1e-5)


def test_a_module_is_moved_before_an_optimizer_takes_it():
    model = dg.nn.Linear(3, 2)
    model(dg.ones((1, 3))).sum().backward()
    assert model.to("fake:0").weight.grad.device == FAKE
    assert {p.device for p in model.cpu().parameters()} == {CPU}
    optim.SGD(model.parameters(), lr=0.1)
    with pytest.raises(GraphError, match="before it is wrapped, or given to an optimizer"):
        model.to("fake:0")
    assert dg.nn.Linear(3, 2, device="fake:1").bias.device == "fake:1"


def test_checkpoints_know_no_device(tmp_path):
    source = dg.nn.Sequential(dg.nn.Linear(3, 2), dg.nn.BatchNorm1d(2)).to("fake:0")
    optimizer = optim.Adam(source.parameters())
    source(dg.ones((4, 3), device="fake:0")).sum().backward()
    optimizer.step()
    dg.save({"model": source.state_dict(), "optimizer": optimizer.state_dict()}, tmp_path / "state")
    loaded = dg.load(tmp_path / "state")
    assert loaded["model"]["0.weight"].device == "cpu"
    for device in ("cpu", "fake:1"):
        target = dg.nn.Sequential(dg.nn.Linear(3, 2), dg.nn.BatchNorm1d(2)).to(device)
        again = optim.Adam(target.parameters())
        target.load_state_dict(loaded["model"])
        again.load_state_dict(loaded["optimizer"])
        programs.assert_same(
            programs.on_host([*target.parameters(), *target.buffers()]),
            programs.on_host([*source.parameters(), *source.buffers()]),
        )
        state = again.state_dict()["state"][0]["exp_avg"]
        np.testing.assert_array_equal(
            to_device(state, CPU), to_device(optimizer.state_dict()["state"][0]["exp_avg"], CPU)
        )


def test_clipping_leaves_the_host_alone(far):
    def clipped(put, norm_type):
        p = put(np.zeros(4, np.float32)).requires_grad_()
        p.grad = put(np.array([3.0, -4.0, 0.0, 12.0], np.float32))
        total = dg.nn.utils.clip_grad_norm_([p], 1.0, norm_type)
        return total, p.grad

    for norm_type in (2.0, 1.0, 3.0, float("inf"), 0.0):
        with fake_device.counted_syncs() as syncs:
            total, g = clipped(far, norm_type)
        assert syncs == []
        expected_total, expected = clipped(dg.asarray, norm_type)
        np.testing.assert_allclose(total.item(), expected_total.item(), rtol=1e-6)
        np.testing.assert_allclose(g.tolist(), expected.tolist(), rtol=1e-6)
    p = far(np.zeros(2, np.float32)).requires_grad_()
    p.grad = far(np.array([np.nan, 1.0], np.float32))
    with pytest.raises(FloatingPointError, match="nan"):
        dg.nn.utils.clip_grad_norm_([p], 1.0, error_if_nonfinite=True)


# -- streams


def test_streams_and_events():
    first, second = Stream("fake:0"), Stream("fake:0")
    event = first.record_event()
    second.wait_event(event)
    assert first.native.said == [("record", event.native)]
    assert second.native.said == [("wait", event.native)]
    second.wait_stream(first)
    assert len(second.native.said) == 2
    with first:
        first.begin_capture()
        first.end_capture()
    assert first.native.said[-2:] == ["begin_capture", "end_capture"]
    with pytest.raises(DeviceError, match="only a stream of its own"):
        current_stream("fake:0").begin_capture()


def test_on_the_cpu_streams_have_nothing_to_wait_for():
    with Stream("cpu") as stream:
        event, later = Event(enable_timing=True, device="cpu"), Event(enable_timing=True, device="cpu")
        event.record()
        stream.wait_event(event)
        later.record(stream)
    assert event.query()
    assert stream.query()
    assert event.elapsed_time(later) >= 0.0
    assert stream.handle == 0
    stream.synchronize()
    event.synchronize()
    synchronize("cpu")
    with pytest.raises(DeviceError, match="enable_timing"):
        event.elapsed_time(Event(device="cpu"))
    with pytest.raises(DeviceError, match="on a GPU"):
        stream.begin_capture()


# -- the fake device itself


def planted(name, formula):
    """A new operation around a formula that is wrong on a device."""
    formula.__name__ = name
    formula.__annotations__ = {"x": "Array"}
    return primitive(math="y = x", samples=[Sample(((3,),))])(formula)


@pytest.fixture
def unregistered():
    """Operations that a test registers are gone afterwards."""
    before = set(REGISTRY)
    yield
    for name in set(REGISTRY) - before:
        for where in (REGISTRY, vars(operations), rooms._formulas, *map(vars, rooms.ARRAY_MODULES.values())):
            where.pop(name, None)


@pytest.mark.parametrize(
    ("formula", "message"),
    [
        (lambda xp, x: x + np.ones(3), "implicit conversion"),
        (lambda xp, x: np.exp(x), "implicit conversion"),
        (lambda xp, x: xp.take(x, np.array([0])), "host array"),
        (lambda xp, x: xp.insert(x, 0, 1.0), "no function 'insert'"),
        (lambda xp, x: np.asarray(x), "implicit conversion"),
    ],
    ids=["constant", "numpy function", "host index", "cupy lacks it", "conversion"],
)
def test_a_planted_crossing_is_caught(far, unregistered, formula, message):
    operation = planted("planted", formula)
    with pytest.raises((TypeError, AttributeError), match=message):
        operation(far(np.ones(3)))


@pytest.mark.parametrize(
    "formula",
    [
        lambda xp, x: x * float(x[0]),
        lambda xp, x: x if (x > 0).all() else -x,
        lambda xp, x: x[x > 0],
        lambda xp, x: x + len(xp.nonzero(x)),
        lambda xp, x: x * x.sum().item(),
        lambda xp, x: x[: x.astype("int64")[0]],
    ],
    ids=["float", "bool", "mask", "nonzero", "item", "slice"],
)
def test_a_planted_wait_is_counted(far, unregistered, formula):
    operation = planted("planted", formula)
    with fake_device.counted_syncs() as syncs:
        operation(far(np.ones(3)))
    assert [what for what, _ in syncs]
    assert all(__file__ in line for _, line in syncs)


def test_the_fake_device_refuses_what_lies_elsewhere(far):
    x, y = far(np.ones(3))._data, far(np.ones(3)).to("fake:1")._data
    for mix in (lambda: x + y, lambda: x * np.ones(3), lambda: np.ones(3) * x, lambda: x[np.array([0])]):
        with pytest.raises(TypeError, match="fake device"):
            mix()
    with pytest.raises(TypeError, match="while fake:0 is active"):
        fake_device._module.exp(y)
    assert resolve("fake:1").type == "fake"
