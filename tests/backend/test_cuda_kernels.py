"""Every CUDA kernel beside its plain formula in double precision, forward and backward.

They run on a GPU where there is one, else on the double of CuPy's runtime, which computes the very same
kernels on the host.
"""

import importlib
import itertools
import math
import zlib

import ml_dtypes
import numpy as np
import pytest
from kernel_cases import POOL, SHAPES, TOLERANCE, agree, defaults, vjp_arguments
from real_gpus import gpus_are_there

import distgrad as dg
from distgrad.autograd.dispatch import operations
from distgrad.autograd.ops.conv import Geometry
from distgrad.autograd.primitive import REGISTRY
from distgrad.autograd.samples import sample_cases
from distgrad.backend import cudnn
from distgrad.backend.device import find_backend
from distgrad.backend.kernels.cuda.source import TYPES
from distgrad.backend.kernels.rules import RULES as SOURCES
from distgrad.backend.kernels.table import TABLE
from distgrad.backend.kernels.translate import array_form
from distgrad.backend.numpy import numpy_module as xp
from distgrad.backend.rng import Generator

ON_THE_DOUBLE = [] if gpus_are_there() else [pytest.mark.gpu_double(devices=1, timeout=1200)]
pytestmark = [pytest.mark.gpu, *ON_THE_DOUBLE]

DTYPES = {"f": np.float32, "d": np.float64, "e": np.float16, "E": ml_dtypes.bfloat16}
OPERATIONS = sorted({name.split("/")[0] for name in TABLE} & REGISTRY.keys())


@pytest.fixture(scope="module", autouse=True)
def cp():
    cupy = pytest.importorskip("cupy", reason="CuPy is not installed: no CUDA kernel is run")
    try:
        count = cupy.cuda.runtime.getDeviceCount()
    except cupy.cuda.runtime.CUDARuntimeError as error:
        pytest.skip(f"no CUDA kernel is run: {error}")
    if not count:
        pytest.skip("no CUDA kernel is run: no GPU is visible")
    return cupy


@pytest.fixture(autouse=True)
def kernels_alone(monkeypatch):
    """cuDNN computes nothing, also where it is there."""
    monkeypatch.setattr(cudnn, "_library", lambda: None)


@pytest.fixture(params=DTYPES)
def char(request):
    return request.param


def body(name):
    """The CUDA body: what it does not take it answers with None."""
    kernel = TABLE[name]
    return getattr(importlib.import_module(f"distgrad.backend.kernels.cuda.{kernel.module}"), kernel.function)


def moved(value, convert):
    """A structure with ``convert`` applied to its arrays."""
    if isinstance(value, tuple) and type(value) is tuple:
        return tuple(moved(each, convert) for each in value)
    return convert(np.asarray(value)) if isinstance(value, np.ndarray | np.generic) else value


def rounded(x, char):
    """Numbers that the type holds, in float64; whole numbers stay."""
    if isinstance(x, np.ndarray) and x.dtype.kind in "iu":
        return x
    with np.errstate(over="ignore"):
        return np.asarray(x).astype(DTYPES[char]).astype("d")


def on_gpu(x, cp, char):
    return cp.asarray(x.astype(DTYPES[char]) if x.dtype.kind == "f" else x)


def check(name, arguments, plain, cp, char, options=None):
    """The CUDA body against ``plain``; whether it took the arguments. All arguments are float64."""
    send = lambda x: on_gpu(x, cp, char)  # noqa: E731
    options = options or {}
    given = {key: None if key == "eps" and value == EPS[char] else value for key, value in options.items()}
    fast = body(name)(*(moved(each, send) for each in arguments), **moved_values(given, send))
    if fast is None:
        return False
    compare(fast, plain, char, cp)
    return True


#: What stands for an eps of None, the type's own.
EPS = {char: float(ml_dtypes.finfo(dtype).eps) for char, dtype in DTYPES.items()}


def moved_values(options, convert):
    return {key: moved(value, convert) for key, value in options.items()}


def compare(fast, plain, char, cp):
    if isinstance(plain, tuple):
        for a, b in zip(fast, plain, strict=True):
            if b is not None:
                compare(a, b, char, cp)
        return
    assert isinstance(fast, cp.ndarray)
    assert fast.dtype == DTYPES[char]
    agree(cp.asnumpy(fast).astype("d"), rounded(plain, char), char)


#: Formulas whose random numbers depend on the type, so that they run in it and not in double precision.
DRAWN = {"random_mask"}


def run_both(record, inputs, attributes, cp, char):
    """Forward and every gradient of an operation; returns how many CUDA bodies took the arguments."""
    inputs = [None if x is None else rounded(x, char) for x in inputs]
    inputs += [None] * (len(record.inputs) - len(inputs))
    if attributes.get("eps", 0.0) is None:
        attributes = attributes | {"eps": EPS[char]}
    own = (lambda x: x.astype(DTYPES[char])) if record.name in DRAWN else np.asarray
    ran = 0
    with np.errstate(all="ignore"):
        y = moved(record.formula(xp, *moved(tuple(inputs), own), **attributes), np.asarray)
        if record.name in TABLE and char in TABLE[record.name].cuda:
            ran += check(record.name, inputs, y, cp, char, attributes)
        y = moved(y, lambda x: rounded(x, char))
        rng = np.random.default_rng(1)
        g = moved(y, lambda x: rounded(rng.standard_normal(x.shape), char))
        for vjp in {id(vjp): vjp for vjp in record.vjps.values()}.values():
            name = f"{record.name}/{vjp.inputs[0]}"
            if name in TABLE and char in TABLE[name].cuda:
                arguments = vjp_arguments(record, vjp, inputs, attributes, y)
                plain = moved(vjp.function(xp, moved(g, own), *arguments), np.asarray)
                ran += check(name, (g, *arguments), plain, cp, char)
    return ran


