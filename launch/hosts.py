"""Which machines a job may use, out of the command line, host files and the network's names."""

from __future__ import annotations

import os
import re
import shlex
import socket
import subprocess
from collections.abc import Callable, Iterable
from pathlib import Path

from distgrad.errors import LaunchError

from . import commands
from .plan import Host

__all__ = ["is_local", "job_address", "parse_hosts", "read_hostfile", "select", "source"]

_ENTRY = re.compile(r"^(\w[\w.-]*)(?::(\d{1,9}))?$")
_SLOTS = re.compile(r"^slots=(\d{1,9})$", re.IGNORECASE)
_MAX_QUOTED = 60  # characters of a line that is none
_COMMAND_TIMEOUT_S = 30.0
_DISCARD_PORT = 9  # a UDP socket connected to it sends nothing; it only asks the routing table


def parse_hosts(text: str) -> list[Host]:
    """Hosts as ``a:4,b:4`` names them; a name without a number has one slot, and a repeated one adds up.

    Raises:
        LaunchError: an entry is not ``name`` or ``name:slots``.
    """
    entries = []
    for entry in text.split(","):
        match = _ENTRY.match(entry.strip())
        if match is None:
            raise LaunchError(f"launch: --hosts must be like a:4,b:4, got {entry!r} in {text!r}")
        entries.append(Host(match[1], int(match[2] or 1)))
    return _merge(entries)


def read_hostfile(path: Path) -> list[Host]:
    """Hosts out of a file with one a line.

    ``name slots=4`` (Open MPI, Horovod), ``name:4`` (MPICH) and ``name`` alone; a name that stands on several
    lines has the sum of their slots, as in the node file of a PBS job. Other words after the name, such as
    ``max_slots=8``, are for other programs.

    Raises:
        LaunchError: there is no such file, no host in it, or a line that is none of these.
    """
    try:
        text = path.read_text(errors="replace")
    except OSError as error:
        raise LaunchError(f"launch: the host file cannot be read: {error}") from error
    found = _parse_lines(text, str(path))
    if not found:
        raise LaunchError(
            f"launch: the host file {path} names no host; write one a line, like 'name slots=4'"
        )
    return found


def source(text: str) -> Callable[[], list[Host]]:
    """What tells the hosts that there are now: a file as :func:`read_hostfile` reads it, or a command that
    writes the same, with its arguments; none at all is no error here.

    Raises:
        LaunchError: neither a file nor a command that there is; the function that is returned raises it for
            a file that cannot be read, a command that fails, and a line that names no host.
    """
    path = Path(text)
    if path.is_file() and not os.access(path, os.X_OK):
        return lambda: _parse_lines(_read(path), text)
    try:
        command = shlex.split(text)
    except ValueError as error:
        raise LaunchError(f"launch: --hosts-from {text!r}: {error}") from error
    if not command:
        raise LaunchError("launch: --hosts-from must name a file or a command, got nothing")
    return lambda: _parse_lines(_output(command), text)


def _read(path: Path) -> str:
    try:
        return path.read_text(errors="replace")
    except OSError as error:
        raise LaunchError(f"launch: --hosts-from: {error}") from error


def _output(command: list[str]) -> str:
    """What a command writes."""
    words = shlex.join(command)
    try:
        done = commands.run(command, _COMMAND_TIMEOUT_S)
    except subprocess.TimeoutExpired:
        raise LaunchError(
            f"launch: --hosts-from: {words} did not end within {_COMMAND_TIMEOUT_S:g} s"
        ) from None
    except OSError as error:
        raise LaunchError(
            f"launch: --hosts-from: {words} is no file, and cannot be run: {error.strerror}"
        ) from error
    if done.returncode:
        said = (done.stderr.strip() or done.stdout.strip()).splitlines()
        quoted = f": {said[-1]}" if said else ""
        raise LaunchError(f"launch: --hosts-from: {words} exited {done.returncode}{quoted}")
    return done.stdout


def _parse_lines(text: str, where: str) -> list[Host]:
    """Hosts out of lines, of what is called ``where``."""
    entries = []
    for number, line in enumerate(text.splitlines(), 1):
        name, *words = line.partition("#")[0].split() or [""]
        match = _ENTRY.match(name)
        given = [word for word in words if word.lower().startswith("slots=")]
        slots = [int(found[1]) for word in given if (found := _SLOTS.match(word))]
        is_odd = len(given) > 1 or len(slots) < len(given) or any("=" not in word for word in words)
        if name and (match is None or is_odd):
            raise LaunchError(
                f"launch: {where}, line {number}: expected 'name slots=4', 'name:4' or 'name', got "
                f"{line[:_MAX_QUOTED]!r}"
            )
        if match is not None:
            entries.append(Host(match[1], slots[0] if slots else int(match[2] or 1)))
    return _merge(entries)


def _merge(entries: Iterable[Host]) -> list[Host]:
    slots: dict[str, int] = {}
    for host in entries:
        slots[host.name] = slots.get(host.name, 0) + host.slots
    return [Host(name, number) for name, number in slots.items()]


def select(hosts: list[Host], num_nodes: int | None, per_node: int | None) -> list[Host]:
    """The first ``num_nodes`` of the hosts, with ``per_node`` slots each; None leaves them as they are.

    Raises:
        LaunchError: there are not that many hosts.
    """
    if num_nodes is not None and num_nodes > len(hosts):
        names = ", ".join(host.name for host in hosts)
        raise LaunchError(
            f"launch: --nnodes {num_nodes} was asked for, but the only hosts known are {names}; "
            "name the others with --hosts or --hostfile, or run inside a Slurm allocation"
        )
    return [Host(host.name, host.slots if per_node is None else per_node) for host in hosts[:num_nodes]]


def is_local(name: str, must_resolve: bool = True) -> bool:
    """Whether a name is this machine's.

    Args:
        name: of a host.
        must_resolve: whether a name that does not is an error, or only not this machine's.

    Raises:
        LaunchError: the name does not resolve.
    """
    if name in ("localhost", socket.gethostname()):
        return True
    try:
        found = socket.getaddrinfo(name, None, type=socket.SOCK_STREAM)
    except (OSError, UnicodeError) as error:  # no name of the network's has an empty part, or a long one
        if not must_resolve:
            return False
        why = error.strerror if isinstance(error, OSError) else error
        raise LaunchError(
            f"launch: host {name}: the name does not resolve ({why}); correct it, or add it to /etc/hosts"
        ) from error
    for family, kind, protocol, _, address in found:
        with socket.socket(family, kind, protocol) as probe:
            try:
                probe.bind((address[0], 0))
            except OSError:  # an address of another machine
                continue
            return True
    return False


def job_address(remote: str) -> str:
    """This machine's address on the network that leads to the host ``remote``.

    Raises:
        LaunchError: no network leads there.
    """
    family, kind, _, _, address = socket.getaddrinfo(remote, _DISCARD_PORT, type=socket.SOCK_DGRAM)[0]
    with socket.socket(family, kind) as probe:
        try:
            probe.connect(address)
        except OSError as error:
            raise LaunchError(
                f"launch: host {remote} ({address[0]}): no network leads there ({error.strerror}); look at "
                "this machine's routes"
            ) from error
        return str(probe.getsockname()[0])
