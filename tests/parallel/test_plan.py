"""A plan of memory beside what fresh processes take, and scripts that are planned without being run."""

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

import distgrad as dg
from distgrad import nn
from distgrad.errors import OptionError
from distgrad.fit import find_plans
from distgrad.optim import LBFGS, SGD, AdamW, Muon
from distgrad.parallel import memory_plan

ROOT = Path(__file__).parents[2]
WEIGHED = Path(__file__).with_name("weighed.py")
#: Freed memory goes back at once, or it would count.
GIVES_BACK = {
    "DISTGRAD_KEEP_MEMORY": "0",
    "MALLOC_MMAP_THRESHOLD_": "131072",
    "MALLOC_TRIM_THRESHOLD_": "131072",
}

HEAP_BYTES = 5 << 19  # what small blocks leave in the C library's heap, in either direction


def weigh(name, shard, ranks):
    """Bytes that were planned, and the most that a rank took."""
    start = [sys.executable] if ranks == 1 else [sys.executable, "-m", "distgrad", "run", "-n", str(ranks)]
    found = subprocess.run(
        [*start, str(WEIGHED), name, shard],
        env={**os.environ, **GIVES_BACK},
        capture_output=True,
        text=True,
        timeout=240,
        check=False,
    )
    assert found.returncode == 0, found.stderr[-2000:]
    told = json.loads(found.stdout[found.stdout.index("{") : found.stdout.rindex("}") + 1])
    return told["plan"], told["peak"]


ALONE = ("mlp", "cnn", "gpt", "gptm", "resnet20", "lstm", "embedding", "layernorm", "softmax", "float64")
SPREAD = (("none", 2), ("optimizer", 2), ("gradients", 2), ("parameters", 2), ("parameters", 4))
CASES = [pytest.param(name, "none", 1, marks=() if name == "mlp" else pytest.mark.slow) for name in ALONE]
CASES += [pytest.param("gptw", *each, marks=pytest.mark.slow) for each in SPREAD]


@pytest.mark.parametrize(("name", "shard", "ranks"), CASES)
def test_a_plan_is_what_a_rank_takes(name, shard, ranks):
    plan, peak = weigh(name, shard, ranks)
    assert abs(plan - peak) <= 0.1 * peak + HEAP_BYTES


def net():
    return nn.Sequential(nn.Linear(100, 200), nn.ReLU(), nn.Linear(200, 10))


def test_the_parts_follow_the_formulas():
    count = 4 * sum(parameter.size for parameter in net().parameters())
    whole = memory_plan(net(), AdamW, (32, 100), ranks=4)
    assert whole.parameters == whole.gradients == pytest.approx(count, rel=0.01)
    assert whole.state == 2 * count
    assert whole.buckets == 0
    assert whole.activations >= 4 * 32 * (100 + 2 * 200 + 10)
    found = {s: memory_plan(net(), AdamW, (32, 100), ranks=4, shard=s) for s in dg.parallel.checks.STAGES}
    for shard, plan in found.items():
        assert plan.state == pytest.approx(count / 2, rel=0.01)
        assert plan.gradients == pytest.approx(count / (1 if shard == "optimizer" else 4), rel=0.01)
        assert plan.parameters == pytest.approx(count / (4 if shard == "parameters" else 1), rel=0.01)
        assert plan.activations == whole.activations
    assert found["parameters"].buckets > 0
    assert "total" in str(whole)


def test_what_lies_on_the_host_is_told_apart():
    """There a rank has 4 bytes of each owned parameter, 4 of its gradient and 8 of AdamW's state."""
    count = sum(parameter.size for parameter in net().parameters())
    for stage in dg.parallel.checks.STAGES:
        plain = memory_plan(net(), AdamW, (32, 100), ranks=2, shard=stage)
        plan = memory_plan(net(), AdamW, (32, 100), ranks=2, shard=stage, offload="host")
        assert plan.on_host == pytest.approx(16 * count / 2, rel=0.01)
        assert plan.total == plain.total - plain.state
        assert "on the host" in str(plan)
        assert "on the host" not in str(plain)
        narrow = {"ranks": 2, "shard": stage, "param_dtype": "bfloat16", "offload": "host"}
        plan = memory_plan(net(), AdamW, (32, 100), **narrow)
        assert plan.on_host == pytest.approx((4 + 2 + 8) * count / 2, rel=0.01)
        wide = memory_plan(net(), AdamW, (32, 100), **narrow, reduce_dtype="float32")
        assert wide.on_host == pytest.approx(16 * count / 2, rel=0.01)


def test_parts_of_parameters_in_16_bits():
    """Of each 2 bytes and 2 of its gradient; of what a rank owns 4 of a master, and 4 of a float32 mean."""
    size, options = sum(p.nbytes for p in net().parameters()), {"ranks": 4, "param_dtype": "bfloat16"}

    def plan(**more):
        return memory_plan(net(), AdamW, (32, 100), **options, **more)

    near = {"rel": 1e-2}  # places are aligned
    for shard, kept in (("optimizer", 1.0), ("gradients", 1.0), ("parameters", 0.25)):
        found = plan(shard=shard, reduce_dtype="float32")
        assert found.parameters == pytest.approx(size * (kept / 2 + 0.25), **near)
        gradients = 0.5 if shard == "optimizer" else 0.125
        assert found.gradients == pytest.approx(size * (gradients + 0.25), **near)
        assert found.state == pytest.approx(2 * size * 0.25, **near)
        assert plan(shard=shard).gradients == pytest.approx(size * gradients, **near)
    whole = memory_plan(net(), AdamW, (32, 100), ranks=4, shard="optimizer")
    assert plan(shard="optimizer").activations < whole.activations


