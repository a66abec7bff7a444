"""Names that libraries and older programs use: lists of tensors, copies of modules, types, switches."""

import importlib
import io

import numpy as np
import pytest

import distgrad.torch as torch
from distgrad.errors import DeviceError, OptionError
from distgrad.torch import nn

NAMES = (
    "_C._jit_set_profiling_mode", "_assert", "_dynamo.config.cache_size_limit", "_dynamo.OptimizedModule",
    "_inductor.config.triton", "_functorch.config.verbose", "backends.opt_einsum.enabled",
    "cuda.amp.grad_scaler.GradScaler", "cuda.memory.memory_allocated", "cuda.random.manual_seed",
    "get_device_module", "jit.annotations.List", "jit.ScriptFunction", "linalg.LinAlgError",
    "nn.modules.batchnorm.SyncBatchNorm", "nn.modules.lazy.LazyModuleMixin",
    "nn.modules.module._IncompatibleKeys", "nn.modules.transformer._get_activation_fn",
    "nn.parallel.parallel_apply", "optim.optimizer._use_grad_for_differentiable",
    "testing.assert_allclose", "torch.nn.Linear",
)  # fmt: skip


@pytest.mark.parametrize("name", NAMES)
def test_a_name_is_there(name):
    found = torch
    for part in name.split("."):
        found = getattr(found, part)
    assert found is not None


def test_whoever_looks_through_modules_loads_nothing():
    room = importlib.import_module("distgrad.torch.special")
    for name in ("__file__", "__wrapped__"):
        assert not hasattr(room, name)


def test_compilers_settings_may_be_written():
    for room in ("_dynamo", "_inductor", "_functorch"):
        config = importlib.import_module(f"distgrad.torch.{room}.config")
        config.suppress_errors = True
        config.triton.unique_kernel_names = True
        assert config.suppress_errors


def test_methods_over_lists_are_those_of_each_tensor():
    x, y = [torch.tensor([1.0, 4.0]), torch.tensor([9.0])], [torch.tensor([2.0, 2.0]), torch.tensor([3.0])]
    assert [each.tolist() for each in torch._foreach_add(x, y, alpha=2)] == [[5.0, 8.0], [15.0]]
    assert [each.tolist() for each in torch._foreach_maximum(x, y)] == [[2.0, 4.0], [9.0]]
    assert [each.tolist() for each in torch._foreach_mul(x, [2.0, 3.0])] == [[2.0, 8.0], [27.0]]
    assert [each.tolist() for each in torch._foreach_pow(2.0, [torch.tensor([3.0])])] == [[8.0]]
    assert [float(each) for each in torch._foreach_norm([torch.ones(4)])] == [2.0]
    assert torch._foreach_addcmul_(x, y, y, value=2.0) is None
    assert [each.tolist() for each in x] == [[9.0, 12.0], [27.0]]
    torch._foreach_copy_(x, y)
    torch._foreach_lerp_(x, [torch.zeros(2), torch.zeros(1)], 0.5)
    assert [each.tolist() for each in x] == [[1.0, 1.0], [1.5]]
    with pytest.raises(AttributeError, match="_foreach_gobble"):
        _ = torch._foreach_gobble


def test_copies_of_a_module_share_its_parameters():
    torch.manual_seed(0)
    net, x = nn.Linear(3, 2), torch.rand(5, 3)
    parts = nn.parallel.scatter((x, {"scale": 2}), ["cpu", "cpu"])
    assert [part[0].shape[0] for part in parts] == [3, 2]
    replicas = nn.parallel.replicate(net, ["cpu", "cpu"])
    results = nn.parallel.parallel_apply(replicas, [part[0] for part in parts])
    nn.parallel.gather(results, "cpu").sum().backward()
    np.testing.assert_allclose(net.weight.grad.numpy(), np.tile(x.numpy().sum(0), (2, 1)), rtol=1e-5)
    with pytest.raises(OptionError, match="2 modules, but 1 inputs"):
        nn.parallel.parallel_apply(replicas, [x])


def test_checkpoints_take_pytorchs_options():
    entered = []

    class Noted:
        def __init__(self, name):
            self.name = name

        def __enter__(self):
            entered.append(self.name)

        def __exit__(self, *exc):
            pass

    x = torch.ones(2, requires_grad=True)
    run = torch.utils.checkpoint.checkpoint
    run(torch.exp, x, use_reentrant=True).sum().backward()
    y = run(torch.exp, x, use_reentrant=False, context_fn=lambda: (Noted("forward"), Noted("again")))
    y.sum().backward()
    np.testing.assert_allclose(x.grad.numpy(), 2 * np.e, rtol=1e-6)
    assert entered == ["forward", "again"]


def test_checkpointed_modules_keep_their_names():
    wrapping = importlib.import_module("distgrad.torch.distributed.algorithms._checkpoint.checkpoint_wrapper")
    torch.manual_seed(0)
    net, x = nn.Sequential(nn.Linear(3, 3), nn.Tanh(), nn.Linear(3, 1)).eval(), torch.rand(4, 3)
    before, keys = net(x), list(net.state_dict())
    wrapping.apply_activation_checkpointing(net, check_fn=lambda m: isinstance(m, nn.Linear))
    assert isinstance(net[0], wrapping.CheckpointWrapper)
    assert (list(net.state_dict()), net[0].training, net[0].in_features) == (keys, False, 3)
    assert not net.train()[0].eval().training
    after = net(x)
    assert torch.equal(before, after)
    after.sum().backward()
    assert net[0].weight.grad.shape == (3, 3)


