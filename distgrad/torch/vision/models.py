"""No models: weights and layers of torchvision's networks are not here."""

from __future__ import annotations

from typing import Any

__all__: list[str] = []


def __getattr__(name: str) -> Any:
    raise AttributeError(
        f"distgrad has no torchvision.models.{name}; write the network with torch.nn, whose state dicts load"
    )
