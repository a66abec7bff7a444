"""Every kernel beside its plain formula: on its operation's samples, and on shapes that kernels get wrong."""

import importlib
import os
import subprocess
import sys
import zlib

import numpy as np
import pytest
from kernel_cases import POOL, SHAPES, WINDOWS, Watched, agree, defaults, kernel_of, vjp_arguments

import distgrad as dg
from distgrad.autograd.primitive import REGISTRY
from distgrad.autograd.samples import Case, sample_cases
from distgrad.backend.kernels.table import TABLE, accelerated
from distgrad.backend.numpy import numpy_module as xp

OPERATIONS = sorted({name.split("/")[0] for name in TABLE} & REGISTRY.keys())
RULES = sorted(name for name, kernel in TABLE.items() if kernel.dtypes and name.split("/")[0] not in REGISTRY)


@pytest.fixture(scope="module", autouse=True)
def _watched():
    """All kernels of the tests below change what they say, and nothing else."""
    with pytest.MonkeyPatch.context() as patch:
        for kernel in TABLE.values():
            if kernel.dtypes:
                module = importlib.import_module(f"distgrad.backend.kernels.{kernel.module}")
                for name, value in list(vars(module).items()):
                    if hasattr(value, "entry") and hasattr(value, "py_func"):
                        patch.setattr(module, name, Watched(value))
        yield


def compare(record, inputs, attributes, char):
    """Forward and every gradient; returns how many kernels took the arguments."""
    ran = 0
    inputs = list(inputs) + [None] * (len(record.inputs) - len(inputs))
    with np.errstate(all="ignore"):
        y = record.formula(xp, *inputs, **attributes)
        if record.name in TABLE and char in TABLE[record.name].dtypes:
            fast = kernel_of(record.name)(*inputs, **attributes)
            if fast is not None:
                agree(fast, y, char)
                ran += 1
        g = np.random.default_rng(1).standard_normal((y[0] if isinstance(y, tuple) else y).shape).astype(char)
        if isinstance(y, tuple):
            g = (g, *(np.zeros_like(each) for each in y[1:]))
        for vjp in {id(vjp): vjp for vjp in record.vjps.values()}.values():
            name = f"{record.name}/{vjp.inputs[0]}"
            if name in TABLE and char in TABLE[name].dtypes:
                arguments = vjp_arguments(record, vjp, inputs, attributes, y)
                fast = kernel_of(name)(g, *arguments)
                if fast is not None:
                    agree(fast, vjp.function(xp, g, *arguments), char)
                    ran += 1
    return ran


@pytest.mark.parametrize("char", "fd")
@pytest.mark.parametrize("case", list(sample_cases(REGISTRY[name] for name in OPERATIONS)), ids=str)
def test_a_kernel_agrees_with_its_formula_on_every_sample(case: Case, char):
    attributes = defaults(case.record, case.example.attributes)
    compare(case.record, case.inputs(char), attributes, char)


@pytest.mark.parametrize("char", "fd")
@pytest.mark.parametrize(
    ("name", "shapes", "attributes"), SHAPES, ids=lambda value: str(value).replace(" ", "")
)
def test_shapes_that_are_one_long_odd_and_huge(name, shapes, attributes, char):
    rng = np.random.default_rng(zlib.crc32(repr(shapes).encode()))
    inputs = [rng.standard_normal(shape).astype(char) for shape in shapes]
    ran = compare(REGISTRY[name], inputs, attributes, char)
    takes = [key for key in TABLE if key.split("/")[0] == name and char in TABLE[key].dtypes]
    assert ran == len(takes)


def test_the_transpose_of_a_convolution_is_differentiated_with_its_kernel():
    rng = np.random.default_rng(0)
    x, w = (dg.asarray(rng.standard_normal(shape)) for shape in ((4, 6, 20, 20), (6, 8, 3, 3)))
    x.requires_grad = w.requires_grad = True
    y = dg.nn.functional.conv_transpose2d(x, w, padding=1)
    assert y.size > TABLE["convolution"].smallest
    (y * y).sum().backward()
    ones = dg.nn.functional.conv2d(2 * y.detach(), w.detach(), padding=1)
    np.testing.assert_allclose(x.grad.numpy(), ones.numpy(), rtol=1e-10)


