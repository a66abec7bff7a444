"""What libraries import in passing: types without instances, and small functions of inner modules."""

import importlib
import os
import subprocess
import sys

import numpy as np
import pytest

from distgrad.autograd.casting import set_weak_scalars
from distgrad.errors import GraphError, OptionError
from distgrad.names.deferred import DEFERRED, DTYPES


@pytest.fixture(autouse=True, scope="module")
def torch():
    """The package, while scalars are weak; they are not in other tests."""
    module = importlib.import_module("distgrad.torch")
    set_weak_scalars(True)
    yield module
    set_weak_scalars(False)


def room(name):
    return importlib.import_module(f"distgrad.torch.{name}".rstrip("."))


@pytest.mark.parametrize("name", DEFERRED)
def test_a_type_without_instances_has_a_name_and_its_use_is_the_error(torch, name):
    for attribute in DEFERRED[name].split():
        kind = getattr(room(name), attribute)
        assert not isinstance(torch.ones(2), kind)
        assert issubclass(type("Own", (kind,), {}), kind)
        for made in (kind, type("Own", (kind,), {})):
            with pytest.raises(OptionError, match=f"distgrad has no torch.*{attribute}"):
                made(1, x=2)


def test_dtypes_that_no_tensor_has_are_keys_and_nothing_else(torch):
    for name in DTYPES.split():
        dtype = getattr(torch, name)
        assert {dtype: 1}[dtype] == 1
        assert torch.ones(2).dtype != dtype
        for ask in (torch.ones(2).to, lambda asked: torch.zeros(2, dtype=asked)):
            with pytest.raises(OptionError, match=f"no torch.{name}"):
                ask(dtype)


def test_names_of_kernels_are_keys_and_calling_one_is_an_error(torch):
    internal = importlib.import_module("distgrad.torch._ops").ops
    assert internal.aten.add is torch.ops.aten.add
    with pytest.raises(OptionError, match=r"torch\.ops\.quantized\.linear"):
        internal.quantized.linear(1)
    table = {torch.ops.aten.add.Tensor: 1}
    assert table[torch.ops.aten.add.Tensor] == 1
    with pytest.raises(OptionError, match=r"torch\.ops\.aten\.add\.Tensor"):
        torch.ops.aten.add.Tensor(torch.ones(1), torch.ones(1))
    with pytest.raises(AttributeError):
        _ = torch.ops.torchvision


def test_dtypes_and_layouts_tell_what_they_are(torch):
    kinds = {
        torch.float32: (True, False, True),
        torch.bfloat16: (True, False, True),
        torch.complex64: (False, True, True),
        torch.int8: (False, False, True),
        torch.uint8: (False, False, False),
        torch.bool: (False, False, False),
    }
    for dtype, told in kinds.items():
        assert (dtype.is_floating_point, dtype.is_complex, dtype.is_signed) == told
    assert torch.ones(2).dtype.is_floating_point
    assert torch.ones(2).layout == torch.strided
    sparse = torch.sparse_coo_tensor(torch.tensor([[0], [1]]), torch.ones(1), (2, 2))
    assert sparse.layout == torch.sparse_coo


def test_repeated_single_elements_can_be_written(torch):
    for repeated in (torch.eye(3).repeat(2, 1, 1), torch.ones(1, 3).repeat(4, 1), torch.eye(2).repeat(1, 1)):
        repeated[0] = 7.0
        assert float((repeated == 7.0).sum()) == repeated[0].numel()


def test_arguments_of_to_are_parsed(torch):
    parse = torch._C._nn._parse_to
    assert parse(torch.float64) == (None, torch.float64, False, None)
    assert parse("cpu", torch.float16, True) == (torch.device("cpu"), torch.float16, True, None)
    assert parse(torch.ones(1), non_blocking=True) == (torch.device("cpu"), torch.float32, True, None)
    assert parse(dtype=torch.int8) == (None, torch.int8, False, None)


def test_gradients_that_are_known_once_are_not_differentiated_twice(torch):
    once = room("autograd.function").once_differentiable

    class Cube(torch.autograd.Function):
        @staticmethod
        def forward(ctx, x):
            ctx.save_for_backward(x)
            return x**3

        @staticmethod
        @once
        def backward(ctx, g):
            (x,) = ctx.saved_tensors
            return torch.from_numpy(3 * x.detach().numpy() ** 2 * g.detach().numpy())

    x = torch.tensor([2.0], requires_grad=True)
    Cube.apply(x).backward()
    assert x.grad.tolist() == [12.0]
    (gradient,) = torch.autograd.grad(Cube.apply(x), x, create_graph=True)
    with pytest.raises(GraphError, match="once_differentiable"):
        gradient.backward()


def test_maps_onto_sets_of_numbers(torch):
    chances = torch.distributions
    constraints, x = chances.constraints, torch.tensor([-2.0, 0.5, 3.0])
    sets = [
        *(constraints.real, constraints.positive, constraints.nonnegative, constraints.unit_interval),
        *(constraints.less_than(2.0), constraints.interval(-1.0, 4.0), constraints.simplex),
        constraints.independent(constraints.positive, 1),
    ]
    for registry in (chances.transform_to, chances.biject_to):
        for each in sets:
            assert bool(each.check(registry(each)(x)).all()), each
        with pytest.raises(NotImplementedError, match="OneHot"):
            registry(constraints.one_hot)
    for each in sets:
        onto = chances.biject_to(each)
        np.testing.assert_allclose(onto.inv(onto(x)).numpy(), x.numpy(), atol=1e-5)

    class Even(constraints.Constraint):
        pass

    chances.transform_to.register(Even, lambda _: chances.transforms.ExpTransform())
    assert isinstance(chances.transform_to(Even()), chances.transforms.ExpTransform)


