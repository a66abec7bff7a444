"""Ranks on hosts, and how many threads each has."""

import os

import pytest
from distgrad.launch.plan import Host, environment, place, share
from distgrad.launch.rank import usable_cores

from distgrad.env import THREAD_VARIABLES
from distgrad.errors import LaunchError
from distgrad.launch import plan


@pytest.mark.parametrize("world_size", range(1, 9))
@pytest.mark.parametrize("num_cores", [1, 2, 6, 8])
def test_one_host_divides_its_cores(world_size, num_cores):
    specs = place([Host("here", 8)], world_size)
    assert [spec.rank for spec in specs] == [spec.local_rank for spec in specs] == list(range(world_size))
    assert {(spec.node_rank, spec.host, spec.world_size, spec.local_world_size) for spec in specs} == {
        (0, "here", world_size, world_size)
    }
    cores = list(range(3, 3 + num_cores))
    shares = [share(spec, cores) for spec in specs]
    assert {len(part) for part in shares} == {max(1, num_cores // world_size)}
    used = [core for part in shares for core in part]
    assert set(used) <= set(cores)
    if world_size <= num_cores:
        assert len(set(used)) == len(used)
    else:
        assert max(used.count(core) for core in cores) - min(used.count(core) for core in cores) <= 1


@pytest.mark.parametrize(
    ("world_size", "expected"),
    [
        (2, [(0, 0, 0, 2), (1, 1, 0, 2)]),
        (4, [(0, 0, 0, 3), (1, 1, 0, 3), (2, 2, 0, 3), (3, 0, 1, 1)]),
        (5, [(0, 0, 0, 3), (1, 1, 0, 3), (2, 2, 0, 3), (3, 0, 1, 2), (4, 1, 1, 2)]),
    ],
)
def test_hosts_are_filled_in_order(world_size, expected):
    specs = place([Host("a", 3), Host("idle", 0), Host("b", 2)], world_size)
    assert [(s.rank, s.local_rank, s.node_rank, s.local_world_size) for s in specs] == expected
    assert [spec.host for spec in specs] == ["a", "a", "a", "b", "b"][:world_size]
    sizes = [Host("a", min(3, world_size)), Host("b", world_size - 3)]
    assert plan.count(specs) == [host for host in sizes if host.slots > 0]


def test_impossible_numbers_are_refused():
    with pytest.raises(LaunchError, match=r"at least 1, got 0"):
        place([Host("a", 1)], 0)
    with pytest.raises(LaunchError, match=r"5 ranks were asked for, but a:3, b:1 have 4 slots"):
        place([Host("a", 3), Host("b", 1)], 5)


@pytest.mark.parametrize(
    ("given", "threads"),
    [
        ({}, "4444"),
        ({"OMP_NUM_THREADS": "7"}, "7777"),
        ({"OPENBLAS_NUM_THREADS": "3"}, "3333"),
        ({"OMP_NUM_THREADS": "7", "MKL_NUM_THREADS": "3"}, "7737"),
        ({"OMP_NUM_THREADS": "5,2"}, "5555"),
        ({"OMP_NUM_THREADS": "", "NUMBA_NUM_THREADS": "2"}, "2222"),
        ({"OMP_NUM_THREADS": "many"}, "4444"),
    ],
)
def test_a_number_of_threads_that_the_user_gave_holds_for_all_libraries(given, threads):
    spec = place([Host("a", 2), Host("b", 2)], 4)[3]
    place_variables = {
        "RANK": "3",
        "LOCAL_RANK": "1",
        "WORLD_SIZE": "4",
        "LOCAL_WORLD_SIZE": "2",
        "NODE_RANK": "1",
    }
    variables = environment(spec, range(8), given | {"HOME": "/"})
    assert {name: variables.pop(name, None) for name in place_variables} == place_variables
    found = {**variables, **{name: value.split(",")[0] for name, value in given.items() if value != ""}}
    expected = dict(zip(THREAD_VARIABLES, threads, strict=True))
    assert found == expected | {name: value for name, value in given.items() if value == "many"}
    unknown = environment(spec, [], given)  # on another host, before it has told its cores
    assert all(unknown.get(name) in (None, number) for name, number in expected.items())


@pytest.mark.parametrize(
    ("text", "num_cores"),
    [("max 100000\n", 6), ("250000 100000\n", 2), ("50000 100000", 1), ("nonsense", 6), (None, 6)],
)
def test_a_containers_share_of_time_counts_in_whole_cores(tmp_path, monkeypatch, text, num_cores):
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: {9, 4, 5, 6, 7, 8})
    path = tmp_path / "cpu.max"
    if text is not None:
        path.write_text(text)
    assert usable_cores(str(path)) == [4, 5, 6, 7, 8, 9][:num_cores]
