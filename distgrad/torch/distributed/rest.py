"""What ``torch.distributed`` has beside its functions: its submodules, and errors for what is not there."""

from __future__ import annotations

from typing import Any

from distgrad.torch.answers import missing, open_subrooms

__all__ = ["explain_name"]


def explain_name(name: str) -> Any:
    """Raise the error for a name that is not there, with the way, where there is one."""
    raise missing("torch.distributed", name)


open_subrooms("distgrad.torch.distributed")