def test_types_of_tensors_on_a_gpu():
    x = torch.ones(2)
    assert isinstance(x, torch.FloatTensor)
    assert not isinstance(x, torch.cuda.FloatTensor)
    assert torch.typename(x) == "torch.FloatTensor"
    if not torch.cuda.is_available():
        with pytest.raises(DeviceError):
            torch.cuda.LongTensor(2)
        with pytest.raises(DeviceError):
            x.type(torch.cuda.FloatTensor)


def test_errors_are_of_the_kinds_that_programs_catch():
    net = nn.Linear(2, 2)
    for wrong in (
        lambda: torch.linalg.inv(torch.zeros(2, 2)),
        lambda: torch.ones(2) + torch.ones(3),
        lambda: net.load_state_dict({"weights": torch.ones(2, 2)}),
    ):
        with pytest.raises(RuntimeError):
            wrong()
    with pytest.raises(torch.linalg.LinAlgError, match="Singular"):
        torch.linalg.inv(torch.zeros(2, 2))


def test_functions_of_few_programs():
    rows, columns = torch.unravel_index(torch.tensor([5, 3]), (2, 3))
    assert (rows.tolist(), columns.tolist()) == ([1, 1], [2, 0])
    torch.manual_seed(0)
    counts = torch.poisson(torch.full((2000,), 4.0))
    assert abs(float(counts.mean()) - 4.0) < 0.2
    wins = torch.binomial(torch.full((2000,), 10.0), torch.full((2000,), 0.3))
    assert abs(float(wins.mean()) - 3.0) < 0.2
    for call in (
        lambda: torch.poisson(torch.tensor([-1.0])),
        lambda: torch.unravel_index(torch.tensor([0]), (0, 2)),
        lambda: torch.poisson(torch.ones(1), torch.Generator()),
    ):
        with pytest.raises(OptionError):
            call()
    assert torch.while_loop(lambda i: i < 3, lambda i: (i + 1,), (torch.tensor(0),))[0].item() == 3
    gradient, value = torch.func.grad_and_value(lambda x: (x**2).sum())(torch.tensor([3.0]))
    assert (gradient.tolist(), float(value)) == ([6.0], 9.0)
    torch.testing.assert_allclose(torch.ones(2), torch.ones(2, dtype=torch.float64))
    with pytest.raises(AssertionError):
        torch.testing.assert_allclose(torch.ones(2), torch.zeros(2))


def test_layers_have_pytorchs_attributes():
    assert not nn.Conv2d(1, 1, 3).transposed
    assert nn.Conv2d(1, 1, 3).output_padding == (0, 0)
    assert nn.ConvTranspose1d(1, 1, 3).transposed
    assert nn.ConvTranspose1d(1, 1, 3, output_padding=0).padding_mode == "zeros"
    assert not nn.Embedding(2, 2).sparse
    assert nn.ZeroPad2d(1).value == 0.0


class Net(nn.Module):
    """A module of a program's own."""

    def __init__(self):
        super().__init__()
        self.layers = nn.Sequential(nn.Linear(2, 2), nn.BatchNorm1d(2))
        self.note = {"kept": np.arange(3)}

    def forward(self, x):
        return self.layers(x)


def test_whole_modules_are_saved_and_read_where_the_file_is_trusted():
    net, x = Net().eval(), torch.rand(4, 2)
    file = io.BytesIO()
    torch.save({"net": net, "step": np.float64(3.0), "seen": np.arange(4)}, file)
    with pytest.raises(ValueError, match="weights_only=False"):
        torch.load(file_again(file))
    found = torch.load(file_again(file), weights_only=False, map_location="cpu")
    assert torch.equal(found["net"](x), net(x))
    assert isinstance(found["net"].layers[0].weight, nn.Parameter)
    assert (found["net"].note["kept"].tolist(), found["step"]) == ([0, 1, 2], 3.0)
    file = io.BytesIO()
    torch.save({"seen": np.arange(4)}, file)
    assert torch.load(file_again(file))["seen"].tolist() == [0, 1, 2, 3]
    file = io.BytesIO()
    torch.save(OptionError("said"), file)
    with torch.serialization.safe_globals([OptionError]):
        assert str(torch.load(file_again(file))) == "said"
    assert torch.serialization.get_safe_globals() == []
    with pytest.raises(ValueError, match="OptionError"):
        torch.load(file_again(file))


def file_again(file):
    file.seek(0)
    return file


@pytest.mark.parametrize("transpose", [False, True])
def test_a_batch_norm_becomes_part_of_the_layer_before_it(transpose):
    torch.manual_seed(0)
    kind = nn.ConvTranspose1d if transpose else nn.Conv1d
    net, x = nn.Sequential(kind(2, 3, 2), nn.BatchNorm1d(3)), torch.rand(4, 2, 5)
    net(x)
    with pytest.raises(OptionError, match="eval"):
        nn.utils.fuse_conv_bn_eval(*net)
    net.eval()
    fused = nn.utils.fuse_conv_bn_eval(*net, transpose)
    np.testing.assert_allclose(fused(x).detach().numpy(), net(x).detach().numpy(), atol=1e-5)


@pytest.mark.parametrize(
    "name",
    ["celu", "elu", "hardsigmoid", "hardswish", "hardtanh", "leaky_relu", "mish", "relu6", "selu", "silu"],
)
def test_activations_in_place_have_the_gradient_of_those_that_are_not(name):
    function, gradients = getattr(nn.functional, name), []
    for inplace in (False, True):
        x = torch.tensor([-4.0, -0.5, 0.5, 2.0, 7.0], requires_grad=True)
        y = x * 1.0
        z = function(y, inplace=inplace)
        assert (z is y) == inplace
        (z * z).sum().backward()
        gradients.append(x.grad.tolist())
    assert gradients[0] == gradients[1]