def takes(name, char):
    return [key for key in TABLE if key.split("/")[0] == name and char in TABLE[key].cuda]


@pytest.mark.parametrize("case", list(sample_cases(REGISTRY[name] for name in OPERATIONS)), ids=str)
def test_a_kernel_agrees_with_its_formula_on_every_sample(case, cp, char):
    run_both(case.record, case.inputs("d"), defaults(case.record, case.example.attributes), cp, char)


@pytest.mark.parametrize(
    ("name", "shapes", "attributes"), SHAPES, ids=lambda value: str(value).replace(" ", "")
)
def test_shapes_that_are_one_long_odd_and_huge(name, shapes, attributes, cp, char):
    rng = np.random.default_rng(zlib.crc32(repr(shapes).encode()))
    inputs = [rng.standard_normal(shape) for shape in shapes]
    if name == "lstm_steps":
        inputs[1] /= math.sqrt(shapes[1][1])  # so that later steps do not grow what an earlier one rounds
    assert run_both(REGISTRY[name], inputs, attributes, cp, char) == len(takes(name, char))


CHANNELS = [((1, 1), 1), ((3, 5), 5), ((2, 3, 70, 61), 3), ((9001, 2), 2), ((1, 3, 1), 3)]


@pytest.mark.parametrize("shape", [shape for shape, _ in CHANNELS], ids=str)
@pytest.mark.parametrize("affine", [False, True])
def test_batch_norm_with_gradients_of_its_statistics(shape, affine, cp, char):
    rng = np.random.default_rng(0)
    inputs = [3 + rng.standard_normal(shape)] + [rng.standard_normal(shape[1]) for _ in range(2 * affine)]
    record = REGISTRY["batch_norm_with_statistics"]
    assert run_both(record, inputs, {"eps": 1e-2}, cp, char) == 2


@pytest.mark.parametrize(("shape", "geometry"), [
    ((2, 3, 7, 9), Geometry((3, 3), (2, 2), (1, 1), (1, 1))),
    ((1, 1, 5), Geometry((2,), (3,), (1,), (1,), True)),
    ((2, 1, 4, 6, 5), Geometry((2, 3, 2), (1, 2, 2), (1, 1, 0), (1, 1, 2))),
    ((70, 1000, 2, 2), Geometry((2, 2), (2, 2), (0, 0), (1, 1))),
], ids=str)  # fmt: skip
def test_pooling_of_windows_that_overlap_and_reach_beyond(shape, geometry, cp, char):
    rng = np.random.default_rng(0)
    x = rounded(rng.integers(-3, 3, shape).astype("d"), char)  # many ties: the first of them counts
    names = ("kernel_size", "stride", "padding", "dilation", "ceil_mode")
    assert run_both(REGISTRY["max_pool"], [x], dict(zip(names, geometry, strict=True)), cp, char) == 1
    g = rounded(rng.standard_normal((*shape[:2], *geometry.out(shape[2:]))), char)
    plain = REGISTRY["max_pool_scatter"].formula(xp, g, x, geometry=geometry)
    assert check("max_pool_scatter", (g, x), plain, cp, char, {"geometry": geometry})


def test_the_transposes_of_a_convolution(cp, char):
    volume = {"stride": (1, 2, 1), "padding": (1, 0, 2), "dilation": (1, 1, 2), "groups": 2}
    wide = {"stride": (1, 1), "padding": (1, 1), "dilation": (1, 1), "groups": 4}
    more = [
        ("convolution", [(2, 4, 3, 5, 6), (6, 2, 2, 3, 2), (6,)], volume),
        ("convolution", [(3, 4, 6, 5), (8, 1, 3, 3), (8,)], wide),
    ]
    for name, shapes, attributes in [*SHAPES, *more]:
        if name != "convolution":
            continue
        x, w, b = (rounded(np.random.default_rng(0).standard_normal(shape), char) for shape in shapes)
        for bias in (None, b):
            y = REGISTRY[name].formula(xp, x, w, bias, **attributes)
            assert check(name, (x, w, bias), y, cp, char, attributes)
        g = rounded(np.random.default_rng(1).standard_normal(y.shape), char)
        for name, arguments, shape in (
            ("convolution_input", (g, w), x.shape),
            ("convolution_weight", (g, x), w.shape),
        ):
            options = {"shape": shape, **attributes}
            plain = REGISTRY[name].formula(xp, *arguments, **options)
            assert check(name, arguments, plain, cp, char, options)


