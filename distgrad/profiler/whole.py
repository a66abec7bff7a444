"""Files that are whole or not there."""

from __future__ import annotations

import contextlib
import os
import secrets
from collections.abc import Iterator
from pathlib import Path

from distgrad.errors import DataError

__all__ = ["whole"]


@contextlib.contextmanager
def whole(path: Path, where: str) -> Iterator[Path]:
    """Write a file beside its place, and put it there at the end of the body, unless that raises.

    Args:
        path: the file.
        where: who writes it, for the error.

    Returns:
        A context manager, which gives the path to write to.

    Raises:
        DataError: it cannot be written, as the folder is missing or the disk is full.
    """
    part = path.with_name(f".{path.name}.{secrets.token_hex(4)}") if path.name else path
    try:
        yield part
        os.replace(part, path)
    except OSError as error:
        raise DataError(
            f"{where}: {path} must be a file that can be written ({error.strerror or error}); make room for "
            "it, or name another one"
        ) from error
    finally:
        with contextlib.suppress(OSError):
            part.unlink()
