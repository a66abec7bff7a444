"""Which of several failures a job is said to have ended for; its ranks are played, each word when due."""

import json
import sys
import threading

import pytest
from distgrad.launch.frames import Frame, pack
from distgrad.launch.job import Options
from distgrad.launch.logs import Console
from distgrad.launch.plan import Host, place
from distgrad.launch.start import Starter

from distgrad.launch import rank, supervise

LIMIT_S = 60.0
STANDS = {
    "sequence": 1, "number": 1, "waiting": False, "text": "", "step": 3, "compiling": False, "cpu_s": 0.0,
    "io_bytes": 0, "state": "R", "heeds": False,
}  # fmt: skip
LOST = "Traceback (most recent call last):\n  lost\ndistgrad.errors.RankFailedError: of rank {}\n"
CAUSE = "Traceback (most recent call last):\n  cause\nValueError: odd\n"


class Played:
    """A rank without a process, whose words the launcher has heard when :meth:`say` returns."""

    def __init__(self, number):
        self.line, self._reader, _ = rank._connect(number)

    def say(self, kind, **payload):
        self.line.sendall(pack(kind, payload) + pack(Frame.PROGRESS, STANDS))
        while not any(kind is Frame.TAKEN for kind, _ in self._reader.feed(self.line.recv(1 << 16))):
            pass

    def fail(self, traceback):
        self.say(Frame.FAILED, code=1, traceback=traceback)

    def end(self):
        self.line.sendall(pack(Frame.ENDED, {"status": 256}))
        self.line.close()


@pytest.fixture
def play(monkeypatch, capfdbinary):
    """Run a job whose ranks a function plays, given the three of them; returns the verdict."""
    monkeypatch.setattr(supervise, "LONGEST_CONSEQUENCE_S", LIMIT_S)
    threads = []

    def run(act):
        def start(variables):
            for name in ("DISTGRAD_SUPERVISOR", "DISTGRAD_JOB_SECRET"):
                monkeypatch.setenv(name, variables[name])
            threads.append(threading.Thread(target=lambda: act([Played(each) for each in range(3)])))
            threads[0].start()
            return Starter(("sleep", "1000"), variables)

        specs = place([Host("here", 3)], 3)
        console = Console(sys.stdout.buffer, sys.stderr.buffer, 3)
        supervisor = supervise.Supervisor(specs, start, {}, console, Options(hang_after_s=LIMIT_S))
        supervisor.run()
        threads[0].join(LIMIT_S)
        assert not threads[0].is_alive()
        assert console.flush(LIMIT_S)
        return supervisor.verdict

    return run


@pytest.mark.parametrize("order", [(2, 1), (1, 2)])
def test_a_failure_is_the_cause_also_behind_those_of_ranks_that_lost_it(play, monkeypatch, order):
    monkeypatch.setattr(supervise, "CONSEQUENCE_S", LIMIT_S)

    def act(ranks):
        for number in order:
            ranks[number].fail(LOST.format(0))
            if number == order[0]:
                ranks[number].end()
        ranks[0].fail(CAUSE)
        for number in range(3):
            if number != order[0]:
                ranks[number].end()

    verdict = play(act)
    assert verdict.text.startswith("launch: rank 0 on ")
    assert (verdict.code, verdict.traceback, verdict.hosts) == (1, CAUSE, ("here",))
    assert "; stopped 2 other ranks" in verdict.text  # of which one has ended before
    assert [track.rank for track in verdict.others] == [1, 2]


def test_without_a_cause_the_first_that_lost_another_is_named(play, monkeypatch):
    monkeypatch.setattr(supervise, "CONSEQUENCE_S", LIMIT_S)

    def act(ranks):
        for number in (2, 0, 1):
            ranks[number].fail(LOST.format(number))
        for number in (1, 0, 2):
            ranks[number].end()

    assert play(act).traceback == LOST.format(2)


def test_a_rank_that_was_heard_of_since_is_waited_for_no_longer(play, monkeypatch):
    monkeypatch.setattr(supervise, "CONSEQUENCE_S", 0.01)
    asked = threading.Event()

    def act(ranks):
        ranks[2].fail(LOST.format(2))
        for each in (ranks[0], ranks[1]):
            each.say(Frame.PROGRESS, **STANDS)
        while not any(  # asked to end, as those are whom a failure stops
            kind is Frame.SIGNAL and json.loads(body)["number"] == 15
            for kind, body in ranks[0]._reader.feed(ranks[0].line.recv(1 << 16))
        ):
            pass
        asked.set()
        for each in ranks:
            each.end()

    assert play(act).traceback == LOST.format(2)
    assert asked.is_set()
