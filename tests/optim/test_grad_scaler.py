"""The gradient scaler: against PyTorch's step by step, and one decision on all ranks."""

import numpy as np
import pytest

import distgrad as dg
from distgrad.backend.whole import unscale
from distgrad.comm import ThreadWorld
from distgrad.errors import GraphError, OptionError

OPTIONS = {"init_scale": 256.0, "growth_factor": 4.0, "backoff_factor": 0.25, "growth_interval": 3}


def run(overflows, clip=False):
    """A parameter after steps with and without overflow, in both libraries, and the scales between."""
    torch = pytest.importorskip("torch", reason="comparison with PyTorch needs it installed (make machine)")
    ours = dg.tensor(np.array([1.0, -2.0, 3.0], np.float32), requires_grad=True)
    theirs = torch.tensor([1.0, -2.0, 3.0], requires_grad=True)
    optimizer, other = dg.optim.AdamW([ours], lr=0.1), torch.optim.AdamW([theirs], lr=0.1)
    scaler, reference = dg.amp.GradScaler("cpu", **OPTIONS), torch.amp.GradScaler("cpu", **OPTIONS)
    for step, overflow in enumerate(overflows):
        factor = np.array([1.0 + step, np.inf if overflow else 2.0, -1.0], np.float32)
        optimizer.zero_grad()
        other.zero_grad()
        scaler.scale((ours * dg.tensor(factor)).sum()).backward()
        reference.scale((theirs * torch.tensor(factor)).sum()).backward()
        if clip:
            scaler.unscale_(optimizer)
            reference.unscale_(other)
            if not overflow:
                np.testing.assert_allclose(ours.grad.numpy(), theirs.grad.numpy(), rtol=1e-6)
            with np.errstate(all="ignore"):
                dg.nn.utils.clip_grad_norm_([ours], 1.0)
            torch.nn.utils.clip_grad_norm_([theirs], 1.0)
        scaler.step(optimizer)
        reference.step(other)
        scaler.update()
        reference.update()
        assert scaler.get_scale() == reference.get_scale(), step
        np.testing.assert_allclose(ours.detach().numpy(), theirs.detach().numpy(), rtol=1e-5)
    return scaler, reference


@pytest.mark.parametrize("clip", [False, True])
@pytest.mark.parametrize("overflows", [[0] * 7, [1, 0, 0, 0, 1, 0], [0, 0, 1, 1, 0, 0, 0, 0, 0, 0]])
def test_scales_and_parameters_are_pytorchs(overflows, clip):
    scaler, reference = run(overflows, clip)
    assert scaler.state_dict() == reference.state_dict()


def test_state_goes_both_ways():
    scaler, reference = run([0, 1, 0, 0])
    again = dg.amp.GradScaler("cpu")
    again.load_state_dict(reference.state_dict())
    assert again.state_dict() == scaler.state_dict()
    type(reference)("cpu").load_state_dict(scaler.state_dict())
    assert dg.amp.GradScaler(enabled=False).state_dict() == {}
    with pytest.raises(OptionError, match="not enabled"):
        again.load_state_dict({})


def test_the_order_of_calls_is_checked():
    p = dg.tensor([1.0], requires_grad=True)
    optimizer, scaler = dg.optim.SGD([p], lr=0.1), dg.amp.GradScaler("cpu")
    with pytest.raises(GraphError, match="no step since the last"):
        scaler.update()
    scaler.scale(p.sum()).backward()
    scaler.unscale_(optimizer)
    with pytest.raises(GraphError, match="called already"):
        scaler.unscale_(optimizer)
    scaler.step(optimizer)
    with pytest.raises(GraphError, match="called already"):
        scaler.step(optimizer)
    with pytest.raises(GraphError, match=r"called after step\(\)"):
        scaler.unscale_(optimizer)
    scaler.update()
    with pytest.raises(OptionError, match="closure"):
        scaler.step(optimizer, lambda: None)
    for options in ({"growth_factor": 1.0}, {"backoff_factor": 1.0}):
        with pytest.raises(OptionError):
            dg.amp.GradScaler(**options)