@pytest.mark.parametrize("module", ["conv", "attention"])
def test_parts_give_what_the_whole_gives(module, cp, char, monkeypatch):
    cuda = importlib.import_module(f"distgrad.backend.kernels.cuda.{module}")
    limit = {"conv": "_PATCHES", "attention": "_BLOCK_ELEMENTS"}[module]
    monkeypatch.setattr(cuda, limit, 150)
    rng = np.random.default_rng(0)
    if module == "attention":
        inputs = [rng.standard_normal(shape) for shape in ((2, 3, 9, 5), (2, 3, 7, 5), (2, 3, 7, 4))]
        for causal in (False, True):
            attributes = {"scale": 0.4, "is_causal": causal}
            assert run_both(REGISTRY["attention"], inputs, attributes, cp, char) == 2
        return
    test_the_transposes_of_a_convolution(cp, char)


def test_cross_entropy_for_one_class_and_for_many(cp, char):
    rng = np.random.default_rng(0)
    for shape in ((1, 1), (300, 2), (7, 5001)):
        target = rng.integers(0, shape[1], shape[0])
        logits = 10 * rng.standard_normal(shape)
        for ignored in (None, int(target[0])):
            attributes = {"target": target, "ignore_index": ignored}
            assert run_both(REGISTRY["softmax_cross_entropy"], [logits], attributes, cp, char) == 2


@pytest.mark.parametrize("rows", [1, 5, 700, 70_000])
def test_the_mean_of_rows_that_count(rows, cp, char):
    rng = np.random.default_rng(0)
    record, losses = REGISTRY["counted_mean"], rng.uniform(0, 8, rows)
    for kind in (np.int64, np.int32):
        attributes = {"target": rng.integers(0, 3, rows).astype(kind), "ignore_index": 1}
        attributes["target"][0] = 0
        assert run_both(record, [losses], attributes, cp, char) == 2
    target = cp.ones(rows, np.int64)
    y = body("counted_mean")(on_gpu(losses, cp, char), target=target, ignore_index=1)
    assert np.isnan(float(y))
    g = body("counted_mean/losses")(cp.ones((), DTYPES[char]), target, 1)
    np.testing.assert_array_equal(cp.asnumpy(g).astype("d"), np.zeros(rows))


@pytest.mark.parametrize("momentum", [0.1, np.array(0.25)])
def test_running_statistics_move_in_place(momentum, cp, char):
    rng = np.random.default_rng(0)
    host = [rounded(rng.uniform(0.5, 2, 9), char) for _ in range(4)]
    gpu = [on_gpu(x, cp, char) for x in host]
    at = cp.asarray(momentum) if isinstance(momentum, np.ndarray) else momentum
    assert body("running_statistics")(*gpu, at, 1.25) is gpu[0]
    share = float(momentum)
    compare(gpu[0], (1 - share) * host[0] + share * host[2], char, cp)
    compare(gpu[1], (1 - share) * host[1] + share * 1.25 * host[3], char, cp)
    assert body("running_statistics")(gpu[0], None, gpu[2], gpu[3], 0.1, 1.25) is None
    assert body("running_statistics")(*gpu[:3], gpu[3].astype("i4"), 0.1, 1.25) is None


def test_running_statistics_are_means_over_the_batches_that_they_count(cp, char):
    rng = np.random.default_rng(0)
    running = [cp.zeros(300, DTYPES[char]) for _ in range(2)]
    batches, values = cp.zeros((), np.int64), [rounded(rng.uniform(0.5, 2, 300), char) for _ in range(3)]
    for each in values:
        x = on_gpu(each, cp, char)
        body("running_statistics")(*running, x, x, None, 1.0, batches)
    assert int(batches) == 3
    compare(running[0], sum(values) / 3, char, cp)
    compare(running[1], sum(values) / 3, char, cp)
    body("running_statistics")(*running, x, x, 0.0, 1.0, batches)
    assert int(batches) == 4


@pytest.mark.parametrize("most", [0, 1 << 25], ids=["a product by cuBLAS", "a product in the kernel"])
@pytest.mark.parametrize("sizes", [(3, 5, 33), (2, 17, 70)], ids=str)
def test_steps_of_lstm_with_a_product_of_any_size(sizes, most, cp, char, monkeypatch):
    recurrent = importlib.import_module("distgrad.backend.kernels.cuda.recurrent")
    monkeypatch.setattr(recurrent, "_SMALL_PRODUCT", most)
    steps, n, h = sizes
    shapes = (steps, n, 4 * h), (4 * h, h), (n, h), (n, h)
    inputs = [0.3 * np.random.default_rng(i).standard_normal(shape) for i, shape in enumerate(shapes)]
    assert run_both(REGISTRY["lstm_steps"], inputs, {}, cp, char) == 2


OVER_MANY = {
    "layer_norm": ([(1000, 300), (300,), (300,)], {"normalized_shape": (300,), "eps": 1e-5}),
    "convolution": (
        [(3, 4, 9), (6, 2, 3)],
        {"stride": (1,), "padding": (1,), "dilation": (1,), "groups": 2},
    ),
    "group_norm": ([(3, 4, 3000), (4,), (4,)], {"num_groups": 2, "eps": 1e-5}),
    "instance_norm": ([(2, 2, 4097), (2,), (2,)], {"eps": 1e-5}),
}


@pytest.mark.parametrize("name", OVER_MANY)
def test_sums_over_rows_and_images(name, cp):
    shapes, attributes = OVER_MANY[name]
    rng = np.random.default_rng(0)
    inputs = [rng.standard_normal(shape) for shape in shapes]
    assert run_both(REGISTRY[name], inputs, attributes, cp, "d") >= 2


