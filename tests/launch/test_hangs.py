"""The judgement over what ranks tell: who keeps the job from going on, and when nobody does."""

import pytest
from distgrad.launch.hangs import Track, judge
from hypothesis import given
from hypothesis import strategies as st

from distgrad.launch import hangs

LIMIT_S = 60.0
NOW_S = 1000.0


def track(rank, *, waiting=False, since_s=0.0, number=7, call="all_reduce(float32[4])", **others):
    """A rank that began or ended its last call ``since_s`` ago, computes, and was heard of just now."""
    settings = {
        "sequence": 20,
        "heard_s": NOW_S,
        "active_s": NOW_S,
        "group": "world",
        "place": "train.py:31",
        "changed_s": NOW_S - since_s,
    }
    return Track(rank=rank, host="h1", number=number, waiting=waiting, call=call, **(settings | others))


def found(*tracks):
    finding = judge(tracks, NOW_S, LIMIT_S)
    return None if finding is None else (finding.kind, finding.ranks)


def test_one_that_is_not_there_is_accused_when_another_has_waited_long_enough():
    waits = track(0, waiting=True, since_s=61)
    assert found(waits, track(1, since_s=61, active_s=NOW_S - 61)) == ("never arrived", (1,))
    assert found(waits, track(1, since_s=61)) == ("never arrived", (1,))  # an infinite loop
    assert found(track(0, waiting=True, since_s=59), track(1, since_s=300)) is None
    assert found(waits, track(1, since_s=61, state="T")) == ("never arrived", (1,))
    text = judge([waits, track(1, since_s=61, line="train.py:40 in load")], NOW_S, LIMIT_S).text
    assert text == (
        "rank 1 on h1 computes after #7 all_reduce(float32[4]) at train.py:31, its Python is at "
        "train.py:40 in load; rank 0 waits for 61 s in #7 all_reduce(float32[4]) at train.py:31"
    )


def test_a_rank_that_computes_as_it_has_before_is_slow_and_no_fault():
    waits = track(0, waiting=True, since_s=61)
    assert found(waits, track(1, since_s=75, longest_s=40)) == ("slow", (1,))
    assert found(waits, track(1, since_s=75, longest_s=20)) == ("never arrived", (1,))
    idle = track(2, since_s=75, longest_s=40, active_s=NOW_S - 70)
    assert found(waits, track(1, since_s=75, longest_s=40), idle) == ("never arrived", (2,))
    assert (
        "1.9 times its longest before"
        in judge([waits, track(1, since_s=75, longest_s=40)], NOW_S, LIMIT_S).text
    )


def test_a_rank_that_compiles_is_waited_for():
    waits = track(0, waiting=True, since_s=61)
    assert found(waits, track(1, since_s=61, compiling=True)) is None
    sleeps = track(1, since_s=61, compiling=True, active_s=NOW_S - 61)  # until another has compiled it
    assert found(waits, sleeps) is None
    assert found(waits, track(1, since_s=61, compiling=True, state="T")) == ("never arrived", (1,))


def test_nobody_waits():
    assert found(track(0, since_s=900), track(1, since_s=900)) is None  # one long step of all
    idle = [track(rank, since_s=61, active_s=NOW_S - 61) for rank in range(2)]
    assert found(*idle) == ("never arrived", (0, 1))
    assert found(idle[0], track(1, since_s=900)) is None
    before = [track(rank, since_s=61, sequence=0, active_s=NOW_S - 61) for rank in range(2)]
    assert found(*before) == ("never arrived", (0, 1))  # both hang before they join a world
    assert found(before[0], track(1, sequence=0, since_s=900)) is None
    assert found(before[0], track(1, sequence=0, changed_s=0.0, active_s=0.0)) is None  # has told nothing yet


def test_all_wait():
    def waits(rank, since_s, **others):
        return track(rank, waiting=True, since_s=since_s, **others)

    assert found(waits(0, 61), waits(1, 1)) is None  # it has just come
    assert found(waits(0, 61), waits(1, 20)) is None  # a large message on a slow network
    assert found(waits(0, 70), waits(1, 61)) == ("stalled", (0, 1))
    assert found(waits(0, 61), waits(1, 6, call="barrier()")) == ("different collective", (0, 1))
    assert found(waits(0, 61), waits(1, 1, call="barrier()")) is None
    assert found(waits(0, 6), waits(1, 20, group="dp")) is None
    text = judge([waits(0, 61), waits(1, 62, call="barrier()", place="x.py:2")], NOW_S, LIMIT_S).text
    assert "rank 0 in #7 all_reduce(float32[4]) at train.py:31; rank 1 in #7 barrier() at x.py:2" in text


