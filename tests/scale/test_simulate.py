"""The virtual clock: what must come out exactly, real ranks that are never faster, and thousands at once."""

import dataclasses
import statistics
import threading
import time
import warnings

import numpy as np
import pytest

from distgrad.comm import Link
from distgrad.errors import OptionError
from distgrad.scale.bench import network
from distgrad.scale.cluster import Cluster, Failures, Stragglers
from distgrad.scale.schedule import Gradient, Profile
from distgrad.scale.simulate import Plan, simulate

MIB = 1 << 20
PROFILE = Profile(0.02, 0.04, 0.01, tuple(Gradient(MIB, 0.004 * (i + 1)) for i in range(10)))
SLOW = Link(1e-3, 1e9 / 8)


def cluster_of(hosts, per_host=1, **more):
    return Cluster(hosts, per_host, SLOW, Link(0.0, 1e10), **more)


def test_a_rank_alone_computes_and_waits_for_nothing():
    found = simulate(PROFILE, cluster_of(1), Plan(), 3)
    assert found.step_s == pytest.approx([PROFILE.computing_s] * 3)
    assert np.abs(found.exposed_s).max() < 1e-12
    assert found.efficiency(PROFILE) == pytest.approx(1.0)


@pytest.mark.parametrize("size", [2, 3, 5])
def test_one_bucket_starts_behind_backward_and_takes_what_the_link_says(size):
    found = simulate(PROFILE, cluster_of(size), Plan(cap_bytes=1e12), 2)
    first = MIB  # the first bucket is small, so that there are two
    link_s = [
        2 * (size - 1) * SLOW.latency_s + 2 * (size - 1) / size * n / SLOW.bytes_per_s
        for n in (first, 9 * first)
    ]
    end_s = max(0.004 + link_s[0], 0.04) + link_s[1]
    assert found.step_s == pytest.approx([0.02 + end_s + 0.01] * 2)


def test_hosts_reduce_inside_before_they_send():
    flat, grouped = (
        simulate(PROFILE, each, Plan(), 2).step_s[0] for each in (cluster_of(8), cluster_of(2, 4))
    )
    assert grouped < flat
    cluster = cluster_of(2, 4)
    assert cluster.seconds("all_reduce", MIB) == pytest.approx(
        1.5 * MIB / 1e10 + 2 * SLOW.latency_s + MIB / SLOW.bytes_per_s
    )


def test_local_sgd_pays_once_a_period():
    found = simulate(PROFILE, cluster_of(4), Plan(period=3), 6)
    whole = cluster_of(4).seconds("all_reduce", PROFILE.num_bytes)
    alone = PROFILE.computing_s
    assert found.step_s == pytest.approx([alone, alone, alone + whole] * 2)


def test_stragglers_slow_all_down_and_the_seed_decides_which():
    cluster = cluster_of(64, stragglers=Stragglers(0.02, 0.01, 3.0))
    even, first, again, other = (
        simulate(PROFILE, c, Plan(), 50, seed).step_s
        for c, seed in ((cluster_of(64), 0), (cluster, 1), (cluster, 1), (cluster, 2))
    )
    np.testing.assert_array_equal(first, again)
    assert (first != other).any()
    assert first.mean() > even.mean() + 0.01


def test_failures_cost_what_is_done_again_and_the_restart():
    failures = Failures(hours_between=64 * 2.0 / 3600, restart_s=1.0, checkpoint_every=10, checkpoint_s=0.1)
    found = simulate(PROFILE, cluster_of(64, failures=failures), Plan(), 200)
    assert found.num_failures > 3
    assert found.lost_s > 0.1 * 20 + found.num_failures
    assert found.lost_s < 0.1 * 20 + found.num_failures * (1.0 + 11 * found.step_s.max())
    never = dataclasses.replace(failures, hours_between=float("inf"))
    assert simulate(PROFILE, cluster_of(64, failures=never), Plan(), 200).lost_s == pytest.approx(2.0)