@pytest.mark.parametrize("char", "fd")
def test_the_transposes_of_a_convolution_and_of_pooling(char):
    rng = np.random.default_rng(0)
    for name, shapes, attributes in SHAPES:
        if name not in ("convolution", "max_pool"):
            continue
        inputs = [rng.standard_normal(shape).astype(char) for shape in shapes]
        g = rng.standard_normal(REGISTRY[name].formula(xp, *inputs, **attributes).shape).astype(char)
        if name == "max_pool":
            from distgrad.autograd.ops.conv import Geometry

            geometry = Geometry(*attributes.values())
            sizes = {"spatial": inputs[0].shape[2:], "geometry": geometry}
            calls = [
                ("max_pool_scatter", (g, *inputs), {"geometry": geometry}),
                ("sum_pool", (*inputs,), {"geometry": geometry}),
                ("sum_pool_input", (g,), sizes),
            ]
        else:
            calls = [
                ("convolution_input", (g, inputs[1]), {"shape": inputs[0].shape, **attributes}),
                ("convolution_weight", (g, inputs[0]), {"shape": inputs[1].shape, **attributes}),
            ]
        for name, arguments, options in calls:
            fast = kernel_of(name)(*arguments, **options)
            agree(fast, REGISTRY[name].formula(xp, *arguments, **options), char)


