"""Kernels write gradients of parameters straight into the flat buffer's memory, whatever lay there."""

import numpy as np
import pytest
from kernel_cases import SHAPES, agree, kernel_of, vjp_arguments

import distgrad as dg
from distgrad.autograd.primitive import REGISTRY
from distgrad.backend.numpy import numpy_module as xp

#: By kernel: which of the gradients that it returns it writes home.
HOMES = {
    **dict.fromkeys(("layer_norm/x", "group_norm/x", "instance_norm/x"), (1, 2)),
    "batch_norm_with_statistics/x": (1, 2),
    "rms_norm/x": (1,),
    "lstm_steps/from_input": (1,),
    "convolution/weight": (0,),
    "convolution/bias": (0,),
}


@pytest.fixture
def restored_threads():
    before = dg.get_num_threads()
    yield
    dg.set_num_threads(before)


@pytest.mark.parametrize("name", HOMES)
def test_gradients_of_parameters_are_written_over_what_was_there(name):
    record = REGISTRY[name.split("/")[0]]
    vjp = record.vjps[name.split("/")[1]]
    cases = [case for case in SHAPES if case[0] == record.name and len(case[1]) >= len(vjp.inputs)]
    rng = np.random.default_rng(0)
    for _, shapes, attributes in cases:
        inputs = [rng.standard_normal(shape).astype("f") for shape in shapes]
        y = record.formula(xp, *inputs, **attributes)
        g = rng.standard_normal((y[0] if isinstance(y, tuple) else y).shape).astype("f")
        if isinstance(y, tuple):
            g = (g, *(np.zeros_like(each) for each in y[1:]))
        arguments = dict(zip(vjp.names, vjp_arguments(record, vjp, inputs, attributes, y), strict=True))
        plain = kernel_of(name)(g, *arguments.values())
        for dtype in "fd":
            homes = tuple(np.full(shapes[record.inputs.index(each)], np.nan, dtype) for each in vjp.inputs)
            found = kernel_of(name)(g, *(arguments | {"into": homes}).values())
            found, expected = (x if isinstance(x, tuple) else (x,) for x in (found, plain))
            for place, (a, b) in enumerate(zip(found, expected, strict=True)):
                np.testing.assert_array_equal(a, b)
                assert (a is homes[place]) == (dtype == "f" and place in HOMES[name])
    assert cases


@pytest.mark.parametrize("char", "fd")
def test_sums_of_a_table_s_rows(char):
    rng = np.random.default_rng(0)
    record = REGISTRY["embedding_sum"]
    forward, backward = kernel_of("embedding_sum"), kernel_of("embedding_sum/weight")
    before = dg.get_num_threads()
    for shape, rows, width in (((1,), 1, 1), ((7, 5), 3, 33), ((2, 300, 9), 5000, 17), ((3, 1), 1, 50001)):
        index = rng.integers(0, rows, shape).astype("i" if width == 33 else "l")
        table = rng.standard_normal((rows, width)).astype(char)
        plain = record.formula(xp, index, table)
        results = []
        for threads in (1, 2, 3):
            dg.set_num_threads(threads)
            results.append(forward(index, table))
        dg.set_num_threads(before)
        agree(results[0], plain, char)
        assert all(np.array_equal(each, results[0]) for each in results)
        g = rng.standard_normal(plain.shape).astype(char)
        home = np.full(table.shape, np.nan, char)
        for cotangent in (g, np.broadcast_to(g[..., :1], g.shape)):
            found = backward(cotangent, index, table.shape, (home,))
            assert found is home
            expected = record.vjps["weight"].function(xp, cotangent, index, table.shape, (None,))
            agree(found, expected, char)
    assert forward(np.array([5, 1]), np.ones((5, 2), char)) is None
    assert forward(np.array([-1, 1]), np.ones((5, 2), char)) is None
    assert forward(np.array([1, 1]), np.ones((5, 2), "e")) is None


def test_an_old_gradient_that_comes_in_is_not_written_over_while_it_is_read(restored_threads):
    rng = np.random.default_rng(0)
    index, g = np.arange(500)[::-1].copy(), rng.standard_normal((500, 500)).astype("f")
    dg.set_num_threads(2)
    for name, arguments in (
        ("embedding/weight", (index, g.shape, None)),
        ("embedding_sum/weight", (index[:, None], g.shape)),
    ):
        home = g.copy()
        np.testing.assert_array_equal(kernel_of(name)(home, *arguments, (home,)), g[::-1])
    x = rng.standard_normal((1, 500, 1, 500)).astype("f")
    options = ((500, 500, 1, 1), (1, 1), (0, 0), (1, 1), 1)
    for _ in range(10):
        home = g.reshape(1, 500, 1, 500).copy()
        found = kernel_of("convolution/weight")(home, x, *options, (home.reshape(options[0]),))
        np.testing.assert_allclose(found[..., 0, 0], g @ x[0, :, 0].T, rtol=1e-3, atol=1e-3)
