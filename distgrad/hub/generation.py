"""Texts that a decoder goes on with, token by token."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from distgrad.autograd.creation import asarray
from distgrad.autograd.dispatch import operations as ops
from distgrad.autograd.modes import no_grad
from distgrad.autograd.random import multinomial
from distgrad.autograd.tensor import Tensor
from distgrad.backend.rng import Generator
from distgrad.errors import OptionError, ShapeError

__all__ = ["Cache", "LayerCache", "Sampling", "generate"]


class LayerCache:
    """Keys and values of the places that one layer has seen, ``[n, H, S, E]`` each; None before the first."""

    def __init__(self) -> None:
        self.key: Any = None
        self.value: Any = None

    def extend(self, key: Tensor, value: Tensor) -> tuple[Tensor, Tensor]:
        """Add those of new places, and return all."""
        if self.key is not None:
            key, value = ops.concat([self.key, key], axis=2), ops.concat([self.value, value], axis=2)
        self.key, self.value = key, value
        return key, value


class Cache:
    """What a decoder keeps of the places it has seen, so that each is computed once.

    Args:
        num_layers: of the decoder.
    """

    def __init__(self, num_layers: int) -> None:
        self.layers = [LayerCache() for _ in range(num_layers)]

    @property
    def length(self) -> int:
        """How many places it holds."""
        key = self.layers[0].key if self.layers else None
        return 0 if key is None else int(key.shape[2])


class Sampling:
    """How a token is drawn from logits.

    Args:
        temperature: what logits are divided by, above 0: below 1 likely tokens gain, above 1 unlikely ones.
        top_k: only that many likeliest tokens are drawn; None means all.
        top_p: only the fewest likeliest tokens whose probabilities sum to this are drawn, in (0, 1].
        generator: of the random numbers; None means the one that ``dg.manual_seed`` seeds.

    Raises:
        OptionError: a number outside its range.

    Source: top-k: Fan et al., ACL 2018; top-p: Holtzman et al., ICLR 2020.
    """

    def __init__(
        self, temperature: float, top_k: int | None, top_p: float, generator: Generator | None
    ) -> None:
        if not 0 < temperature < np.inf or not 0 < top_p <= 1 or (top_k is not None and top_k < 1):
            raise OptionError(
                "generate: expected temperature above 0, top_k from 1 (None: all tokens) and top_p in "
                f"(0, 1], got {temperature}, {top_k} and {top_p}"
            )
        self.temperature, self.top_k, self.top_p, self.generator = temperature, top_k, top_p, generator

    def probabilities(self, logits: np.ndarray) -> np.ndarray:
        """Logits ``[n, vocab_size]`` to the probabilities that tokens are drawn with, float64."""
        scores = logits.astype(np.float64) / self.temperature
        if self.top_k is not None and self.top_k < scores.shape[1]:
            least = np.partition(scores, -self.top_k, axis=1)[:, -self.top_k, None]
            scores = np.where(scores < least, -np.inf, scores)
        weights = np.exp(scores - scores.max(axis=1, keepdims=True))
        weights /= weights.sum(axis=1, keepdims=True)
        if self.top_p < 1:
            order = np.argsort(-weights, axis=1, kind="stable")
            falling = np.take_along_axis(weights, order, axis=1)
            before = np.cumsum(falling, axis=1) - falling
            kept = np.where(before < self.top_p, falling, 0.0)
            np.put_along_axis(weights, order, kept, axis=1)
            weights /= weights.sum(axis=1, keepdims=True)
        return weights

    def draw(self, logits: np.ndarray) -> np.ndarray:
        """One token for each row of logits."""
        return multinomial(self.probabilities(logits), 1, generator=self.generator).numpy()[:, 0]


@no_grad()
def generate(
    model: Any,
    input_ids: Any,
    attention_mask: Any,
    max_new_tokens: int,
    sampling: Sampling | None,
    eos: Sequence[int],
    pad: int | None,
    use_cache: bool,
) -> Tensor:
    """What :meth:`distgrad.hub.Decoder.generate` says; without ``sampling`` the likeliest token is taken."""
    device = model.tokens.weight.device
    ids, mask = _checked(input_ids, attention_mask, max_new_tokens)
    longest, length = model.longest(), ids.shape[1] + max_new_tokens
    if longest is not None and length > longest:
        raise ShapeError(
            f"generate: {ids.shape[1]} tokens and {max_new_tokens} new ones are more than the model's "
            f"{longest} places; cut the texts, or ask for fewer"
        )
    cache = Cache(model.num_layers()) if use_cache else None
    places = np.maximum(np.cumsum(mask, axis=1) - 1, 0)
    going = np.ones(len(ids), dtype=bool)
    filler = pad if pad is not None else next(iter(eos), 0)
    for _ in range(max_new_tokens):
        new = slice(0 if cache is None else cache.length, None)
        given = (asarray(array[:, new], device=device) for array in (ids, places))
        real = asarray(mask, device=device) if not mask.all() else None
        hidden = model.encode(next(given), real, next(given), cache)
        logits = model.logits(hidden[:, -1]).to("cpu").numpy()
        token = np.argmax(logits, axis=1) if sampling is None else sampling.draw(logits)
        token = np.where(going, token, filler).astype(ids.dtype)
        ids = np.concatenate([ids, token[:, None]], axis=1)
        mask = np.concatenate([mask, np.ones_like(mask[:, :1])], axis=1)
        places = np.concatenate([places, places[:, -1:] + 1], axis=1)
        going &= ~np.isin(token, list(eos))
        if not going.any():
            break
    return asarray(ids, device=device)


def _checked(input_ids: Any, attention_mask: Any, max_new_tokens: int) -> tuple[np.ndarray, np.ndarray]:
    """Ids and mask on the host, int64 ``[n, L]``."""
    ids = _host(input_ids)
    mask = np.ones_like(ids) if attention_mask is None else (_host(attention_mask) != 0).astype(np.int64)
    if ids.ndim != 2 or ids.size == 0 or mask.shape != ids.shape:
        raise ShapeError(
            "generate: expected input_ids [n, L] with one token a row or more, and an attention_mask of that "
            f"shape, got {list(ids.shape)} and {list(mask.shape)}"
        )
    if not mask[:, -1].all():
        raise OptionError(
            "generate: a row ends with padding, behind which no text goes on; pad before the texts "
            "(tokenizer.enable_padding(direction='left'))"
        )
    if type(max_new_tokens) is not int or max_new_tokens < 0:
        raise OptionError(f"generate: expected max_new_tokens from 0 on, got {max_new_tokens!r}")
    return ids, mask


def _host(values: Any) -> np.ndarray:
    return np.asarray(values.to("cpu").numpy() if isinstance(values, Tensor) else values).astype(np.int64)
