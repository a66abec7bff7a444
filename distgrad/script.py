"""What scripts share that run on a CPU or on GPUs: the option ``--device``, and joining the other ranks.

::

    parser = argparse.ArgumentParser()
    script.add_device_option(parser)
    args = parser.parse_args()
    comm, device = script.join(args.device)
    model = DistributedDataParallel(build_model().to(device))
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import NoReturn

from distgrad.backend.device import Device, find_backend, parse_device
from distgrad.comm.base import Communicator
from distgrad.comm.registry import init
from distgrad.errors import DeviceError, DistgradError, MissingDependencyError

__all__ = ["add_device_option", "find_device", "join", "synchronize"]


def add_device_option(parser: argparse.ArgumentParser) -> None:
    """Let a script take ``--device``, which is ``cpu`` unless said otherwise."""
    parser.add_argument(
        "--device", default="cpu", metavar="cpu|cuda", help="where to compute; cuda is each rank's own GPU"
    )


def _end(error: DistgradError) -> NoReturn:
    raise SystemExit(f"{Path(sys.argv[0]).stem}: {error}") from None


def find_device(device: str) -> Device:
    """The device of a script that has no other ranks.

    Args:
        device: what ``--device`` was given.

    Raises:
        SystemExit: there is no such device; with one line that says what to do.
    """
    try:
        found = parse_device(device)
    except DeviceError as error:
        _end(error)
    find_backend(found.kind).set_index(found.index)
    return found


def join(device: str, backend: str | None = None) -> tuple[Communicator, Device]:
    """Join the ranks that were started together; their communicator, and this rank's device.

    The communicator takes host arrays; ``DistributedDataParallel`` finds that of a GPU's by itself.

    Collective: yes; blocks: yes.

    Args:
        device: what ``--device`` was given.
        backend: of ``comm.init``; None finds out, and is ``nccl`` on GPUs.

    Raises:
        SystemExit: there is no such device, or no NCCL for GPUs; with one line that says what to do.
    """
    try:
        comm = init(backend, device=device)
        return comm.host, parse_device(device)
    except (DeviceError, MissingDependencyError) as error:
        _end(error)


def synchronize(device: Device) -> None:
    """Wait for all work of a device, before a clock is read; on a CPU nothing waits."""
    find_backend(device.kind).synchronize(device.index)
