"""Whatever is added, or takes part in training, goes on to the bit where it was saved."""

import copy
import hashlib

import numpy as np
import pytest

import distgrad as dg
from distgrad import nn, optim
from distgrad.checkpoint import CheckpointManager
from distgrad.nn import functional as F
from distgrad.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn
from distgrad.parallel import DistributedDataParallel

STEPS, SAVED = 7, 4


def batch(step, rank=0):
    rng = np.random.default_rng([step, rank])
    return dg.asarray(rng.standard_normal((8, 5)).astype(np.float32)), dg.asarray(rng.integers(0, 3, 8))


class Training:
    """A model and AdamW; what a case adds is its own."""

    def __init__(self, comm, net):
        self.comm, self.net = comm, copy.deepcopy(net)
        self.model = self.wrap(self.net)
        self.optimizer = self.make(self.model.parameters())
        self.added = {"model": self.model, "optimizer": self.optimizer}

    def wrap(self, net):
        return net

    def make(self, parameters):
        return optim.AdamW(parameters, lr=0.05)

    def loss(self, step):
        self.optimizer.zero_grad()
        x, y = batch(step, self.comm.rank)
        loss = F.cross_entropy(self.model(x), y)
        loss.backward()
        return loss

    def step(self, step):
        self.loss(step)
        self.optimizer.step()

    def bits(self):
        values = [*self.net.state_dict().values()]
        return hashlib.sha256(b"".join(np.asarray(x.detach()).tobytes() for x in values)).hexdigest()


class WithLBFGS(Training):
    def make(self, parameters):
        return optim.LBFGS(parameters, lr=0.3, max_iter=2, history_size=3)

    def step(self, step):
        self.optimizer.step(lambda: self.loss(step))


class WithScaler(Training):
    """Scales that grow, and one step that overflows."""

    def __init__(self, comm, net):
        super().__init__(comm, net)
        self.added["scaler"] = self.scaler = dg.amp.GradScaler(init_scale=8.0, growth_interval=3)

    def step(self, step):
        self.optimizer.zero_grad()
        x, y = batch(step)
        self.scaler.scale(F.cross_entropy(self.model(x), y)).backward()
        if step == 3:
            next(iter(self.net.parameters())).grad.fill_(float("inf"))
        self.scaler.step(self.optimizer)
        self.scaler.update()

    def bits(self):
        return super().bits() + str(self.scaler.state_dict())


class WithAverage(Training):
    def __init__(self, comm, net):
        super().__init__(comm, net)
        self.ema = AveragedModel(self.net, multi_avg_fn=get_ema_multi_avg_fn(0.9))
        self.added["ema"] = self.ema

    def step(self, step):
        super().step(step)
        self.ema.update_parameters(self.net)

    def bits(self):
        return super().bits() + str([x.tolist() for x in self.ema.state_dict().values()])


class WithErrorFeedback(Training):
    """What a compressor leaves out is the rank's own."""

    def wrap(self, net):
        model = DistributedDataParallel(net, self.comm)
        model.use_hook(dg.parallel.TopK(0.1))
        return model


class InExactMode(Training):
    """The counter keys the dropout of each shard."""

    def wrap(self, net):
        net.append(nn.Dropout(0.3))
        return DistributedDataParallel(net, self.comm, exact=True, shards=4)

    def step(self, step):
        self.optimizer.zero_grad()
        for x, y in self.model.shards(*batch(step)):
            F.cross_entropy(self.model(x), y).backward()
        self.optimizer.step()


CASES = [(WithLBFGS, 1), (WithScaler, 1), (WithAverage, 1), (WithErrorFeedback, 2), (InExactMode, 1)]


@pytest.mark.parametrize(("kind", "ranks"), CASES, ids=lambda value: getattr(value, "__name__", value))
def test_it_goes_on_to_the_bit(tmp_path, kind, ranks):
    dg.manual_seed(4)
    net = nn.Sequential(nn.Linear(5, 6), nn.Tanh(), nn.Linear(6, 3))

    def run(comm, restores):
        training = kind(comm, net)
        with CheckpointManager(tmp_path, comm=comm, signals=False) as manager:
            manager.add(**training.added)
            start = manager.restore_latest() if restores else 0
            for step in range(start, STEPS):
                training.step(step)
                manager.finished = step + 1
                if manager.finished == SAVED and not restores:
                    manager.save()
        return start, training.bits()

    def forgetful(comm):
        """The weights alone: the bits differ, so that what else was saved is what makes them equal."""
        training = kind(comm, net)
        with CheckpointManager(tmp_path, comm=comm, signals=False) as manager:
            manager.add(model=training.net)
            manager.restore(tmp_path / f"step-{SAVED:08}", strict=False, only=["model"])
        for step in range(SAVED, STEPS):
            training.step(step)
        return training.bits()

    world = dg.comm.ThreadWorld(ranks, timeout_s=60)
    whole = [bits for _, bits in world.run(run, False)]
    assert dg.comm.ThreadWorld(ranks, timeout_s=60).run(run, True) == [(SAVED, each) for each in whole]
    assert dg.comm.ThreadWorld(ranks, timeout_s=60).run(forgetful) != whole
