"""Names of ``torch.distributed.fsdp``: policies, and errors for what the engine does not do."""

import pytest

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


@pytest.mark.parametrize(
    ("options", "word"),
    [
        ({"mixed_precision": fsdp.MixedPrecision(param_dtype=torch.bfloat16)}, "autocast"),
        ({"sharding_strategy": fsdp.ShardingStrategy.HYBRID_SHARD}, "FULL_SHARD"),
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
    with pytest.raises(OptionError, match="fully_shard: mesh"):
        fsdp.fully_shard(net(), mesh="mesh")
    zero = torch.distributed.optim.ZeroRedundancyOptimizer
    with pytest.raises(OptionError, match="of no DistributedDataParallel"):
        zero(net().parameters(), torch.optim.SGD, lr=0.1)
    with pytest.raises(OptionError, match="optimizer_class"):
        zero(net().parameters(), "SGD")
