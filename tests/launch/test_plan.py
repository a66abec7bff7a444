"""Ranks on hosts, and how many threads each has."""

import pytest
from distgrad.launch import plan
from distgrad.launch.plan import THREAD_VARIABLES, Host, environment, place

from distgrad.errors import LaunchError


@pytest.mark.parametrize("world_size", range(1, 9))
@pytest.mark.parametrize("cores", [1, 2, 6, 8])
def test_one_host_divides_its_cores(world_size, cores):
    specs = place([Host("here", 8, cores)], world_size)
    assert [spec.rank for spec in specs] == [spec.local_rank for spec in specs] == list(range(world_size))
    assert {(spec.node_rank, spec.host, spec.world_size, spec.local_world_size) for spec in specs} == {
        (0, "here", world_size, world_size)
    }
    (threads,) = {spec.threads for spec in specs}
    assert threads == max(1, cores // world_size)
    assert threads * world_size <= cores or threads == 1


@pytest.mark.parametrize(
    ("world_size", "expected"),
    [
        (2, [(0, 0, 0, 2, 4), (1, 1, 0, 2, 4)]),
        (4, [(0, 0, 0, 3, 2), (1, 1, 0, 3, 2), (2, 2, 0, 3, 2), (3, 0, 1, 1, 4)]),
        (5, [(0, 0, 0, 3, 2), (1, 1, 0, 3, 2), (2, 2, 0, 3, 2), (3, 0, 1, 2, 2), (4, 1, 1, 2, 2)]),
    ],
)
def test_hosts_are_filled_in_order(world_size, expected):
    specs = place([Host("a", 3, 8), Host("idle", 0, 8), Host("b", 2, 4)], world_size)
    assert [(s.rank, s.local_rank, s.node_rank, s.local_world_size, s.threads) for s in specs] == expected
    assert [spec.host for spec in specs] == ["a", "a", "a", "b", "b"][:world_size]


def test_impossible_numbers_are_refused():
    with pytest.raises(LaunchError, match=r"at least 1, got 0"):
        place([Host("a", 1, 1)], 0)
    with pytest.raises(LaunchError, match=r"5 ranks were asked for, but a:3, b:1 have 4 slots"):
        place([Host("a", 3, 8), Host("b", 1, 8)], 5)


def test_environment_keeps_the_users_threads():
    spec = place([Host("a", 2, 8), Host("b", 2, 8)], 4)[3]
    variables = environment(spec, {"OMP_NUM_THREADS": "7", "HOME": "/"})
    assert variables == {
        "RANK": "3",
        "LOCAL_RANK": "1",
        "WORLD_SIZE": "4",
        "LOCAL_WORLD_SIZE": "2",
        "NODE_RANK": "1",
        **{name: "4" for name in THREAD_VARIABLES if name != "OMP_NUM_THREADS"},
    }


@pytest.mark.parametrize(
    ("text", "cores"), [("max 100000\n", None), ("150000 100000\n", 1.5), ("nonsense", None), (None, None)]
)
def test_container_quota(tmp_path, text, cores):
    path = tmp_path / "cpu.max"
    if text is not None:
        path.write_text(text)
    assert plan._cgroup_quota(str(path)) == cores


def test_this_host_counts_whole_cores(monkeypatch):
    monkeypatch.setattr(plan.os, "sched_getaffinity", lambda _: set(range(6)))
    for quota, cores in ((None, 6), (2.5, 2), (0.5, 1), (64.0, 6)):
        monkeypatch.setattr(plan, "_cgroup_quota", lambda quota=quota: quota)
        assert plan.this_host(3).cores == cores