def test_named_tuples_are_taken_apart_as_one_kind_of_nodes(torch):
    tree = room("utils._pytree")
    pair = importlib.import_module("collections").namedtuple("pair", "a b")
    leaves, spec = tree.tree_flatten({"x": pair(1, [2, 3])})
    assert leaves == [1, 2, 3]
    assert tree.tree_unflatten([4, 5, 6], spec) == {"x": pair(4, [5, 6])}
    kind = tree._get_node_type(pair(1, 2))
    assert tree.SUPPORTED_NODES[kind].flatten_fn(pair(1, 2))[0] == [1, 2]
    assert tree.LeafSpec().num_leaves == 1


def test_small_functions_of_inner_modules(torch):
    inner = room("_utils")
    parts = [torch.ones(2, 2), torch.zeros(3)]
    flat = inner._flatten_dense_tensors(parts)
    assert flat.tolist() == [1, 1, 1, 1, 0, 0, 0]
    assert [each.shape for each in inner._unflatten_dense_tensors(flat, parts)] == [(2, 2), (3,)]
    back = torch.from_dlpack(room("utils.dlpack").to_dlpack(torch.arange(3)))
    assert back.tolist() == [0, 1, 2]
    assert "distgrad" in torch.__config__.show()
    counter = room("utils.flop_counter").FlopCounterMode(display=False)
    assert counter.get_total_flops() == 0
    with pytest.raises(OptionError, match="counts no operations"), counter:
        pass
    loader = torch.utils.data.DataLoader(
        [1, 2], multiprocessing_context=None, pin_memory_device="", in_order=True
    )
    assert loader.prefetch_factor is None
    seeded = torch.utils.data.DataLoader(
        [1, 2], worker_init_fn=print, generator=torch.Generator().manual_seed(0)
    )  # as recipes for repeatable runs have it, whatever the number of workers
    assert [int(each) for each in seeded] == [1, 2]
    with pytest.raises(TypeError, match="multiprocessing_context"):
        torch.utils.data.DataLoader([1, 2], multiprocessing_context="fork")


def test_images_of_files_are_tensors(torch, tmp_path):
    pytest.importorskip("PIL", reason="images are Pillow's")
    io = room("vision.io")
    image = torch.from_numpy(np.arange(60, dtype=np.uint8).reshape(3, 4, 5))
    io.write_png(image, tmp_path / "a.png")
    assert torch.equal(io.read_image(tmp_path / "a.png"), image)
    assert io.read_image(tmp_path / "a.png", "GRAY").shape == (1, 4, 5)
    coded = torch.from_numpy(np.frombuffer((tmp_path / "a.png").read_bytes(), np.uint8).copy())
    assert torch.equal(io.decode_image(coded, io.ImageReadMode.RGB), image)
    io.write_jpeg(image[:1], tmp_path / "a.jpg", quality=90)
    assert io.read_image(tmp_path / "a.jpg").shape == (1, 4, 5)
    with pytest.raises(OptionError, match="write_png: expected an image"):
        io.write_png(image.float(), tmp_path / "b.png")


def test_the_memory_behind_tensors(torch, tmp_path):
    x = torch.arange(6.0)
    whole, part = x.untyped_storage(), x[2:4].untyped_storage()
    assert (whole == part, whole.data_ptr(), len(whole)) == (True, x.data_ptr(), 24)
    assert whole != x.clone().untyped_storage()
    assert (whole.nbytes(), whole.size(), whole.device) == (24, 24, torch.device("cpu"))
    (tmp_path / "x").write_bytes(x.numpy().tobytes())
    kept = torch.UntypedStorage.from_file(tmp_path / "x", shared=False, nbytes=24).untyped()
    found = torch.asarray(kept[8:16], dtype=torch.uint8).view(torch.float32)
    assert found.tolist() == [2.0, 3.0]
    model = torch.nn.Linear(3, 2)
    torch.optim.SGD(model.parameters(), lr=0.1)  # whose parameters lie side by side
    model(torch.ones(1, 3)).sum().backward()
    for each in (*model.parameters(), *model.state_dict().values()):
        assert (each.untyped_storage().data_ptr(), each.untyped_storage().nbytes()) == (
            each.data_ptr(),
            each.nbytes,
        )
        assert each.storage_offset() == 0
    assert not x.is_inference()
    assert x.view(dtype=torch.int32).shape == (6,)


PROGRAM = """
import torch
from safetensors.torch import load_file, save_file
state = {"a": torch.arange(6.0).reshape(2, 3), "b": torch.ones(3, dtype=torch.bfloat16)}
save_file(state, "x.safetensors")
found = load_file("x.safetensors")
print(found["a"].tolist(), found["b"].dtype, torch.equal(found["a"], state["a"]))
"""


def test_safetensors_reads_and_writes_tensors(tmp_path):
    """The package itself, which asks for their memory."""
    pytest.importorskip("safetensors.torch", reason="it is the package's own reader")
    (tmp_path / "program.py").write_text(PROGRAM)
    command = [sys.executable, "-m", "distgrad.torch", "program.py"]
    environment = {**os.environ, "PYTHONPATH": os.getcwd()}
    run = subprocess.run(
        command, cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=60, check=False
    )
    assert run.stdout == "[[0.0, 1.0, 2.0], [3.0, 4.0, 5.0]] bfloat16 True\n", run.stderr
