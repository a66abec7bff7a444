"""Names of ``torch.distributed.fsdp``: policies, and errors for what the engine does not do."""

import numpy as np
import pytest

import distgrad as dg
import distgrad.torch as torch
from distgrad.errors import OptionError
from distgrad.torch import nn
from distgrad.torch.distributed import fsdp
from distgrad.torch.distributed.wrapping import chosen_by


def net():
    block = nn.Sequential(nn.Linear(4, 4), nn.ReLU())
    return nn.Sequential(nn.Linear(2, 4), block, nn.ModuleList([nn.Linear(4, 4), nn.Linear(4, 1)]))


def test_policies_choose_blocks():
    model = net()
    wrap = fsdp.wrap
    linear = wrap.ModuleWrapPolicy([nn.Linear])
    assert chosen_by(linear, model) == [model[0], model[1][0], *model[2]]
    assert chosen_by(wrap.CustomPolicy(lambda each: each is model[1]), model) == [model[1]]
    assert chosen_by(wrap.always_wrap_policy, model)[-1] is model[2]

    def large(module, recurse, nonwrapped_numel):
        return wrap.size_based_auto_wrap_policy(module, recurse, nonwrapped_numel, min_num_params=20)

    assert chosen_by(large, model) == [model[1][0], model[2][0]]  # a list of modules is none
    assert wrap.wrap(model) is model
    with wrap.enable_wrap(wrapper_cls=fsdp.FullyShardedDataParallel, use_orig_params=True):
        wrapped = wrap.wrap(model)
    assert isinstance(wrapped, fsdp.FullyShardedDataParallel)
    assert wrapped.module is model
    assert [name for name, _ in wrapped.named_parameters()] == [name for name, _ in model.named_parameters()]
    assert list(wrapped.state_dict()) == list(model.state_dict())


HALF = {"mixed_precision": fsdp.MixedPrecision(torch.bfloat16, torch.float32, torch.bfloat16)}


@pytest.mark.parametrize(
    ("options", "word"),
    [
        ({"mixed_precision": fsdp.MixedPrecision(param_dtype=torch.float64)}, "float16 or bfloat16"),
        ({"mixed_precision": fsdp.MixedPrecision(reduce_dtype=torch.float64)}, "reduce_dtype must be"),
        ({"mixed_precision": fsdp.MixedPrecision(keep_low_precision_grads=True)}, "keep_low_precision"),
        ({**HALF, "sharding_strategy": fsdp.ShardingStrategy.NO_SHARD}, "SHARD_GRAD_OP"),
        ({"device_mesh": "mesh"}, "must be a DeviceMesh"),
        ({"sharding_strategy": "HYBRID_SHARD"}, "FULL_SHARD"),
        ({"sharding_strategy": fsdp.ShardingStrategy.HYBRID_SHARD, "process_group": 1}, "a pair of groups"),
        ({"ignored_modules": []}, "ignored_modules"),
        ({"param_init_fn": print}, "param_init_fn"),
    ],
)
def test_what_is_not_to_be_had_is_an_error(options, word):
    with pytest.raises(OptionError, match=word):
        fsdp.FullyShardedDataParallel(net(), **options)


def test_state_dicts_of_another_kind_and_parameters_of_no_wrapper_are_errors():
    model = fsdp.FullyShardedDataParallel(net())
    with (
        pytest.raises(OptionError, match="FULL_STATE_DICT"),
        model.state_dict_type(model, fsdp.StateDictType.SHARDED_STATE_DICT),
    ):
        pass
    with pytest.raises(OptionError, match="fully_shard: the mesh must be"):
        fsdp.fully_shard(net(), mesh="mesh")
    zero = torch.distributed.optim.ZeroRedundancyOptimizer
    with pytest.raises(OptionError, match="of no DistributedDataParallel"):
        zero(net().parameters(), torch.optim.SGD, lr=0.1)
    with pytest.raises(OptionError, match="optimizer_class"):
        zero(net().parameters(), "SGD")


def trained(comm, steps=3, **options):
    """A small model's wrapper and state after some steps on a batch of this rank's own."""
    width = options.pop("width", 4)
    model = nn.Sequential(nn.Linear(2, width), nn.Tanh(), nn.Linear(width, width), nn.Linear(width, 1))
    for place, each in enumerate(model.parameters()):
        with torch.no_grad():
            each.copy_(torch.linspace(-1, 1, each.numel()).reshape(each.shape) * (1 + 0.1 * place))
    optimizer_of = options.pop("optimizer", lambda each: torch.optim.AdamW(each.parameters(), lr=1e-2))
    before = optimizer_of(model) if options.pop("early", False) else None
    shard = options.pop("shard", lambda each: fsdp.FullyShardedDataParallel(each, **options))
    wrapped = shard(model)
    optimizer = before or optimizer_of(wrapped)
    for step in range(steps):
        x = torch.sin(torch.arange(8.0) * (1 + comm.rank + 0.3 * step)).reshape(4, 2)
        (wrapped(x) - x[:, :1].cos()).square().mean().backward()
        optimizer.step()
        optimizer.zero_grad()
    return wrapped, {name: value.numpy().copy() for name, value in wrapped.state_dict().items()}