@pytest.mark.parametrize("used", [(True, False, False), (False, True, False), (False, True, True)], ids=str)
def test_results_of_batch_norm_that_nothing_uses_have_no_gradient(used, cp):
    host = np.random.default_rng(0).standard_normal((5000, 3))

    def gradients(device):
        x = dg.tensor(host, device=device, requires_grad=True)
        weight = dg.tensor(np.array([0.5, 2.0, 1.0]), device=device, requires_grad=True)
        some = operations.batch_norm_with_statistics(x, weight)
        loss = sum((y * y).sum() for y, is_used in zip(some, used, strict=True) if is_used)
        loss.backward()
        return x.grad.cpu().numpy(), weight.grad.cpu().numpy()

    for a, b in zip(gradients("cuda"), gradients("cpu"), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-9, atol=1e-12)


def test_a_class_that_there_is_not_gives_nan_and_reads_nothing(cp, char):
    logits, target = np.zeros((4, 3)), np.array([0, 3, -1, 1 << 40])
    x = on_gpu(logits, cp, char)
    y = body("softmax_cross_entropy")(x, target=cp.asarray(target))
    g = body("softmax_cross_entropy/logits")(cp.ones_like(y), x, cp.asarray(target))
    for result in (y, g[:, 0]):
        np.testing.assert_array_equal(np.isnan(cp.asnumpy(result).astype("d")), [False, True, True, True])


@pytest.mark.parametrize(("shape", "rows", "width"), [
    ((1,), 1, 1), ((7, 5), 3, 33), ((9001,), 5000, 3), ((3,), 1, 5001), ((3000,), 70000, 1), ((300,), 256, 2),
])  # fmt: skip
def test_rows_of_a_table_add_up_by_index(shape, rows, width, cp, char):
    rng = np.random.default_rng(0)
    values = rounded(rng.standard_normal((*shape, width)), char)
    for kind in (np.int64, np.int32):
        index = rng.integers(0, rows, shape).astype(kind)
        plain = REGISTRY["embedding_weight"].formula(xp, values, index, num_embeddings=rows)
        assert check("embedding_weight", (values, index), plain, cp, char, {"num_embeddings": rows})


@pytest.mark.parametrize("shape", [(4, 3), (2, 5, 1), (1, 700), (2,), (900, 2)])
@pytest.mark.parametrize("width", [1, 70])
def test_sums_of_the_rows_that_bags_name(shape, width, cp, char):
    rng = np.random.default_rng(0)
    record, bodies = REGISTRY["embedding_sum"], (body("embedding_sum"), body("embedding_sum/weight"))
    table, index = rounded(rng.standard_normal((9, width)), char), rng.integers(0, 9, shape)
    g = rounded(rng.standard_normal((*shape[:-1], width)), char)
    each = np.broadcast_to(g[..., None, :], (*shape, width))
    sums = REGISTRY["embedding_weight"].formula(xp, each, index, num_embeddings=9)
    for kind in (np.int64, np.int32):
        on = cp.asarray(index.astype(kind))
        compare(bodies[0](on, on_gpu(table, cp, char)), record.formula(xp, index, table), char, cp)
        for home in (None, cp.full((9, width), 7, DTYPES[char])):
            found = bodies[1](on_gpu(g, cp, char), on, (9, width), (home,))
            assert home is None or found is home
            compare(found, sums, char, cp)
    old = on_gpu(sums, cp, char)  # a gradient of before, in the memory of the next one
    found = body("embedding/weight")(old, cp.asarray(np.arange(9)[::-1].copy()), (9, width), None, (old,))
    compare(found, rounded(sums, char)[::-1], char, cp)
    outside = bodies[0](cp.asarray(np.array([[0, 1], [2, 9], [-1, 0]])), on_gpu(table, cp, char))
    np.testing.assert_array_equal(np.isnan(cp.asnumpy(outside).astype("d"))[:, 0], [False, True, True])


@pytest.mark.parametrize(
    "shapes", [((3, 4, 6, 5), (8, 2, 3, 3)), ((2, 2, 7), (3, 1, 2)), ((2, 3, 4), (5, 3, 1))]
)
def test_gradients_of_a_convolutions_parameters_are_written_home(shapes, cp, char):
    rng = np.random.default_rng(0)
    x, w = (rounded(rng.standard_normal(shape), char) for shape in shapes)
    axes = len(shapes[0]) - 2
    geometry = {name: (value,) * axes for name, value in (("stride", 1), ("padding", 1), ("dilation", 1))}
    groups = shapes[0][1] // shapes[1][1] if shapes[1][0] % (shapes[0][1] // shapes[1][1]) == 0 else 1
    if groups == 1:
        w = rounded(rng.standard_normal((shapes[1][0], shapes[0][1], *shapes[1][2:])), char)
    y = REGISTRY["convolution"].formula(xp, x, w, **geometry, groups=groups)
    g = rounded(rng.standard_normal(y.shape), char)
    plain = REGISTRY["convolution_weight"].formula(xp, g, x, shape=w.shape, **geometry, groups=groups)
    up, images = on_gpu(g, cp, char), on_gpu(x, cp, char)
    for some, shape, expected, arguments in (
        ("weight", w.shape, plain, (images, w.shape, *geometry.values(), groups)),
        ("bias", w.shape[:1], g.sum(axis=(0, *range(2, g.ndim))), ()),
    ):
        for home in (None, cp.full(shape, 7, DTYPES[char])):
            found = body(f"convolution/{some}")(up, *arguments, (home,))
            assert home is None or found is home
            compare(found, expected, char, cp)