def test_the_first_of_several_largest_elements_gets_the_gradient():
    from distgrad.autograd.ops.conv import Geometry

    rng = np.random.default_rng(0)
    for shape, sizes in WINDOWS:
        geometry = Geometry(*sizes)
        x = rng.integers(-2, 2, shape).astype("f")
        if not any(geometry.padding):
            x.reshape(-1)[:: max(2, x.size // 3)] = np.nan
            x[-1, -1] = -np.inf
        g = rng.standard_normal((*shape[:2], *geometry.out(shape[2:]))).astype("f")
        fast = kernel_of("max_pool_scatter")(g, x, geometry=geometry)
        plain = REGISTRY["max_pool_scatter"].formula(xp, g, x, geometry=geometry)
        agree(fast, plain, "f")


def test_gradients_of_parts_of_one_array_lie_in_one_array():
    rng = np.random.default_rng(0)
    packed = rng.standard_normal((2, 9, 3, 4, 5)).astype("f")
    parts = tuple(packed.transpose(2, 0, 3, 1, 4))
    g = rng.standard_normal((2, 9, 4, 5)).astype("f").transpose(0, 2, 1, 3)
    found = kernel_of("attention/query")(g, *parts, 0.3, True, (True,) * 3)
    copies = sorted((np.empty(x.shape, x.dtype) for x in parts), key=lambda x: -x.ctypes.data)
    for copy, x in zip(copies, parts, strict=True):  # one behind the other they may look like one array
        copy[...] = x
    apart = kernel_of("attention/query")(g, *copies, 0.3, True, (True,) * 3)
    agree(found, apart, "f")
    gradient = REGISTRY["unstack"].vjps["x"].function
    whole = gradient(xp, found, 0)
    np.testing.assert_array_equal(whole, np.stack(found))
    assert np.shares_memory(whole, found[0])
    assert whole.transpose(1, 3, 0, 2, 4).flags.c_contiguous
    for others in (apart, found[::-1], (found[0], found[2], found[1]), (found[0], *apart[1:])):
        joined = gradient(xp, others, -2)
        np.testing.assert_array_equal(joined, np.stack(others, -2))
        assert not np.shares_memory(joined, others[0])


def test_the_last_cell_of_a_sequence_hands_its_gradient_down():
    rng = np.random.default_rng(0)
    shapes = ((5, 3, 28), (28, 7), (3, 7), (3, 7))
    inputs = [rng.standard_normal(shape).astype("f") for shape in shapes]
    record = REGISTRY["lstm_steps"]
    y = record.formula(xp, *inputs)
    g = (*(rng.standard_normal(each.shape).astype("f") for each in y[:2]), np.zeros_like(y[2]))
    arguments = vjp_arguments(record, record.vjps["weight"], inputs, {}, y)
    fast = kernel_of("lstm_steps/from_input")(g, *arguments)
    agree(fast, record.vjps["weight"].function(xp, g, *arguments), "f")
    assert kernel_of("lstm_steps/from_input")((*g[:2], np.ones_like(y[2])), *arguments) is None


def test_cells_keep_the_digits_of_small_states():
    """tanh is the smallest part of an output: its relative error is what counts."""
    cell = np.array([[1e-6, -1e-3, 0.02, 0.29, 0.31, -3.0]], np.float32)
    gates = np.zeros((1, 24), np.float32)
    gates[0, 6:12], gates[0, :6] = 40, -80  # the forget gate is open, the input gate shut
    hidden, _ = kernel_of("lstm_cell")(gates, np.zeros_like(gates), cell)
    np.testing.assert_allclose(hidden, 0.5 * np.tanh(cell.astype("d")), rtol=1e-6)


def test_cross_entropy_agrees_for_one_class_and_for_many():
    rng = np.random.default_rng(0)
    for shape in ((1, 1), (300, 2), (7, 5001)):
        target = rng.integers(0, shape[1], shape[0])
        logits = 30 * rng.standard_normal(shape).astype("f")
        for ignored in (None, int(target[0])):
            attributes = {"target": target, "ignore_index": ignored}
            ran = compare(REGISTRY["softmax_cross_entropy"], [logits], attributes, "f")
            assert ran == (2 if logits.size >= 512 else 1)


STATES = [(0, 0, 0), (123, 7, 5), ((1 << 64) - 1, 1 << 63, (1 << 64) - 2), (5, 1, (1 << 70) + 3)]


@pytest.mark.parametrize("char", "fd")
@pytest.mark.parametrize("state", STATES, ids=str)
def test_dropout_drops_what_the_formula_drops(state, char, restored_threads):
    rng = np.random.default_rng(0)
    for n in (1, 7, 8, 9, 1023, 1025, 200003):
        for p in (0.0, 0.1, 0.5, 1.0):
            x = rng.standard_normal(n).astype(char)
            plain = REGISTRY["random_mask"].formula(xp, x, state=state, p=p)
            for threads in (1, 3):
                dg.set_num_threads(threads)
                np.testing.assert_array_equal(kernel_of("random_mask")(x, state=state, p=p), plain)


def test_what_dropout_draws_the_generator_passes_over():
    x = dg.ones((70, 101))
    for dtype in (dg.float32, dg.float64):
        ours, words = dg.Generator(3), dg.Generator(3)
        dg.dropout(x.astype(dtype), 0.3, generator=ours)
        words.uniform(x.shape, dtype)
        assert ours.get_state() == words.get_state()


@pytest.mark.parametrize("char", "fd")
def test_rows_of_a_table_add_up_by_index(char):
    rng = np.random.default_rng(0)
    for shape, rows, width in (((1,), 1, 1), ((7, 5), 3, 33), ((9001,), 5000, 17), ((3,), 1, 50001)):
        arguments = (rng.standard_normal((*shape, width)).astype(char), rng.integers(0, rows, shape))
        plain = REGISTRY["embedding_weight"].formula(xp, *arguments, num_embeddings=rows)
        agree(kernel_of("embedding_weight")(*arguments, num_embeddings=rows), plain, char)
    assert kernel_of("embedding_weight")(np.ones((1, 2), char), np.array([5]), num_embeddings=5) is None


@pytest.mark.parametrize("char", "fd")
def test_a_table_s_gradient_is_written_over_what_was_there(char):
    rng = np.random.default_rng(0)
    plain = REGISTRY["embedding"].vjps["weight"].function
    kernel = kernel_of("embedding/weight")
    for shape, rows, width in (((1,), 1, 1), ((7, 5), 3, 33), ((0, 2), 4, 3), ((9001,), 5000, 17)):
        g = rng.standard_normal((*shape, width)).astype(char)
        index = rng.integers(0, rows, shape)
        for cotangent in (g, np.broadcast_to(g[:1], g.shape) if g.size else g):
            for padding_idx in (None, 0, -1):
                home = np.full((rows, width), np.nan, char)
                fast = kernel(cotangent, index, home.shape, padding_idx, (home,))
                assert fast is home
                agree(fast, plain(xp, cotangent, index, home.shape, padding_idx, (None,)), char)
    other = np.empty((rows, width), "d" if char == "f" else "f")
    assert kernel(g, index, other.shape, None, (other,)).dtype == g.dtype


DECAY = {"weight_decay": 0.1, "maximize": True}
#: By rule: the optimizer, and options with which it takes every branch.
OPTIMIZERS = {
    "adam": ("AdamW", [{}, {"amsgrad": True, "maximize": True}]),
    "sgd": ("SGD", [{}, {"momentum": 0.9, "nesterov": True},
                    {"momentum": 0.9, "dampening": 0.1, "weight_decay": 0.1}]),
    "rmsprop": ("RMSprop", [{}, {"momentum": 0.9, **DECAY}, {"centered": True}]),
    "adagrad": ("Adagrad", [{"initial_accumulator_value": 0.5}, {"lr_decay": 0.1, **DECAY}]),
    "adadelta": ("Adadelta", [{}, DECAY]),
    "adamax": ("Adamax", [{}, DECAY]),
    "nadam": ("NAdam", [DECAY, {"weight_decay": 0.1, "decoupled_weight_decay": True}]),
    "radam": ("RAdam", [{"betas": (0.9, 0.7)}, DECAY, {"weight_decay": 0.1, "decoupled_weight_decay": True}]),
    "rprop": ("Rprop", [{}, {"maximize": True, "step_sizes": (0.09, 0.11)}]),
    "asgd": ("ASGD", [{"t0": 0.0}, DECAY]),
    "lion": ("Lion", [{}, DECAY]),
    "lars": ("LARS", [{}, DECAY]),
    "lamb": ("LAMB", [{}, DECAY]),
}  # fmt: skip


def parameters_after(kind, options, shape, char):
    rng = np.random.default_rng(0)
    p = dg.tensor(rng.standard_normal(shape).astype(char), requires_grad=True)
    optimizer = getattr(dg.optim, kind)([p], lr=0.1, **options)
    for _ in range(4):
        p.grad = dg.tensor(rng.standard_normal(p.shape).astype(char))
        optimizer.step()
    state = optimizer.state_dict()["state"][0]
    return p.detach().numpy().copy(), *(x for x in state.values() if isinstance(x, np.ndarray))


@pytest.mark.parametrize("name", RULES)
@pytest.mark.parametrize("char", "fd")
def test_an_optimizer_steps_alike_with_and_without_its_kernel(name, char, monkeypatch):
    kind, several = OPTIMIZERS[name]
    optimizer = getattr(dg.optim, kind)
    fused, taken = optimizer._fused, []
    assert optimizer.rule.name == name

    def noted(xp, p, *rest):
        taken.append(kernel_of(name)(p.copy(), *rest_copies(rest)) is not None)
        return fused(xp, p, *rest)

    for options in several:
        for shape in ((1025,), (35, 2001), (1, 1, 1), (0,)):
            monkeypatch.setattr(optimizer, "_fused", staticmethod(noted))
            fast = parameters_after(kind, options, shape, char)
            monkeypatch.setattr(optimizer, "_fused", staticmethod(fused.__wrapped__))
            agree(fast, parameters_after(kind, options, shape, char), char)
    assert taken
    assert all(taken)


def rest_copies(values):
    return [x.copy() if isinstance(x, np.ndarray) else x for x in values]


@pytest.mark.parametrize("name", RULES)
def test_a_gradient_that_is_not_a_number_shows_in_the_parameters(name):
    kind, (options, *_) = OPTIMIZERS[name]
    p = dg.tensor(np.ones(2000, np.float32), requires_grad=True)
    optimizer = getattr(dg.optim, kind)([p], lr=0.1, **options)
    for step in range(2):
        g = np.ones(2000, np.float32)
        g[7] = np.nan if step else 1.0
        p.grad = dg.tensor(g)
        optimizer.step()
    assert np.isnan(p.detach().numpy()[7])


# -- what kernels leave to the formula


def plain_calls(name, monkeypatch):
    """The operation with a note of each call of its plain formula."""
    calls = []

    def plain(*args, **kwargs):
        calls.append(name)
        return REGISTRY[name].formula(*args, **kwargs)

    return accelerated(name, plain), calls


@pytest.mark.parametrize(
    "x",
    [np.ones((64, 64), np.float16), np.ones((64, 64)).T[::2], np.ones((2, 2), np.float32)],
    ids=["float16", "not contiguous", "small"],
)
def test_other_dtypes_layouts_and_sizes_take_the_formula(x, monkeypatch):
    fast, calls = plain_calls("softmax", monkeypatch)
    agree(
        np.asarray(fast(xp, x, axis=-1), "d"),
        np.asarray(REGISTRY["softmax"].formula(xp, x, axis=-1), "d"),
        "f",
    )
    assert calls == ["softmax"]


def test_an_array_that_is_not_contiguous_gives_the_same():
    rng = np.random.default_rng(0)
    for name, shapes, attributes in SHAPES:
        if len(shapes[0]) < 2 or np.prod(shapes[0]) > 1e5:
            continue
        inputs = [rng.standard_normal(shape).astype("f") for shape in shapes]
        absent = [None] * (len(REGISTRY[name].inputs) - len(inputs))
        strided = [np.asfortranarray(x) for x in inputs]
        agree(accelerated(name, REGISTRY[name].formula)(xp, *strided, *absent, **attributes),
              REGISTRY[name].formula(xp, *inputs, *absent, **attributes), "f")  # fmt: skip


def test_nan_and_infinity_stay_what_they_are():
    x = np.zeros((40, 40), np.float32)
    x[0, 0], x[1, 1], x[2, 2] = np.nan, np.inf, -np.inf
    for name, attributes in (("softmax", {"axis": -1}), ("log_softmax", {"axis": -1}), ("silu", {}),
                             ("gelu", {"approximate": "none"}), ("gelu", {"approximate": "tanh"}),
                             ("layer_norm", {"normalized_shape": (40,), "eps": 1e-5})):  # fmt: skip
        record = REGISTRY[name]
        attributes = defaults(record, attributes)
        inputs = [x] + [None] * (len(record.inputs) - 1)
        with np.errstate(all="ignore"):
            plain = record.formula(xp, *inputs, **attributes)
        fast = kernel_of(name)(*inputs, **attributes)
        rows = [0, *range(3, 40)] if name in ("silu", "gelu") else range(40)  # −∞ · 0 there
        np.testing.assert_array_equal(np.isnan(fast[rows]), np.isnan(plain[rows]), err_msg=name)
    pooled = kernel_of("max_pool")(x[None, None], **POOL)
    assert np.isnan(pooled[0, 0, 0, 0])
    assert pooled[0, 0, 0, 1:].max() == 0


def test_numba_is_loaded_by_the_first_large_operation_and_not_before():
    program = """
import sys
import numpy as np
import distgrad as dg
assert "numba" not in sys.modules
dg.softmax(dg.asarray(np.ones((3, 4), np.float32)))
assert "numba" not in sys.modules
dg.softmax(dg.asarray(np.ones((64, 64), np.float32)))
assert "numba" in sys.modules
"""
    subprocess.run([sys.executable, "-c", program], check=True, timeout=100)


def test_without_numba_everything_runs_on_the_formulas():
    program = """
import importlib.util
import sys
find = importlib.util.find_spec
importlib.util.find_spec = lambda name, *rest: None if name == "numba" else find(name, *rest)
import numpy as np
import distgrad as dg
x = dg.asarray(np.ones((64, 64), np.float32))
x.requires_grad = True
dg.softmax(dg.gelu(x)).sum().backward()
assert x.grad.shape == (64, 64)
assert "numba" not in sys.modules
"""
    subprocess.run([sys.executable, "-c", program], check=True, timeout=100)


# -- repeatability, threads


def train(threads):
    from distgrad import nn, optim

    dg.set_num_threads(threads)
    dg.manual_seed(0)
    rng = np.random.default_rng(0)
    model = nn.Sequential(
        nn.Conv2d(3, 24, 3),
        nn.BatchNorm2d(24), nn.GELU(), nn.MaxPool2d(2), nn.Flatten(), nn.Linear(24 * 49, 96),
        nn.LayerNorm(96), nn.Linear(96, 40),
    )  # fmt: skip
    optimizer = optim.AdamW(model.parameters(), lr=1e-3)
    x = dg.asarray(rng.standard_normal((48, 3, 16, 16)).astype("f"))
    y = dg.asarray(rng.integers(0, 40, 48))
    for _ in range(4):
        optimizer.zero_grad()
        dg.nn.functional.cross_entropy(model(x), y).backward()
        optimizer.step()
    return [p.detach().numpy().copy() for p in model.parameters()]


@pytest.fixture
def restored_threads():
    before = dg.get_num_threads()
    yield
    dg.set_num_threads(before)


@pytest.mark.parametrize("threads", [1, 2, 3])
def test_a_run_repeats_itself_to_the_bit(threads, restored_threads):
    first, second = train(threads), train(threads)
    for a, b in zip(first, second, strict=True):
        np.testing.assert_array_equal(a, b)
    assert dg.get_num_threads() == threads


def test_a_row_does_not_depend_on_the_number_of_threads(restored_threads):
    x = np.random.default_rng(0).standard_normal((301, 1001)).astype("f")
    results = []
    for threads in (1, 2, 5):
        dg.set_num_threads(threads)
        results.append([kernel_of("softmax")(x, axis=-1), kernel_of("gelu")(x, approximate="none")])
    for other in results[1:]:
        for a, b in zip(results[0], other, strict=True):
            np.testing.assert_array_equal(a, b)


def test_threads_below_one_are_refused():
    with pytest.raises(ValueError, match="at least 1, got 0"):
        dg.set_num_threads(0)


def threads_under(**variables):
    program = """
import distgrad as dg
from distgrad.backend.blas import find_blas
print(dg.get_num_threads(), find_blas().get_threads())
"""
    unset = {"OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "LOCAL_WORLD_SIZE", "MPI_LOCALNRANKS"}
    environment = {key: value for key, value in os.environ.items() if key not in unset} | variables
    done = subprocess.run(
        [sys.executable, "-c", program],
        check=True,
        timeout=100,
        env=environment,
        capture_output=True,
        text=True,
    )
    return [int(number) for number in done.stdout.split()]


def test_threads_by_default_are_the_launchers_or_a_share_of_the_cores():
    cores = len(os.sched_getaffinity(0))
    assert threads_under() == [cores, cores]
    assert threads_under(OMP_NUM_THREADS="1") == [1, 1]
    assert threads_under(MPI_LOCALNRANKS=str(cores)) == [1, 1]
    assert threads_under(LOCAL_WORLD_SIZE=str(2 * cores)) == [1, 1]
