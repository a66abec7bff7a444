"""Devices: where an array lives."""

from __future__ import annotations

import re
from dataclasses import dataclass

from distgrad.errors import DeviceError

__all__ = ["CPU", "Device", "check_device"]

_FORM = re.compile(r"(cpu|cuda)(?::(\d+))?")


@dataclass(frozen=True)
class Device:
    """A place for arrays: the host's memory, or the memory of one GPU.

    Args:
        kind: ``"cpu"`` or ``"cuda"``.
        index: the GPU's number on this host; 0 for the CPU.
    """

    kind: str
    index: int = 0

    @staticmethod
    def parse(device: Device | str) -> Device:
        """Turn ``"cpu"``, ``"cuda"`` or ``"cuda:1"`` into a Device.

        Raises:
            DeviceError: a text of another form.
        """
        if isinstance(device, Device):
            return device
        match = _FORM.fullmatch(device) if isinstance(device, str) else None
        if match is None or (match[1] == "cpu" and match[2] not in (None, "0")):
            raise DeviceError(f"device: expected 'cpu', 'cuda' or 'cuda:N', got {device!r}")
        return Device(match[1], int(match[2] or 0))

    def __str__(self) -> str:
        return self.kind if self.kind == "cpu" else f"{self.kind}:{self.index}"

    def __repr__(self) -> str:
        return f"device({str(self)!r})"

    def __eq__(self, other: object) -> bool:
        if isinstance(other, str):
            try:
                other = Device.parse(other)
            except DeviceError:
                return False
        return isinstance(other, Device) and (self.kind, self.index) == (other.kind, other.index)

    def __hash__(self) -> int:
        return hash((self.kind, self.index))


CPU = Device("cpu")


def check_device(device: Device | str | None) -> None:
    """Accept None and the devices that there are.

    Raises:
        DeviceError: another device.
    """
    if device is not None and Device.parse(device) != CPU:
        raise DeviceError(
            f"device {device!r}: this build computes on the CPU only; leave device out or pass 'cpu'"
        )
