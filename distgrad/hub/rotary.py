"""Rotary positions: pairs of a head's features turned by angles that grow with the place.

Source: Su et al., arXiv:2104.09864, 2021.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from distgrad.autograd.creation import asarray
from distgrad.autograd.dispatch import operations as ops
from distgrad.autograd.tensor import Tensor
from distgrad.errors import DataError
from distgrad.hub.config import Config

__all__ = ["Rotary", "rotate"]


class Rotary:
    """The angles of a config, ``place · frequency``.

    Args:
        config: says ``rope_parameters``, or ``rope_theta`` and ``rope_scaling`` as older files do.
        head_width: features of a head, even.

    Raises:
        DataError: a kind of scaling that is not computed here, or an odd width.
    """

    def __init__(self, config: Config, head_width: int) -> None:
        config.only("partial_rotary_factor", 1.0)
        if head_width % 2:
            raise DataError(f"hub.load: {config.where}: heads of {head_width} features cannot be turned")
        given = config.values.get("rope_parameters") or config.values.get("rope_scaling") or {}
        if not isinstance(given, dict):
            raise DataError(
                f"hub.load: {config.where}: expected rope_parameters to be an object, got {given!r}"
            )
        settings = Config({"rope_theta": config.values.get("rope_theta"), **given}, config.where)
        settings.only("partial_rotary_factor", 1.0)
        theta = settings.number("rope_theta", 10000.0)
        places = np.arange(0, head_width, 2, dtype=np.float32) / np.float32(head_width)
        plain = (1.0 / np.float32(theta) ** places).astype(np.float32)
        self._frequencies = _scaled(plain, settings, config)

    def turn(self, x: Tensor, past: int = 0, position_ids: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """Cosines and sines for ``x`` of shape ``[n, L, width]``.

        Args:
            x: the places.
            past: the number of the first one.
            position_ids: their numbers, ``[n or 1, L]``; None means past, past+1, ….

        Returns:
            ``[L, head_width]`` each, or with ``position_ids`` ``[n or 1, 1, L, head_width]``.
        """
        places = np.arange(past, past + x.shape[1])
        if position_ids is not None:
            places = position_ids.to("cpu").numpy()[:, None]
        angles = places.astype(np.float32)[..., None] * self._frequencies
        twice = np.concatenate([angles, angles], axis=-1)
        cos, sin = (asarray(f(twice), dtype=x.dtype, device=x.device) for f in (np.cos, np.sin))
        return cos, sin


def _scaled(frequencies: np.ndarray, settings: Config, config: Config) -> np.ndarray:
    """Frequencies as a model for longer texts has them."""
    kind = settings.values.get("rope_type", settings.values.get("type", "default"))
    if kind == "default":
        return frequencies
    if kind == "linear":
        return frequencies / np.float32(settings.number("factor"))
    if kind == "llama3":
        return _llama3(frequencies, settings, config)
    raise DataError(
        f"hub.load: {config.where}: rope_type is {kind!r}; distgrad.hub computes 'default', 'linear' and "
        "'llama3'"
    )


def _llama3(frequencies: np.ndarray, settings: Config, config: Config) -> np.ndarray:
    """Low frequencies divided by the factor, high ones kept, those between a mixture."""
    factor = settings.number("factor")
    low, high = settings.number("low_freq_factor"), settings.number("high_freq_factor")
    longest = config.count("max_position_embeddings", 2048)
    waves = settings.count("original_max_position_embeddings", longest) * frequencies / (2 * math.pi)
    share = np.clip((waves - low) / (high - low), 0.0, 1.0)
    return ((1 - share) * frequencies / factor + share * frequencies).astype(np.float32)


def rotate(x: Tensor, cos: Any, sin: Any) -> Tensor:
    """Turn the pairs (i, i + E/2) of features.

    Args:
        x: ``[n, H, L, E]``.
        cos, sin: of the angles, ``[L, E]`` or ``[n, 1, L, E]``.
    """
    half = x.shape[-1] // 2
    return x * cos + ops.concat([-x[..., half:], x[..., :half]], axis=-1) * sin
