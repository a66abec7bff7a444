"""Tokenizers from folders, and texts as the arrays that models take."""

from __future__ import annotations

import importlib
import json
from collections.abc import Sequence
from os import PathLike
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from distgrad.autograd.creation import asarray
from distgrad.autograd.dispatch import operations as ops
from distgrad.autograd.tensor import Tensor
from distgrad.errors import DataError, MissingDependencyError, ShapeError

__all__ = ["Tokens", "mean_pool", "tokenize", "tokenizer"]


class Tokens(NamedTuple):
    """Texts as numbers of tokens: what models take, in their order.

    Attributes:
        input_ids: ``[n, L]``, int64.
        attention_mask: ``[n, L]``, 1 at tokens and 0 at padding.
        token_type_ids: ``[n, L]``, which of two texts a token belongs to.
    """

    input_ids: Tensor
    attention_mask: Tensor
    token_type_ids: Tensor


def tokenizer(folder: str | PathLike[str], max_length: int | None = None) -> Any:
    """The tokenizer in a model's folder, which pads a batch to its longest text and cuts what is too long.

    Args:
        folder: has ``tokenizer.json``; or ``vocab.txt`` (BERT), or ``vocab.json`` and ``merges.txt`` (GPT-2).
        max_length: tokens that a text is cut to; None means as many as the model takes, if the folder says.

    Returns:
        A tokenizer of the ``tokenizers`` library: ``encode``, ``encode_batch``, ``decode``.

    Raises:
        DataError: no such file, or a damaged one.
        MissingDependencyError: ``tokenizers`` is not installed.
    """
    try:
        library = importlib.import_module("tokenizers")
    except ImportError as error:
        raise MissingDependencyError(
            "hub.tokenizer: needs tokenizers, which is not installed; pip install 'distgrad[hub]'"
        ) from error
    folder = Path(folder)
    settings = _settings(folder / "tokenizer_config.json")
    try:
        found = _open(library, folder, settings)
    except DataError:
        raise
    except Exception as error:  # the library raises nothing narrower
        raise DataError(f"hub.tokenizer: the tokenizer in {folder} cannot be read: {error}") from None
    pad = settings.get("pad_token", "[PAD]")
    pad = pad.get("content") if isinstance(pad, dict) else pad
    number = found.token_to_id(pad) if isinstance(pad, str) else None
    found.enable_padding(pad_id=number or 0, pad_token=pad if number is not None else "")
    longest = max_length or _longest(folder, settings)
    if longest is None:
        found.no_truncation()
    else:
        found.enable_truncation(longest)
    return found


def _settings(path: Path) -> dict[str, Any]:
    """The object in a JSON file; nothing where there is no file."""
    if not path.is_file():
        return {}
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except (ValueError, RecursionError) as error:
        raise DataError(f"hub.tokenizer: {path} is no JSON: {error}") from None
    return found if isinstance(found, dict) else {}


def _open(library: Any, folder: Path, settings: dict[str, Any]) -> Any:
    if (folder / "tokenizer.json").is_file():
        return library.Tokenizer.from_file(str(folder / "tokenizer.json"))
    if (folder / "vocab.txt").is_file():
        lower = bool(settings.get("do_lower_case", True))
        return library.BertWordPieceTokenizer(str(folder / "vocab.txt"), lowercase=lower)
    if (folder / "vocab.json").is_file() and (folder / "merges.txt").is_file():
        return library.ByteLevelBPETokenizer(str(folder / "vocab.json"), str(folder / "merges.txt"))
    raise DataError(
        f"hub.tokenizer: expected tokenizer.json, vocab.txt, or vocab.json and merges.txt in {folder}, "
        "found none"
    )


def _longest(folder: Path, settings: dict[str, Any]) -> int | None:
    """How many tokens a text may have: the least of what the folder says."""
    config = _settings(folder / "config.json")
    said = [settings.get("model_max_length"), *(config.get(key) for key in _PLACES)]
    counts = [count for count in said if type(count) is int and 0 < count < 10**9]  # a text without end: 10³⁰
    return min(counts, default=None)


_PLACES = ("max_position_embeddings", "n_positions")


def tokenize(tokenizer: Any, texts: Sequence[Any], device: Any = None) -> Tokens:
    """Texts as a batch of equally long rows.

    Args:
        tokenizer: of :func:`tokenizer`.
        texts: one or more texts, or pairs of texts.
        device: where the arrays are to lie; None means the CPU.

    Raises:
        DataError: there is no text, or something else between them.
    """
    if isinstance(texts, str) or len(texts) == 0:
        raise DataError(f"hub.tokenize: expected a list of texts, got {texts!r}")
    try:
        rows = tokenizer.encode_batch(list(texts))
    except TypeError as error:
        raise DataError(f"hub.tokenize: expected texts, or pairs of texts: {error}") from None
    columns = ([getattr(row, name) for row in rows] for name in ("ids", "attention_mask", "type_ids"))
    return Tokens(*(asarray(np.array(column, dtype=np.int64), device=device) for column in columns))


def mean_pool(hidden: Tensor, attention_mask: Any) -> Tensor:
    """The mean of the features of all places but padding: what sentence encoders compare.

    Args:
        hidden: ``[n, L, width]``.
        attention_mask: ``[n, L]``, 0 where a place is padding.

    Returns:
        ``[n, width]``; 0 for a row that is all padding.
    """
    mask = asarray(attention_mask, device=hidden.device)
    if tuple(mask.shape) != tuple(hidden.shape[:2]):
        raise ShapeError(f"hub.mean_pool: expected a mask {list(hidden.shape[:2])}, got {list(mask.shape)}")
    real = ops.expand_dims(ops.astype(ops.not_equal(mask, 0), hidden.dtype), axis=-1)
    return ops.sum(hidden * real, axis=1) / ops.maximum(ops.sum(real, axis=1), 1.0)
