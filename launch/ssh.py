"""See before the start that every other host can be reached and has what a rank needs."""

from __future__ import annotations

import json
import shlex
import subprocess
import sys
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from distgrad.errors import LaunchError

from . import commands, gpus
from .entry import __file__ as entry_file
from .plan import Host

__all__ = ["DEFAULT", "check_hosts", "problems"]

DEFAULT = "ssh -o BatchMode=yes -o ConnectTimeout=10"  # nobody is there to type a password
_TIMEOUT_S = 40.0
_PROBE = """
import glob, json, os, sys
from importlib.util import find_spec
parts, files, *paths = sys.argv[1:]
missing = [path for path in paths if not os.path.exists(path)]
lacks = [p.split(".")[0] for p in parts.split() if not find_spec(p.split(".")[0]) or not find_spec(p)]
found = {"missing": missing, "lacks": lacks, "version": list(sys.version_info[:2])}
print(json.dumps(found | {"gpus": len(glob.glob(files))}))
"""
_REASONS = (  # what ssh(1) says, and what to do
    ("Permission denied", "it refused the key; put your public key there (ssh-copy-id {host})"),
    ("Host key verification failed", "its host key is not known or has changed; see it with: ssh {host}"),
    ("Could not resolve hostname", "the name does not resolve; correct it, or add it to /etc/hosts"),
    ("Connection refused", "no ssh server listens there; start sshd"),
    ("timed out", "it does not answer; look at the network and whether it is up"),
    ("No route to host", "no route leads there; look at the network and whether it is up"),
)


def check_hosts(hosts: Sequence[Host], ssh: str, paths: Sequence[str], on_gpus: bool = False) -> None:
    """Look at all hosts at once.

    Args:
        hosts: the hosts, without this one, each with as many slots as ranks run there.
        ssh: the command that reaches them.
        paths: files and folders that must be there under the same path as here.
        on_gpus: whether each rank needs CuPy and a GPU of its own.

    Raises:
        LaunchError: a host cannot be used; the message has a line for each.
    """
    found = problems(hosts, ssh, paths, on_gpus)
    if found:
        raise LaunchError("\n".join(f"launch: host {name}: {problem}" for name, problem in found.items()))


def problems(hosts: Sequence[Host], ssh: str, paths: Sequence[str], on_gpus: bool = False) -> dict[str, str]:
    """Why hosts cannot be used, by their names; see :func:`check_hosts`."""
    if not hosts:
        return {}
    with ThreadPoolExecutor(max_workers=32) as pool:
        found = list(pool.map(lambda host: _problem(host, ssh, paths, on_gpus), hosts))
    return {host.name: problem for host, problem in zip(hosts, found, strict=True) if problem}


def _problem(host: Host, ssh: str, paths: Sequence[str], on_gpus: bool) -> str:
    """Why a host cannot be used; empty if it can."""
    parts = "numpy.linalg mpi4py.MPI" + " cupy" * on_gpus
    command = shlex.join([sys.executable, "-c", _PROBE, parts, gpus.FILES, *paths])
    try:
        done = commands.run([*shlex.split(ssh), host.name, command], _TIMEOUT_S)
    except subprocess.TimeoutExpired:
        return f"it did not answer within {_TIMEOUT_S:g} s; look at the network and whether it is up"
    except OSError as error:
        return (
            f"the program that reaches other hosts cannot be run ({error}); install ssh, or name it by --ssh"
        )
    said = (done.stderr.strip() or done.stdout.strip()).splitlines()
    quoted = f" (it said: {said[-1]})" if said else ""
    if done.returncode == 255:
        for words, reason in _REASONS:
            if words in done.stderr:
                return reason.format(host=host.name) + quoted
        return f"ssh could not reach it{quoted}"
    if done.returncode in (126, 127):
        return f"it has no Python at {sys.executable}; make the same environment there, at the same path"
    try:
        found = json.loads(done.stdout.splitlines()[-1])
    except (ValueError, IndexError):
        return f"Python cannot run there, exit code {done.returncode}{quoted}"
    return _lacks(found) or (gpus.shortage(found["gpus"], host.slots) if on_gpus else "")


def _lacks(found: dict[str, object]) -> str:
    """What a host that runs Python lacks."""
    version = list(sys.version_info[:2])
    if found["version"] != version:
        return f"its {sys.executable} is Python {found['version']}, here it is {version}; use one version"
    missing = found["missing"]
    if entry_file in (missing if isinstance(missing, list) else []):
        folder = Path(entry_file).parent
        return (
            f"it has no distgrad in {folder}; install the package there, in an environment at the same path"
        )
    if missing:
        return f"it has no {missing}; share the folder, or copy it to the same path"
    if found["lacks"]:
        extras = "mpi,cuda13" if "cupy" in str(found["lacks"]) else "mpi"
        return f'its Python lacks {found["lacks"]}; run there: pip install "distgrad[{extras}]"'
    return ""