def test_one_that_has_ended_cannot_come():
    ended = track(1, code=0, since_s=6, number=6)
    assert found(track(0, waiting=True, since_s=6), ended) == ("never arrived", (1,))
    assert found(track(0, waiting=True, since_s=1), ended) is None
    assert found(track(0, waiting=True, since_s=6, group="dp"), ended) is None  # it may be no part of that
    never = track(1, code=0, since_s=6, sequence=0, call="", number=0)
    text = judge([track(0, waiting=True, since_s=6), never], NOW_S, LIMIT_S).text
    assert text.startswith("rank 1 ended with exit code 0 before dg.comm.init(); rank 0 waits")
    took_part = track(1, code=0, since_s=6)  # and may have left before a slow network has brought it to all
    assert found(track(0, waiting=True, since_s=6), took_part) is None
    assert found(track(0, waiting=True, since_s=61), took_part) == ("never arrived", (1,))
    assert found(track(0, since_s=100), ended) is None
    assert found(ended) is None


def test_a_silent_host_is_cut_off():
    silent = track(1, since_s=61, heard_s=NOW_S - 20)
    assert found(track(0, waiting=True, since_s=61), silent) == ("cut off", (1,))
    assert found(track(0, waiting=True, since_s=30), silent) is None
    assert found(track(0), track(1, heard_s=NOW_S - 61)) == ("cut off", (1,))
    assert found(track(0), track(1, heard_s=NOW_S - 61, code=0)) is None


@given(
    st.lists(
        st.builds(
            lambda waiting, since_s, busy: (waiting, since_s, busy),
            st.booleans(),
            st.floats(0, 59),
            st.booleans(),
        ),
        min_size=1,
        max_size=8,
    )
)
def test_nothing_is_found_before_the_limit(states):
    tracks = [
        track(rank, waiting=waiting, since_s=since_s, active_s=NOW_S - (0 if busy else since_s))
        for rank, (waiting, since_s, busy) in enumerate(states)
    ]
    assert judge(tracks, NOW_S, LIMIT_S) is None


def test_a_track_follows_what_its_rank_tells():
    seen = Track(3, "h1", heard_s=0.0)

    def beat(now_s, sequence, waiting, cpu_s, io_bytes=0):
        text = "barrier()\ndp\ntrain.py:9" if sequence else ""
        seen.take(
            {
                "sequence": sequence,
                "number": 4,
                "waiting": waiting,
                "text": text,
                "step": sequence,
                "compiling": False,
                "heeds": False,
                "cpu_s": cpu_s,
                "io_bytes": io_bytes,
                "state": "S",
            },
            now_s,
        )

    call = "#4 barrier(), group 'dp', at train.py:9"
    beat(1.0, 0, False, 0.5)
    assert (seen.changed_s, seen.active_s, seen.call) == (1.0, 1.0, "")
    beat(2.0, 1, True, 0.5)
    assert (seen.changed_s, seen.active_s, seen.name) == (2.0, 1.0, f"{call}, after step 1")
    beat(3.0, 2, False, 1.5)
    beat(9.0, 2, False, 7.0)
    assert (seen.changed_s, seen.active_s, seen.longest_s) == (3.0, 9.0, 0.0)
    beat(10.0, 3, True, 7.0)
    assert (seen.changed_s, seen.longest_s, seen.heard_s) == (10.0, 7.0, 10.0)
    beat(11.0, 3, True, 7.0, io_bytes=1000)
    assert seen.active_s == 9.0
    beat(12.0, 3, True, 7.0, io_bytes=101_000)  # a checkpoint, a download
    assert seen.active_s == 12.0
    assert hangs.meanwhile([seen, Track(4, "h1", 0.0)]) == f"rank 3 in {call}, after step 3"


STACKS = """Thread 0x00007f01 (most recent call first):
  File "/usr/lib/python3.11/threading.py", line 324 in wait
Current thread 0x00007f02 (most recent call first):
  File "/usr/lib/python3.11/queue.py", line 171 in get
  File "/env/site-packages/distgrad/comm/base.py", line 3 in all_reduce
  File "/home/me/train.py", line 31 in step
  File "/home/me/train.py", line 60 in <module>
  File "/env/distgrad/launch/rank.py", line 223 in _run_script
"""


def test_stacks_show_the_users_line_and_equal_ones_stand_together():
    assert hangs.where(STACKS) == "/home/me/train.py:31 in step"
    assert hangs.where("") == ""
    other = STACKS.replace("0x00007f02", "0x00007abc")
    merged = hangs.merge_stacks({0: STACKS, 1: "", 2: other})
    assert merged.startswith("Stacks of ranks 0 and 2:\nThread (most recent call first):\n")
    assert merged.endswith("line 60 in <module>\nStacks of rank 1:\nno answer")


@pytest.mark.parametrize(
    ("items", "text"), [([], ""), ([1], "1"), ([1, 2], "1 and 2"), ("abc", "a, b and c")]
)
def test_join(items, text):
    assert hangs.join(items) == text
