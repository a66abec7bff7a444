"""The schedule plans the buckets that real ranks have, counts what they send, and orders reductions."""

import itertools
import warnings

import numpy as np
import pytest

import distgrad as dg
from distgrad import nn
from distgrad.comm import ThreadWorld
from distgrad.comm.calls import Call
from distgrad.errors import OptionError
from distgrad.parallel import DistributedDataParallel, PowerSGD, TopK, fp16
from distgrad.scale.schedule import Gradient, Profile, end_of_reductions, packets, transfers
from distgrad.trace import subscribe, unsubscribe

WIDTHS = (70, 90, 40, 130)
HOOKS = {
    "none": lambda: None,
    "fp16": lambda: fp16,
    "PowerSGD(2)": lambda: PowerSGD(2),
    "TopK(0.05)": lambda: TopK(0.05),
}
CAP_MB = 0.02


def build():
    dg.manual_seed(0)
    return nn.Sequential(*(nn.Linear(a, b, bias=False) for a, b in itertools.pairwise(WIDTHS)))


def profile_of(model):
    """In the order in which the gradients are ready: the last layer's first."""
    parameters = list(model.parameters())[::-1]
    return Profile(
        0.0, 1.0, 0.0, tuple(Gradient(p.nbytes, 0.1 * i, p.shape) for i, p in enumerate(parameters))
    )


@pytest.mark.parametrize("cap_mb", [0.001, CAP_MB, 0.03, 25.0])
def test_packets_are_the_buckets_of_a_module(cap_mb):
    model = DistributedDataParallel(build(), bucket_cap_mb=cap_mb)
    planned = [bucket["shapes"] for bucket in model.reducer.describe()]
    found = packets(profile_of(model), cap_mb * 2**20)
    assert [[list(shape) for shape in packet.shapes] for packet in found] == planned


class Sent:
    """What the first rank sends in collectives, by verb."""

    def __init__(self):
        self.bytes = {}

    def span(self, name, start_s, end_s, fields):
        if name != "submit" and fields.get("rank") == 0 and "group" in fields and fields["step"] == 1:
            self.bytes.setdefault(name, []).append(fields["bytes"])

    def event(self, name, time_s, fields):
        """Nothing of a collective."""


@pytest.mark.parametrize("size", [2, 3, 5])
@pytest.mark.parametrize("hook", HOOKS)
def test_what_a_step_sends_is_foretold(size, hook):
    model = profile_of(build())

    def be_a_rank(comm):
        ddp = DistributedDataParallel(
            build(), comm, bucket_cap_mb=CAP_MB, hook=HOOKS[hook](), check_replicas_every=0
        )
        x = dg.asarray(np.random.default_rng(comm.rank).standard_normal((4, WIDTHS[0])).astype(np.float32))
        for _ in range(2):
            ddp(x).sum().backward()

    sent = Sent()
    subscribe(sent)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            ThreadWorld(size, timeout_s=60).run(be_a_rank)
    finally:
        unsubscribe(sent)
    foretold = {}
    for packet in packets(model, CAP_MB * 2**20):
        for verb, num_bytes in transfers(packet, hook, None, size):
            foretold.setdefault(verb, []).append(num_bytes)
    measured = {verb: sum(each) for verb, each in sent.bytes.items()}
    assert measured.keys() == foretold.keys()
    for verb, each in foretold.items():  # but for padding, and the numbers of a tail that ride along
        assert measured[verb] == pytest.approx(sum(each), rel=0.03, abs=200)


def test_reductions_wait_for_the_last_rank_and_for_each_other():
    rng = np.random.default_rng(0)
    ready, seconds = np.sort(rng.random((4, 5, 6)), -1), rng.random(6)
    ends = end_of_reductions(ready, seconds)
    for group in range(4):
        free = 0.0
        for bucket in range(6):
            free = max(free, *ready[group, :, bucket]) + seconds[bucket]
            assert ends[group, bucket] == free


def test_transfers_count_as_the_communicator_does():
    (packet,) = packets(Profile(0, 1, 0, (Gradient(4000, 0.5, (10, 100)),)))
    ((verb, num_bytes),) = transfers(packet, "none", "optimizer", 4)
    assert Call(verb, num_bytes=num_bytes).sent_bytes(4) == 3000
    with pytest.raises(OptionError, match="no hook 'zip'"):
        transfers(packet, "zip", None, 4)