def test_disabled_it_steps_as_the_optimizer_does():
    p = dg.tensor([1.0], requires_grad=True)
    optimizer, scaler = dg.optim.SGD([p], lr=0.5), dg.amp.GradScaler(enabled=False)
    loss = p.sum()
    assert scaler.scale(loss) is loss
    loss.backward()
    scaler.unscale_(optimizer)
    scaler.step(optimizer)
    scaler.update()
    assert p.item() == 0.5
    assert scaler.get_scale() == 1.0


class Net(dg.nn.Module):
    """The same weights wherever it is made: ranks that are threads share the default generator."""

    def __init__(self):
        super().__init__()
        self.first = dg.nn.Linear(6, 5)
        self.second = dg.nn.Linear(5, 1)
        generator = dg.Generator(3)
        for parameter in self.parameters():
            dg.nn.init.uniform_(parameter, -0.5, 0.5, generator=generator)

    def forward(self, x):
        return self.second(dg.nn.functional.relu(self.first(x)))


def train(comm, bad_rank, bad_steps, num_steps=6, scale=128.0):
    model = dg.parallel.DistributedDataParallel(Net(), comm, bucket_cap_mb=1e-5)
    optimizer = dg.optim.AdamW(model.parameters(), lr=0.05)
    scaler = dg.amp.GradScaler("cpu", init_scale=scale, growth_interval=2)
    history = []
    for step in range(num_steps):
        rng = np.random.default_rng([step, comm.rank])
        x = rng.standard_normal((2 + comm.rank, 6)).astype(np.float32)
        if comm.rank == bad_rank and step in bad_steps:
            x[0, 0] = np.inf
        optimizer.zero_grad()
        with np.errstate(all="ignore"):  # infinities are what this is about
            with dg.autocast("cpu", dtype="float16"):
                loss = (model(dg.tensor(x)) ** 2).mean()
            scaler.scale(loss).backward()
        before = dg.parallel.parameter_hash(model.module)
        scaler.step(optimizer)
        scaler.update()
        history.append((dg.parallel.parameter_hash(model.module), scaler.get_scale()))
        assert (before == history[-1][0]) == (step in bad_steps), f"rank {comm.rank}, step {step}"
    return history


@pytest.mark.parametrize("size", [1, 2, 3, 5])
def test_an_overflow_on_one_rank_leaves_the_step_out_on_all(size):
    histories = ThreadWorld(size, timeout_s=30).run(train, size - 1, (1, 4))
    assert all(history == histories[0] for history in histories)
    assert [scale for _, scale in histories[0]] == [128.0, 64.0, 64.0, 128.0, 64.0, 64.0]


def test_steps_without_overflow_do_not_depend_on_the_scale():
    small, large = (
        ThreadWorld(2, timeout_s=30).run(train, None, (), 3, scale) for scale in (2.0**4, 2.0**10)
    )
    assert [digest for digest, _ in small[0]][:1] == [digest for digest, _ in large[0]][:1]


def test_an_overflow_that_was_clipped_is_over_with_its_step():
    """Also where gradients lie behind one another in memory, with room in between."""
    model = dg.nn.Sequential(dg.nn.Linear(3, 3), dg.nn.Linear(3, 1))
    optimizer, scaler = dg.optim.SGD(model.parameters(), lr=0.1), dg.amp.GradScaler(init_scale=8.0)
    for first, scale in ((1.0, 8.0), (np.inf, 4.0), (1.0, 4.0), (1.0, 4.0)):
        optimizer.zero_grad()
        with np.errstate(all="ignore"):
            scaler.scale(model(dg.tensor([[first, 1.0, 1.0]], dtype=dg.float32)).sum()).backward()
            scaler.unscale_(optimizer)
            dg.nn.utils.clip_grad_norm_(model.parameters(), 0.5)
        scaler.step(optimizer)
        scaler.update()
        assert scaler.get_scale() == scale


def test_a_rank_that_owns_no_gradients_finds_them_finite() -> None:
    assert unscale((), 0.5) is True