@pytest.mark.parametrize("plan", [Plan(), Plan(shard="parameters"), Plan(hook="fp16"), Plan(period=4)])
def test_four_thousand_ranks_take_seconds(plan):
    start_s = time.process_time()
    found = simulate(PROFILE, cluster_of(512, 8, stragglers=Stragglers(0.05)), plan, 100)
    assert time.process_time() - start_s < 30  # 0.4 where it was measured
    assert found.step_s.shape == (100,)
    assert 0 < found.efficiency(PROFILE) < 1


class Lateness(threading.Thread):
    """How late a thread wakes up that sleeps, on this machine and at this time."""

    def __init__(self):
        super().__init__(daemon=True)
        self.found, self.ended = [], threading.Event()

    def run(self):
        while not self.ended.is_set():
            start_s = time.perf_counter()
            time.sleep(5e-3)
            self.found.append(time.perf_counter() - start_s - 5e-3)

    def __enter__(self):
        self.start()
        return self

    def __exit__(self, *exception):
        self.ended.set()
        self.join()


WAYS = [(hook, None) for hook in network.HOOKS] + [("none", "optimizer")]
QUICK = ((3, "none", None), (2, "none", "optimizer"))
CASES = [(size, *way) for size in (2, 3, 5) for way in WAYS]
BYTES_PER_S = {"PowerSGD(4)": 5e4, "TopK(0.01)": 1e4}  # of a line that what they send keeps busy
WAKES = 20  # of a step's sleeps, those that follow each other


@pytest.mark.parametrize(
    ("size", "hook", "shard"),
    [pytest.param(*case, marks=() if case in QUICK else pytest.mark.slow) for case in CASES],
)
def test_real_ranks_on_an_emulated_link_take_what_the_clock_says(size, hook, shard):
    """Real buckets, hooks and threads; what is computed is so little that only the link takes time."""
    lengths = (6_000, 3_000, 5_000, 100)
    gradients = tuple(Gradient(4 * n, 0.01 * (i + 1), (n // 50, 50)) for i, n in enumerate(lengths))
    profile = Profile(0.01, 0.04, 0.0, gradients)
    replayed = network.Profile(0.01, [(g.shape, g.ready_s) for g in gradients])
    link = Link(2e-3, BYTES_PER_S.get(hook, 2e5))
    cap_mb = 24 / 1024
    plan = Plan(cap_mb * MIB, hook, shard=shard)
    simulated = simulate(profile, Cluster(size, 1, link), plan, 8).step_s[-1]
    with warnings.catch_warnings(), Lateness() as lateness:
        warnings.simplefilter("ignore")
        least = network.measure(replayed, size, link, hook, 4, cap_mb, shard)["least_ms"] / 1e3
    late_s = WAKES * statistics.fmean(lateness.found)  # 2 ms on an idle machine
    assert 0.95 * simulated < least < 1.05 * simulated + late_s
    assert simulated > 0.15


def test_a_description_is_read_and_wrong_ones_are_named(tmp_path):
    path = tmp_path / "cluster.toml"
    path.write_text(
        "hosts = 4\nranks_per_host = 8\ncall_us = 10.0\n[between]\ngbits = 100.0\nlatency_us = 5.0\n"
    )
    cluster = Cluster.read(path)
    assert cluster.size == 32
    assert cluster.between.bytes_per_s == 12.5e9
    assert cluster.call_s == pytest.approx(1e-5)
    assert cluster.resized(4).hosts == 1
    with pytest.raises(OptionError, match="12 ranks do not fill"):
        cluster.resized(12)
    for text, said in (
        ("racks = 3", "racks"),
        ("[between]\nspeed = 3", "speed"),
        ("hosts =", "cannot be read"),
        ("hosts = 0", "from 1 up"),
        ("hosts = 2.5", "hosts must be a whole number from 0 up, got 2.5"),
        ('hosts = "two"', "hosts must be a whole number"),
        ("computing = -1.0", "computing must be a number from 0 up"),
        ("computing = nan", "computing must be a number from 0 up"),
        ("between = 5", "between must be a table"),
        ("[between]\ngbits = 0", "gbits must be above 0"),
        ("[stragglers]\nspread = true", "spread must be a number"),
    ):
        path.write_text(text)
        with pytest.raises(OptionError, match=said):
            Cluster.read(path)
    with pytest.raises(OptionError, match="period"):
        Plan(shard="optimizer", period=2)