def test_a_module_stays_as_it_is_and_may_lie_nowhere():
    model = net()
    before = [parameter.detach().numpy().copy() for parameter in model.parameters()]
    real = memory_plan(model, SGD(model.parameters(), lr=0.1, momentum=0.9), (8, 100))
    for parameter, values in zip(model.parameters(), before, strict=True):
        assert parameter.device == "cpu"
        assert parameter.grad is None
        np.testing.assert_array_equal(parameter.detach().numpy(), values)
    with dg.device("meta"):
        shapes = net()
    assert memory_plan(shapes, lambda p: SGD(p, lr=0.1, momentum=0.9), (8, 100)) == real


def test_rules_that_own_whole_parameters_are_planned_by_the_largest_share():
    wide = nn.Sequential(*(nn.Linear(n, n, bias=False) for n in (64, 64, 64, 64)))
    assert memory_plan(wide, Muon, (2, 64), ranks=4, shard="optimizer").state == 4 * 64 * 64
    assert memory_plan(wide, Muon, (2, 64), ranks=3, shard="optimizer").state == 2 * 4 * 64 * 64


def frozen(count):
    model = net()
    for parameter in list(model.parameters())[:count]:
        parameter.requires_grad = False
    return model


def test_frozen_parameters_take_no_gradient_and_no_state():
    """What an optimizer keeps after a step is what is planned, also where it was given all parameters."""
    model = frozen(2)
    optimizer = AdamW(model.parameters())
    model(dg.ones((8, 100))).sum().backward()
    optimizer.step()
    arrays = [value for state in optimizer.state_dict()["state"].values() for value in state.values()]
    kept = sum(array.nbytes for array in arrays if np.ndim(array))
    for given in (optimizer, AdamW):
        plan = memory_plan(model, given, (8, 100))
        assert plan.state == kept == 2 * 4 * 2010
        assert plan.gradients == pytest.approx(kept / 2, rel=0.01)
    whole, spread = memory_plan(frozen(0), AdamW, (8, 100)), memory_plan(model, AdamW, (8, 100), ranks=2)
    assert spread.parameters == pytest.approx(whole.parameters, rel=0.01)
    nothing = memory_plan(frozen(4), AdamW, (8, 100), ranks=2, shard="parameters")
    assert nothing.gradients == nothing.state == nothing.buckets == 0
    assert nothing.activations > 0


def test_what_cannot_be_planned_is_refused():
    with pytest.raises(OptionError, match="shard must be one of"):
        memory_plan(net(), AdamW, (8, 100), shard="everything")
    with pytest.raises(OptionError, match="shard_blocks goes with shard='parameters'"):
        memory_plan(net(), AdamW, (8, 100), shard_blocks=["0"])
    for ranks in (0, 1.5):
        with pytest.raises(OptionError, match="ranks must be a whole number"):
            memory_plan(net(), AdamW, (8, 100), ranks=ranks)
    with pytest.raises(OptionError, match="must give an Optimizer, got 3"):
        memory_plan(net(), lambda parameters: 3, (8, 100))
    with pytest.raises(OptionError, match="history"):
        memory_plan(net(), LBFGS, (8, 100))


SCRIPT = """
import distgrad as dg
from distgrad import nn
from distgrad.parallel import DistributedDataParallel

comm = dg.comm.init()
net = nn.Sequential(nn.Linear(4096, 4096), nn.ReLU(), nn.Linear(4096, 4096)).to("cpu")
model = DistributedDataParallel(net, comm, shard="parameters")
optimizer = dg.optim.AdamW(model.parameters())
assert comm.size == 8 and comm.all_gather_object(comm.rank) == [0] * 8
for _ in range(3):
    {call}
    raise SystemExit("it goes on")
"""


def fit(tmp_path, call, *options):
    path = tmp_path / "train.py"
    path.write_text(SCRIPT.replace("{call}", call))
    return subprocess.run(
        [sys.executable, "-m", "distgrad", "doctor", "--fit", "-n", "8", *options, str(path)],
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )


def test_a_script_is_planned_without_being_trained(tmp_path):
    found = fit(tmp_path, "model(dg.randn(16, 4096, device='cpu'))", "--json")
    assert found.returncode == 0, found.stderr
    plans = json.loads(found.stdout)
    count = 4 * 2 * 4096 * 4097
    assert plans["None"]["total"] == pytest.approx(4 * count, rel=0.05)
    assert plans["parameters"]["state"] == pytest.approx(2 * count / 8, rel=0.01)
    assert "it goes on" not in found.stdout + found.stderr


def test_a_script_is_planned_in_the_dtypes_and_the_places_that_it_asks_for(tmp_path):
    path, options = tmp_path / "train.py", "param_dtype='bfloat16', offload='host'"
    text = SCRIPT.replace("{call}", "model(dg.randn(16, 4096, device='cpu'))")
    path.write_text(text.replace("4096", "64").replace('"parameters"', f'"parameters", {options}'))
    plans = find_plans(str(path), [], 8)
    count = 2 * 64 * 65
    plan = plans["parameters"]
    assert plan.state == 0
    assert plan.on_host == pytest.approx((4 + 2 + 8) * count / 8, rel=0.05)  # masters, gradients, moments
    assert plan.parameters == pytest.approx(2 * count / 8, rel=0.05)
    assert plans[None].on_host == 0


def test_a_script_that_never_calls_its_model_is_told(tmp_path):
    found = fit(tmp_path, "continue")
    assert found.returncode == 1
    assert "before it called a module in training mode" in found.stderr