def test_an_index_outside_the_table_adds_nothing(cp, char):
    index = cp.asarray(np.array([2, -1, 5, 1 << 40, 0, 2]))
    out = body("embedding_weight")(on_gpu(np.ones((6, 1)), cp, char), index, num_embeddings=5)
    np.testing.assert_array_equal(cp.asnumpy(out).astype("d")[:, 0], [1, 0, 2, 0, 0])


@pytest.mark.parametrize("key", [
    np.array([2, 0, 2, -1]), (np.array([2, 0, 2]),), (slice(None), np.array([1, 1, 3, 0])),
    (np.array([[0], [2]]), np.array([1, 1])), (Ellipsis, 1, np.array([2, 2])),
], ids=str)  # fmt: skip
def test_elements_named_twice_add_up(key, cp, char):
    rng = np.random.default_rng(0)
    for shape in ((5,), (4, 6)):
        if isinstance(key, tuple) and len(shape) < len([k for k in key if k is not Ellipsis]):
            continue
        x = rounded(rng.standard_normal(shape), char)
        values = rounded(rng.standard_normal(x[key].shape), char)
        plain = x.copy()
        np.add.at(plain, key, values)
        send = lambda each: on_gpu(each, cp, char)  # noqa: E731
        fast = body("add_at")(send(x), moved(key, send), send(values))
        compare(fast, plain, char, cp)


def test_the_backend_adds_at_indices_by_the_kernel(cp):
    """CuPy's own ``add.at`` adds in any order; twice the same bits would be luck."""
    backend_xp = find_backend("cuda").xp
    rng = np.random.default_rng(0)
    index, values = cp.asarray(rng.integers(0, 5, 4000)), cp.asarray(rng.standard_normal(4000).astype("f"))
    x = cp.zeros(5, np.float32)
    assert backend_xp.add_at(x, index, values) is x
    expected = body("add_at")(cp.zeros(5, np.float32), index, values)
    assert cp.asnumpy(x).tobytes() == cp.asnumpy(expected).tobytes()


def test_sums_by_index_repeat_themselves_to_the_bit(cp, char):
    rng = np.random.default_rng(0)
    values, index = on_gpu(rng.standard_normal((5000, 3)), cp, char), cp.asarray(rng.integers(0, 7, 5000))
    first, second = (
        cp.asnumpy(body("embedding_weight")(values, index, num_embeddings=7)).tobytes() for _ in range(2)
    )
    assert first == second