@pytest.fixture
def comm():
    torch.distributed.init_process_group("gloo")
    yield dg.comm.get_world()
    torch.distributed.destroy_process_group()


@pytest.mark.ranks(4)
def test_groups_of_ranks_that_share_train_as_all_do(comm):
    _, expected = trained(comm, sharding_strategy=fsdp.ShardingStrategy.NO_SHARD)
    dist = torch.distributed
    sharing, _ = dist.new_subgroups_by_enumeration([[0, 1], [2, 3]])
    same, _ = dist.new_subgroups_by_enumeration([[0, 2], [1, 3]])
    strategies = fsdp.ShardingStrategy
    for strategy in (strategies.HYBRID_SHARD, strategies._HYBRID_SHARD_ZERO2):
        for groups in ((sharing, same), None):
            wrapped, found = trained(comm, sharding_strategy=strategy, process_group=groups)
            assert wrapped._engine._sharded.comm.size == (2 if groups else comm.local_size)
            for name, value in expected.items():
                np.testing.assert_allclose(found[name], value, rtol=1e-5, atol=1e-6)


@pytest.mark.ranks(4)
def test_meshes_say_which_ranks_share_and_policies_in_which_dtypes(comm):
    dist, strategies = torch.distributed, fsdp.ShardingStrategy
    mesh = dist.init_device_mesh("cpu", (2, 2), mesh_dim_names=("replicate", "shard"))
    assert mesh.get_coordinate() == [comm.rank // 2, comm.rank % 2]
    assert mesh["shard"].mesh.tolist() == [comm.rank // 2 * 2, comm.rank // 2 * 2 + 1]
    assert mesh["shard", "replicate"].mesh.tolist() == [[0, 2], [1, 3]]
    assert dist.get_process_group_ranks(mesh.get_group("replicate")) == [comm.rank % 2, comm.rank % 2 + 2]
    assert mesh.get_local_rank("shard") == mesh["shard"].get_local_rank() == comm.rank % 2
    for wrong in (mesh.get_group, lambda: mesh["rows"], lambda: dist.init_device_mesh("cpu", (5,))):
        with pytest.raises(OptionError, match="mesh"):
            wrong()
    _, expected = trained(comm, sharding_strategy=strategies.NO_SHARD)
    policy = fsdp.MixedPrecisionPolicy(torch.bfloat16, torch.float32, output_dtype=torch.float32)
    for options, near in (
        ({"sharding_strategy": strategies.HYBRID_SHARD, "device_mesh": mesh}, 1e-6),
        ({"shard": lambda each: fsdp.fully_shard(each, mesh=mesh)}, 1e-6),
        ({"shard": lambda each: fsdp.fully_shard(each, mesh=mesh["shard", "replicate"])}, 1e-6),
        (HALF, 1e-3),
        ({"shard": lambda each: fsdp.fully_shard(each, mesh=mesh, mp_policy=policy)}, 1e-3),
    ):
        wrapped, found = trained(comm, **options)
        for name, value in expected.items():
            assert found[name].dtype == np.float32
            np.testing.assert_allclose(found[name], value, rtol=1e-5, atol=near)
        assert next(wrapped.parameters()).dtype == (torch.float32 if near < 1e-3 else torch.bfloat16)
    with pytest.raises(OptionError, match="two dimensions goes with HYBRID_SHARD"):
        fsdp.FullyShardedDataParallel(net(), device_mesh=mesh)
    model = net()
    fsdp.fully_shard(model[0], mp_policy=policy)
    with pytest.raises(OptionError, match="another than the outermost"):
        fsdp.fully_shard(model)(torch.ones(1, 2))


@pytest.mark.ranks(2)
@pytest.mark.parametrize("kind", ["Muon", "LAMB"])
def test_rules_of_whole_parameters_made_before_sharding_own_them_whole(comm, kind):
    def optimizer(model):
        if kind == "Muon":
            return torch.optim.Muon([each for each in model.parameters() if each.ndim == 2], lr=0.1)
        return dg.optim.LAMB(model.parameters(), lr=0.1)

    options = {"optimizer": optimizer, "width": 300}  # the ranks' parts meet within a matrix
    _, expected = trained(comm, sharding_strategy=fsdp.ShardingStrategy.NO_SHARD, **options)
    for early in (False, True):
        _, found = trained(comm, early=early, shard=fsdp.fully_shard, **options)
        for name, value in expected.items():
            np.testing.assert_allclose(found[name], value, rtol=1e-4, atol=1e-5)
