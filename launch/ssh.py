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

from . import rank as rank_file

__all__ = ["DEFAULT", "check_hosts"]

DEFAULT = "ssh -o BatchMode=yes -o ConnectTimeout=10"  # nobody is there to type a password
_TIMEOUT_S = 40.0
_PROBE = """
import json, os, sys
from importlib.util import find_spec
missing = [path for path in sys.argv[1:] if not os.path.exists(path)]
parts = ("numpy.linalg", "mpi4py.MPI")
lacks = [part.split(".")[0] for part in parts if not find_spec(part.split(".")[0]) or not find_spec(part)]
print(json.dumps({"missing": missing, "lacks": lacks, "version": list(sys.version_info[:2])}))
"""
_REASONS = (  # what ssh(1) says, and what to do
    ("Permission denied", "it refused the key; put your public key there (ssh-copy-id {host})"),
    ("Host key verification failed", "its host key is not known or has changed; see it with: ssh {host}"),
    ("Could not resolve hostname", "the name does not resolve; correct it, or add it to /etc/hosts"),
    ("Connection refused", "no ssh server listens there; start sshd"),
    ("timed out", "it does not answer; look at the network and whether it is up"),
    ("No route to host", "no route leads there; look at the network and whether it is up"),
)


def check_hosts(names: Sequence[str], ssh: str, paths: Sequence[str]) -> None:
    """Look at all hosts at once.

    Args:
        names: the hosts, without this one.
        ssh: the command that reaches them.
        paths: files and folders that must be there under the same path as here.

    Raises:
        LaunchError: a host cannot be used; the message has a line for each.
    """
    with ThreadPoolExecutor(max_workers=32) as pool:
        problems = list(pool.map(lambda name: _problem(name, ssh, paths), names))
    lines = [
        f"launch: host {name}: {problem}" for name, problem in zip(names, problems, strict=True) if problem
    ]
    if lines:
        raise LaunchError("\n".join(lines))


def _problem(host: str, ssh: str, paths: Sequence[str]) -> str:
    """Why a host cannot be used; empty if it can."""
    command = shlex.join([sys.executable, "-c", _PROBE, *paths])
    try:
        done = subprocess.run(
            [*shlex.split(ssh), host, command],
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=_TIMEOUT_S,
            check=False,
        )
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
                return reason.format(host=host) + quoted
        return f"ssh could not reach it{quoted}"
    if done.returncode in (126, 127):
        return f"it has no Python at {sys.executable}; make the same environment there, at the same path"
    try:
        found = json.loads(done.stdout.splitlines()[-1])
    except (ValueError, IndexError):
        return f"Python cannot run there, exit code {done.returncode}{quoted}"
    return _lacks(found)


def _lacks(found: dict[str, object]) -> str:
    """What a host that runs Python lacks."""
    version = list(sys.version_info[:2])
    if found["version"] != version:
        return f"its {sys.executable} is Python {found['version']}, here it is {version}; use one version"
    missing = found["missing"]
    if rank_file.__file__ in (missing if isinstance(missing, list) else []):
        folder = Path(rank_file.__file__).parent
        return (
            f"it has no distgrad in {folder}; install the package there, in an environment at the same path"
        )
    if missing:
        return f"it has no {missing}; share the folder, or copy it to the same path"
    if found["lacks"]:
        return f'its Python lacks {found["lacks"]}; run there: pip install "distgrad[mpi]"'
    return ""
