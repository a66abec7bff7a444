"""What the driver's own tool, nvidia-smi, says of a machine's GPUs, and what NCCL is set to."""

from __future__ import annotations

import re
import subprocess
from collections.abc import Mapping
from pathlib import Path

__all__ = ["advise", "instances", "links", "nccl_variables"]

_TIMEOUT_S = 20.0
_FILES = ("/etc/nccl.conf", "~/.nccl.conf")  # which NCCL reads beside the environment, that goes before them
_SLOWS = {
    "NCCL_P2P_DISABLE": "keeps GPUs of a host from sending to each other",
    "NCCL_SHM_DISABLE": "keeps GPUs of a host from meeting in memory",
    "NCCL_IB_DISABLE": "keeps NCCL from InfiniBand and RoCE",
}


def _ask(*arguments: str) -> list[str]:
    """The lines that nvidia-smi prints, without colours; none where it is missing or fails."""
    try:
        done = subprocess.run(
            ["nvidia-smi", *arguments], capture_output=True, text=True, timeout=_TIMEOUT_S, check=False,
            stdin=subprocess.DEVNULL,
        )  # fmt: skip
    except (OSError, subprocess.TimeoutExpired):
        return []
    return re.sub(r"\x1b\[[\d;]*m", "", done.stdout).splitlines() if done.returncode == 0 else []


def instances() -> dict[str, str]:
    """The instances of every divided GPU (MIG), by the GPU: ``{"GPU 0": "3g.20gb, 3g.20gb"}``."""
    found: dict[str, list[str]] = {}
    gpu = ""
    for line in _ask("-L"):
        if whole := re.match(r"GPU (\d+):", line):
            gpu = f"GPU {whole[1]}"
        elif part := re.match(r"\s+MIG (\S+)", line):
            found.setdefault(gpu, []).append(part[1])
    return {gpu: ", ".join(parts) for gpu, parts in found.items()}


def links() -> dict[str, str]:
    """How GPUs and network cards reach each other, by the row of ``nvidia-smi topo -m``.

    NV# are so many NVLinks, PIX and PXB bridges of PCIe, NODE and SYS the way through processors.
    """
    rows: dict[str, str] = {}
    for line in _ask("topo", "-m"):
        cells = [cell.strip() for cell in line.split("\t")]
        if not line.strip():
            if rows:
                break
        elif re.match(r"(GPU|NIC)\d+$", cells[0]) and rows:
            rows[cells[0]] = " ".join(filter(None, cells[1:]))
        elif not rows:
            rows["links"] = " ".join(filter(None, cells))
    return rows


def nccl_variables(variables: Mapping[str, str], files: tuple[str, ...] = _FILES) -> dict[str, str]:
    """NCCL's settings by name, of the environment and of its files, with the file behind the value."""
    found: dict[str, str] = {}
    for file in files:
        try:
            text = Path(file).expanduser().read_text(errors="replace")
        except (OSError, RuntimeError):  # no file, or no home
            continue
        for name, value in re.findall(r"^\s*(NCCL_\w+)\s*=\s*(.*?)\s*$", text, re.MULTILINE):
            found[name] = f"{value} ({file})"
    return found | {name: value for name, value in variables.items() if name.startswith("NCCL_")}


def advise(visible: str | None, divided: Mapping[str, str], settings: Mapping[str, str]) -> list[str]:
    """What of this keeps ranks from GPUs, or slows them.

    Args:
        visible: CUDA_VISIBLE_DEVICES; None where it is not set.
        divided: as :func:`instances` has them.
        settings: as :func:`nccl_variables` has them.
    """
    entries = [entry.strip() for entry in (visible or "").split(",")]
    advice = []
    if visible is not None and (not entries[0] or entries[0].startswith("-")):
        advice.append(f"CUDA_VISIBLE_DEVICES={visible!r} hides every GPU; unset it")
    elif len(set(entries)) < len(entries):
        advice.append(f"CUDA_VISIBLE_DEVICES={visible!r} names a GPU twice, and CUDA shows none then")
    if sum(entry.startswith("MIG-") for entry in entries) > 1:
        advice.append(
            f"CUDA_VISIBLE_DEVICES={visible!r} names several instances (MIG), of which a process sees the "
            "first alone; give each rank its own"
        )
    if divided:
        advice.append(
            f"{', '.join(divided)}: divided into instances (MIG), which have no links to each other; for "
            "ranks that train together undivided GPUs are needed: nvidia-smi -mig 0"
        )
    for name, what in _SLOWS.items():
        if settings.get(name, "0").split(" ")[0] not in ("", "0"):
            advice.append(f"{name}={settings[name]} {what}; unset it unless it works around something")
    return advice