@pytest.mark.parametrize("width", [1, 3, 40])
def test_a_row_that_nearly_all_indices_name_is_added_up_by_many_threads(width, cp):
    """One thread's sum of so many numbers would have lost the last three digits."""
    rng = np.random.default_rng(0)
    for n, rows in ((64, 3), (65, 3), (200_000 // width, 300)):
        index = np.where(rng.random(n) < 0.97, 1, rng.integers(0, rows, n))
        values = rng.uniform(0.05, 0.15, (n, width)).astype("f")
        plain = REGISTRY["embedding_weight"].formula(xp, values.astype("d"), index, num_embeddings=rows)
        found = body("embedding_weight")(cp.asarray(values), cp.asarray(index), num_embeddings=rows)
        np.testing.assert_allclose(cp.asnumpy(found), plain, rtol=2e-6)


@pytest.mark.parametrize("key", [
    np.array([5, 7, 5]), (np.array([5, 7]), 3), (slice(None, 3), np.array([1, 1])),
    (np.array([[0], [2]]), np.array([1, -1])), (Ellipsis, np.array([2, 2])),
], ids=str)  # fmt: skip
def test_adding_at_a_few_places_of_a_large_array_costs_little(key, cp):
    x, asked = cp.zeros((1000, 500), np.float32), []
    value, send = cp.asarray(np.float32(1.0)), cp.asarray
    plain = np.zeros(x.shape, np.float32)
    np.add.at(plain, key, 1.0)
    pool = cp.get_default_memory_pool()
    with cp.cuda.using_allocator(lambda size: asked.append(size) or pool.malloc(size)):
        body("add_at")(x, moved(key, send), value)
    assert asked
    assert sum(asked) < x.nbytes / 10
    np.testing.assert_array_equal(cp.asnumpy(x), plain)


# -- optimizers, norms

SIGNS = [(1.0, 0.0), (-1.0, 0.1)]
#: By rule: how many arrays it may be given, which may be missing, and numbers behind sign and decay.
RULES = {
    "adam": (5, [(), (4,)], [(0.99, 0.9, 0.1, 0.99, 0.01, 1.7, 1e-4, 0.03)]),
    "sgd": (3, [(), (2,)], [(0.03, 0.9, 1.0, 1.0), (0.03, 0.9, 0.7, 0.0)]),
    "rmsprop": (5, [(), (3,), (4,), (3, 4)], [(0.9, 0.1, 1e-3, 0.9, 0.03)]),
    "adagrad": (3, [()], [(1e-3, 0.03)]),
    "adadelta": (4, [()], [(0.9, 0.1, 1e-3, 0.5)]),
    "adamax": (4, [()], [(0.1, 0.99, 1e-3, 0.03)]),
    "nadam": (4, [()], [(0.99, 0.1, 0.99, 0.01, 1.7, 1e-3, 0.02, 0.03), (1, 0.1, 0.9, 0.1, 1, 1e-3, 0.1, 0)]),
    "radam": (4, [()], [(0.99, 0.1, 0.99, 0.01, 1e-3, 0.03, 0.7), (1.0, 0.1, 0.99, 0.01, 1e-3, 0.03, 0.0)]),
    "rprop": (4, [()], [(0.5, 1.25, 0.3, 2.0)]),
    "asgd": (3, [()], [(0.99, 0.03, 0.25), (0.99, 0.03, 1.0)]),
    "lion": (3, [()], [(0.99, 0.03, 0.9, 0.1, 0.99, 0.01), (1.0, 0.03, 0.9, 0.1, 0.99, 0.01)]),
    "lars": (3, [()], [(0.9, 0.03)]),
    "lamb": (5, [()], [(0.1, 0.99, 0.01, 1.3, 1.7, 1e-3)]),
}  # fmt: skip
CALLS = [
    (rule, absent, (*signs, *numbers))
    for rule, (_, missing, several) in RULES.items()
    for absent, numbers, signs in itertools.product(missing, several, SIGNS)
]


def test_every_rule_is_compared():
    assert set(RULES) == {name for name, kernel in TABLE.items() if kernel.module == "optimizer"}


def formula_of(rule):
    """A rule's plain formula: ``(xp, arrays, …, numbers, …)``."""
    return array_form(SOURCES[rule])


def slices(rule, char, size=5001):
    """Parameters, gradients and state: numbers of which no square root is taken near 0."""
    rng = np.random.default_rng(0)
    arrays = [rng.standard_normal(size) for _ in range(2)]
    arrays += [0.3 * rng.uniform(-1, 1, size) if i % 2 else 0.5 + rng.uniform(0, 1, size) for i in range(3)]
    if rule in ("adam", "nadam", "radam", "adamax", "rprop", "lamb"):
        arrays[2:4] = arrays[3:1:-1]  # the mean comes first
    if rule == "adadelta":
        arrays[3] = np.abs(arrays[3])
    if rule == "lamb":  # which writes its step in front of the parameters
        arrays.insert(0, np.zeros(size))
    return [rounded(x, char) for x in arrays[: RULES[rule][0]]]


@pytest.mark.parametrize(("rule", "absent", "numbers"), CALLS, ids=str)
def test_an_update_changes_parameters_and_state_as_the_rule_does(rule, absent, numbers, cp, char):
    host = [None if i in absent else x for i, x in enumerate(slices(rule, char))]
    gpu = [None if x is None else on_gpu(x, cp, char) for x in host]
    formula_of(rule)(xp, *host, numbers)
    assert body(rule)(*gpu, numbers) is gpu[0]
    for a, b in zip(gpu, host, strict=True):
        if b is not None:
            compare(a, b, char, cp)


@pytest.mark.parametrize("rule", [rule for rule in RULES if rule != "lamb"])
def test_a_gradient_that_is_not_a_number_shows_in_the_parameters(rule, cp, char):
    arrays = [on_gpu(x, cp, char) for x in slices(rule, char, 40)]
    arrays[1][7] = np.nan
    body(rule)(*arrays, (1.0, 0.0, *RULES[rule][2][0]))
    np.testing.assert_array_equal(np.isnan(cp.asnumpy(arrays[0]).astype("d")), np.arange(40) == 7)


def test_a_rate_that_the_device_has_found_stays_there(cp, char):
    host = slices("lars", char)
    gpu = [on_gpu(x, cp, char) for x in host]
    rate = np.asarray(0.25)
    formula_of("lars")(xp, *host, (1.0, 0.1, 0.9, rate))
    body("lars")(*gpu, (1.0, 0.1, 0.9, cp.asarray(rate.astype(DTYPES[char]))))
    for a, b in zip(gpu, host, strict=True):
        compare(a, b, char, cp)


def test_a_state_that_does_not_lie_in_one_piece_is_left_to_the_formula(cp):
    p, g, wide = cp.ones(5, "f"), cp.ones(5, "f"), cp.ones(10, "f")
    numbers = (1.0, 0.0, 1e-3, 0.03)
    assert body("adagrad")(p, g, wide[::2], numbers) is None
    assert body("adagrad")(p, g, wide, numbers) is None
    assert body("adagrad")(p, g.astype("d"), wide[:5], numbers) is None
    assert float(abs(p - 1).max()) == 0


def test_an_update_of_slices_leaves_the_rest_alone(cp, char):
    host = slices("sgd", char, 100)
    gpu = [on_gpu(x, cp, char) for x in host]
    body("sgd")(gpu[0][7:50], gpu[1][7:50], None, (1.0, 0.0, 0.5, 0.0, 1.0, 0.0))
    host[0][7:50] -= 0.5 * host[1][7:50]
    compare(gpu[0], host[0], char, cp)


def test_the_norm_of_slices_and_clipping_by_it(cp, char):
    rng = np.random.default_rng(0)
    host = [rounded(rng.standard_normal(n), char) for n in (1, 0, 100003, 4096)]
    gpu = tuple(on_gpu(x, cp, char) for x in host)
    square = body("sum_squares")(gpu)
    norm = math.sqrt(sum(float(x @ x) for x in host))
    assert math.sqrt(float(square)) == pytest.approx(norm, rel=1e-12)
    for found, most, scale in (
        (cp.sqrt(square), 2 * norm, 1.0),
        (cp.sqrt(square), 0.3 * norm, 0.3 * norm / (norm + 1e-6)),
        (cp.asarray(0.5, np.float32), 0.25, 0.3 * norm / (norm + 1e-6) * 0.25 / (0.5 + 1e-6)),
    ):
        assert body("clip_by_norm")(gpu, found, most) is gpu
        for fast, slow in zip(gpu, host, strict=True):
            compare(fast, scale * slow, char, cp)
    body("clip_by_norm")(gpu, cp.asarray(math.nan), 1.0)
    assert np.isnan(cp.asnumpy(gpu[-1]).astype("d")).all()


def test_a_large_gradient_has_a_finite_norm(cp):
    gpu = cp.asarray(np.full(5, 1e30, np.float32))
    assert math.sqrt(float(body("sum_squares")((gpu,)))) == pytest.approx(1e30 * math.sqrt(5), rel=1e-6)


def test_numbers_that_are_not_finite_are_counted_as_the_scale_is_taken_out(cp, char):
    x = np.arange(100003) % 64.0
    gpu = on_gpu(x, cp, char)
    assert float(body("unscale")((gpu,), 0.25)) == 0
    compare(gpu, 0.25 * x, char, cp)
    x[[0, 5000, 100002]] = np.nan, np.inf, -np.inf
    gpu = on_gpu(x, cp, char), on_gpu(x[:1], cp, char)
    assert float(body("unscale")(gpu, 0.25)) == 4
    compare(gpu[0], 0.25 * x, char, cp)


def test_sums_over_slices_that_kernels_do_not_take_are_the_formulas(cp):
    strided, whole = cp.ones(8, "f")[::2], cp.ones(4, "f")
    norm = cp.asarray(4.0)
    for arrays in ((whole, strided), (whole, np.ones(4, "f")), (whole, cp.ones(4, "i4"))):
        assert body("sum_squares")(arrays) is None
        assert body("unscale")(arrays, 0.5) is None
        assert body("clip_by_norm")(arrays, norm, 1.0) is None
    assert body("clip_by_norm")((whole,), 4.0, 1.0) is None
    np.testing.assert_array_equal(cp.asnumpy(whole), 1)


# -- random numbers

STATES = [(0, 0, 0), (123, 7, 5), ((1 << 64) - 1, 1 << 63, (1 << 64) - 2), (5, 1, (1 << 70) + 3)]


@pytest.mark.parametrize("state", STATES, ids=str)
def test_random_words_and_uniform_numbers_are_the_hosts(state, cp, char):
    for count in (1, 3, 4, 9, 5001):
        fast = body("random_bits")(cp.empty(count, np.uint64), state)
        np.testing.assert_array_equal(cp.asnumpy(fast), Generator.at(state).bits(count))
        fast = cp.asnumpy(body("random_uniform")(cp.empty(count, DTYPES[char]), state)).astype("d")
        plain = Generator.at(state).uniform((count,), DTYPES[char])
        np.testing.assert_array_equal(fast, plain.astype("d"))
        assert fast.max() < 1


def test_normal_numbers_are_the_hosts_up_to_rounding(cp, char):
    for count in (1, 2, 7, 5001):
        fast = body("random_normal")(cp.empty(count, DTYPES[char]), (3, 1, 0))
        plain = Generator(3, 1).normal((count,), DTYPES[char]).astype("d")
        agree(cp.asnumpy(fast).astype("d"), plain, char)


def test_a_generator_draws_on_the_device_what_it_draws_on_the_host(cp):
    device, ours, plain = dg.device("cuda"), Generator(5, 2), Generator(5, 2)
    for _ in range(2):  # the second time from where the first has left it
        for draw in (
            lambda source, **at: source.bits(7, **at),
            lambda source, **at: source.uniform((3, 5), **at),
            lambda source, **at: source.uniform((3,), np.float64, **at),
            lambda source, **at: source.integers(-3, 9, (2, 7), np.int32, **at),
            lambda source, **at: source.integers(0, 1 << 64, (3,), **at),
        ):
            fast, slow = draw(ours, device=device), draw(plain)
            assert isinstance(fast, cp.ndarray)
            assert fast.dtype == slow.dtype
            np.testing.assert_array_equal(cp.asnumpy(fast), slow)
        fast = cp.asnumpy(ours.normal((3, 5), device=device))
        np.testing.assert_allclose(fast, plain.normal((3, 5)), rtol=1e-5, atol=1e-6)
        assert ours.get_state() == plain.get_state()


@pytest.mark.parametrize("p", [0.0, 0.1, 0.5, 1.0])
def test_dropout_is_the_hosts_to_the_bit(p, cp, char):
    dtype, record = np.dtype(DTYPES[char]), REGISTRY["random_mask"]
    for n, state in zip((1, 9, 5001, 70000), STATES, strict=True):
        x = np.random.default_rng(0).standard_normal(n).astype(dtype)
        plain = record.formula(xp, x, state=state, p=p)
        fast = body("random_mask")(cp.asarray(x), state=state, p=p)
        again = body("random_mask/x")(cp.asarray(x), state, p)
        for y in (fast, again):
            np.testing.assert_array_equal(cp.asnumpy(y).astype("d"), plain.astype("d"))


# -- what is common to all


def test_an_array_that_is_not_contiguous_gives_the_same(cp):
    rng = np.random.default_rng(0)
    for name, shapes, attributes in SHAPES:
        if name not in TABLE or not TABLE[name].cuda or len(shapes[0]) < 2 or np.prod(shapes[0]) > 1e4:
            continue
        inputs = [rng.standard_normal(shape) for shape in shapes]
        absent = [None] * (len(REGISTRY[name].inputs) - len(inputs))
        own = [x.astype("f") if name in DRAWN else rounded(x, "f") for x in inputs]
        with np.errstate(all="ignore"):
            plain = REGISTRY[name].formula(xp, *own, *absent, **attributes)
        strided = [cp.asarray(x.astype("f"), order="F") for x in inputs]
        fast = body(name)(*strided, *absent, **attributes)
        compare(fast, plain, "f", cp)


@pytest.mark.parametrize("length", [1, 8, 31, 2100])
@pytest.mark.parametrize("first", [0, 1], ids=["aligned", "anywhere"])
def test_functions_of_an_element_over_parts_that_begin_anywhere(first, length, cp, char):
    rng = np.random.default_rng(length)
    g, x = (rounded(rng.standard_normal(length + first), char) for _ in range(2))
    up, values = (on_gpu(each, cp, char)[first:] for each in (g, x))
    sigmoid = 1 / (1 + np.exp(-x))
    compare(body("silu")(values), (x * sigmoid)[first:], char, cp)
    compare(body("sigmoid/x")(up, values), (g * x * (1 - x))[first:], char, cp)


def test_nan_and_infinity_stay_what_they_are(cp, char):
    x = np.zeros((40, 40))
    x[0, 0], x[1, 1], x[2, 2] = np.nan, np.inf, -np.inf
    for name, attributes in (("softmax", {"axis": -1}), ("log_softmax", {"axis": -1}), ("silu", {}),
                             ("gelu", {"approximate": "none"}), ("gelu", {"approximate": "tanh"}),
                             ("layer_norm", {"normalized_shape": (40,), "eps": 1e-5}), ("relu", {}),
                             ("tanh", {}), ("sigmoid", {}),
                             ("rms_norm", {"normalized_shape": (40,), "eps": 1e-5})):  # fmt: skip
        record = REGISTRY[name]
        assert run_both(record, [x], defaults(record, attributes), cp, char) == len(takes(name, char))
    assert run_both(REGISTRY["max_pool"], [x[None, None]], POOL, cp, char) == 1
    g = np.ones((1, 1, 20, 20))
    plain = REGISTRY["max_pool_scatter"].formula(xp, g, x[None, None], geometry=Geometry(*POOL.values()))
    check("max_pool_scatter", (g, x[None, None]), plain, cp, char, {"geometry": Geometry(*POOL.values())})


def test_other_dtypes_and_sides_take_the_formula(cp):
    x = cp.ones((3, 4), np.float32)
    assert body("gelu/x")(x, x.astype(np.float64), "none") is None
    assert body("softmax/x")(x, np.ones((3, 4), np.float32), -1, (None,)) is None
    assert body("softmax")(x, axis=0) is None
    assert body("layer_norm")(x, cp.ones(4, np.float16), None, normalized_shape=(4,), eps=0.1) is None


@pytest.mark.parametrize("char", ["e", "E"])
def test_rounding_to_a_half_type_is_to_nearest_even(cp, char):
    from distgrad.backend.kernels.cuda.source import source

    x = np.random.default_rng(0).standard_normal(3000) * 10.0 ** np.arange(-9, 6).repeat(200)
    edges = [0.0, -0.0, np.inf, -np.inf, np.nan, 65519.9, 65520.0, 1e-8, 3.4e38, 1.00390625, 1.01171875]
    x = np.concatenate([x, edges]).astype("f")
    text = (
        source("linear", char)
        + "KERNEL narrow(i64 n, const float* x, T* y) { FOR_EACH(i, n) store(y + i, x[i]); }"
    )
    out = cp.empty(x.size, DTYPES[char])
    cp.RawKernel(text, "narrow")((4,), (256,), (x.size, cp.asarray(x), out))
    with np.errstate(over="ignore"):
        np.testing.assert_array_equal(cp.asnumpy(out).astype("d"), x.astype(DTYPES[char]).astype("d"))


def test_every_kernel_of_the_table_has_a_body_for_these_dtypes(cp):
    assert set(DTYPES) == set(TYPES) == set(TOLERANCE)
    for name, kernel in TABLE.items():
        assert callable(body(name)), name
        others = {
            "random_bits": "L",
            "embedding_sum": "li",
            "linear/weight": "feE",  # of cuBLASLt's epilogues
            "attention_with_statistics": "eE",  # of cuDNN's
            "attention_with_statistics/query": "eE",
        }
        assert set(kernel.cuda) == set(others.get(name, TYPES)), name
