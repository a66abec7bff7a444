"""The agents of a job's hosts, which hold what its ranks mirror in memory from one attempt to the next."""

from __future__ import annotations

import contextlib
import os
import secrets
import shlex
import subprocess
import sys
import threading
from collections.abc import Callable, Mapping, Sequence

from .agent import BEAT_S
from .agent import __file__ as agent_file

__all__ = ["Agents"]

_END_S = 2.0  # for an agent to end by itself


class Agents:
    """Starts an agent on each host that a job uses, and ends them with the job.

    Args:
        reach: the command that runs another on a host; empty for this one.
        given: the variables that the agents are started with.
    """

    def __init__(self, reach: Callable[[str], Sequence[str]], given: Mapping[str, str]) -> None:
        self._reach, self._given = reach, given
        self._name = secrets.token_hex(8)
        self._agents: dict[str, subprocess.Popen[bytes]] = {}  # by host
        self._ended = threading.Event()
        self._beats = threading.Thread(target=self._beat, name="launch memory", daemon=True)

    @property
    def variables(self) -> dict[str, str]:
        """How ranks find the agent of their host."""
        return {"DISTGRAD_MEMORY": self._name}

    def start(self, hosts: Sequence[str]) -> None:
        """Have an agent on each of these hosts; nobody waits until it is there."""
        commands = {tuple(self._reach(host)): host for host in hosts}  # this host may have several names
        for prefix, host in commands.items():
            before = self._agents.get(host)
            if before is not None and before.poll() is None:
                continue
            if before is not None:
                _end(before)
            command = [sys.executable, agent_file, self._name]
            self._agents[host] = subprocess.Popen(
                [*prefix, shlex.join(command)] if prefix else command,
                env=dict(self._given),
                stdin=subprocess.PIPE,
                stdout=subprocess.DEVNULL,
                stderr=subprocess.DEVNULL,
                start_new_session=True,  # a terminal's Ctrl-C is the launcher's
            )
            os.set_blocking(_pipe(self._agents[host]), False)
        if not self._beats.is_alive():
            self._beats.start()

    def close(self) -> None:
        """End all agents, and what they hold."""
        self._ended.set()
        for agent in self._agents.values():
            if agent.stdin is not None:
                agent.stdin.close()
        for agent in self._agents.values():
            _end(agent)

    def _beat(self) -> None:
        """Tell the agents now and then that the launcher is there."""
        while not self._ended.wait(BEAT_S):
            for agent in list(self._agents.values()):
                with contextlib.suppress(OSError, ValueError):  # it has gone, or takes no more
                    os.write(_pipe(agent), b".")


def _pipe(agent: subprocess.Popen[bytes]) -> int:
    if agent.stdin is None:
        raise ValueError("launch: an agent without a pipe")
    return agent.stdin.fileno()


def _end(agent: subprocess.Popen[bytes]) -> None:
    """End an agent, which may have by itself."""
    if agent.stdin is not None:
        with contextlib.suppress(OSError):
            agent.stdin.close()
    try:
        agent.wait(_END_S)
    except subprocess.TimeoutExpired:
        agent.kill()
        agent.wait()
