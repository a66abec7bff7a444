"""Text as numbers: characters or bytes, from memory or streamed from files."""

from __future__ import annotations

import codecs
import os
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from distgrad.comm.registry import get_world, is_initialized
from distgrad.data.stream import SharedDataset
from distgrad.errors import DataError

__all__ = ["TextStream", "Vocabulary", "read_text"]

_BLOCK_BYTES = 1 << 20
Paths = str | os.PathLike[str] | Sequence[str | os.PathLike[str]]


class Vocabulary:
    """The characters of a text, numbered in their order.

    Args:
        text: every character that is to have a number.

    Attributes:
        characters: sorted, each once.
    """

    def __init__(self, text: Iterable[str]) -> None:
        self.characters = "".join(sorted(set(text)))
        self._codes = np.array([ord(character) for character in self.characters], dtype=np.uint32)

    def encode(self, text: str) -> np.ndarray:
        """Numbers int64 ``[len(text)]``.

        Raises:
            DataError: a character that the vocabulary lacks.
        """
        codes = np.frombuffer(text.encode("utf-32-le", "surrogatepass"), dtype="<u4")
        if not len(self._codes) and len(codes):
            raise DataError(f"Vocabulary: {text[0]!r} is not among the 0 characters; build it from more text")
        numbers = np.minimum(np.searchsorted(self._codes, codes), max(0, len(self._codes) - 1))
        unknown = np.flatnonzero(self._codes[numbers] != codes)
        if len(unknown):
            place = int(unknown[0])
            raise DataError(
                f"Vocabulary: {text[place]!r}, at place {place}, is not among the {len(self)} characters; "
                "build the vocabulary from more text"
            )
        return numbers.astype(np.int64)

    def decode(self, numbers: Any) -> str:
        """The text of numbers ``[n]``."""
        return "".join(self.characters[int(number)] for number in np.asarray(numbers))

    def __len__(self) -> int:
        return len(self.characters)


def read_text(paths: Paths, encoding: str = "utf-8") -> str:
    """Read files whole, one after another.

    Args:
        paths: one file or several.
        encoding: of the files.

    Raises:
        DataError: a file that is missing or not text of this encoding.
    """
    return "".join(part for path in _listed(paths) for part in _blocks(path, encoding))


class TextStream(SharedDataset[tuple[np.ndarray, np.ndarray]]):
    """Files as one stream of characters or bytes, cut into windows for next-token prediction.

    Sample k is ``(t[k·length : (k+1)·length], the same moved on by one)``, int64 ``[length]`` each; what is
    left at the end is dropped. The files are read in blocks, so they may be larger than memory. Window k goes
    to rank k mod R and there to one worker, so that each is given once, also where a loader goes on in
    mid-epoch on other numbers of them.

    Args:
        paths: one file or several.
        length: tokens a window.
        vocabulary: the numbers of the characters; None gives the files' bytes.
        encoding: of the characters.

    Raises:
        DataError: a file that is missing, not text of this encoding, or with a character that is not in the
            vocabulary.
    """

    def __init__(
        self, paths: Paths, length: int, vocabulary: Vocabulary | None = None, encoding: str = "utf-8"
    ) -> None:
        if length < 1:
            raise ValueError(f"TextStream: length must be positive, got {length}")
        self.paths = _listed(paths)
        self.length = length
        self.vocabulary = vocabulary
        self.encoding = encoding
        world = get_world() if is_initialized() else None
        self.rank, self.num_replicas = (0, 1) if world is None else (world.rank, world.size)

    def iterate_whole(self) -> Iterator[tuple[np.ndarray, np.ndarray]]:
        """The windows of all ranks and workers."""
        rest = np.empty(0, dtype=np.int64)
        for block in self._tokens():
            tokens = np.concatenate([rest, block])
            count = max(0, len(tokens) - 1) // self.length
            for start in range(0, count * self.length, self.length):
                window = tokens[start : start + self.length + 1]
                yield window[:-1], window[1:]
            rest = tokens[count * self.length :]

    def _tokens(self) -> Iterator[np.ndarray]:
        for path in self.paths:
            if self.vocabulary is None:
                for data in _byte_blocks(path):
                    yield np.frombuffer(data, dtype=np.uint8).astype(np.int64)
            else:
                for text in _blocks(path, self.encoding):
                    yield self.vocabulary.encode(text)


def _listed(paths: Paths) -> list[Path]:
    return [Path(paths)] if isinstance(paths, str | os.PathLike) else [Path(path) for path in paths]


def _byte_blocks(path: Path) -> Iterator[bytes]:
    try:
        with path.open("rb") as file:
            while data := file.read(_BLOCK_BYTES):
                yield data
    except OSError as error:
        raise DataError(f"read_text: cannot read {path}: {error.strerror}; correct the path") from None


def _blocks(path: Path, encoding: str) -> Iterator[str]:
    decoder = codecs.getincrementaldecoder(encoding)()
    place = 0
    try:
        for data in _byte_blocks(path):
            yield decoder.decode(data)
            place += len(data)
        yield decoder.decode(b"", final=True)
    except UnicodeDecodeError as error:
        raise DataError(
            f"read_text: {path}: expected text in {encoding}, but after byte {place} {error.reason}; "
            "name its encoding, or read it as bytes"
        ) from None
