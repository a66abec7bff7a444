"""Files of weights at hand: ``torch.hub`` and ``torch.utils.model_zoo``. Nothing is downloaded."""

from __future__ import annotations

import os
import re
from pathlib import Path
from typing import Any
from urllib.parse import urlparse

from distgrad.env import read
from distgrad.errors import DataError
from distgrad.torch.files import load

__all__ = [
    "HASH_REGEX", "download_url_to_file", "get_dir", "load_state_dict_from_url", "load_url", "set_dir",
    "urlparse",
]  # fmt: skip

#: What stands between the name of a file and its ending: the beginning of its digest.
HASH_REGEX = re.compile(r"-([a-f0-9]*)\.")

_CHOSEN: list[str] = []


def get_dir() -> str:
    """The folder whose ``checkpoints`` are looked through, PyTorch's own: ``~/.cache/torch/hub``."""
    if _CHOSEN:
        return _CHOSEN[-1]
    settings = read()
    home = settings.torch_home or settings.cache_home / "torch"
    return str(Path(home).expanduser() / "hub")


def set_dir(d: str | os.PathLike[str]) -> None:
    """Look into another folder."""
    _CHOSEN.append(os.path.expanduser(d))


def load_state_dict_from_url(
    url: str,
    model_dir: str | None = None,
    map_location: Any = None,
    progress: bool = True,
    check_hash: bool = False,
    file_name: str | None = None,
    weights_only: bool = True,
) -> Any:
    """The state dict of a file that lies where PyTorch would have put it.

    Args:
        url: where it is from; its last part is the file's name.
        model_dir: its folder; None for ``checkpoints`` in :func:`get_dir`.
        map_location: as in ``torch.load``.
        progress, check_hash: of a download.
        file_name: another name.
        weights_only: as in ``torch.load``.

    Raises:
        DataError: the file is not there.
    """
    folder = Path(model_dir or Path(get_dir()) / "checkpoints")
    file = folder / (file_name or Path(urlparse(url).path).name)
    if not file.exists():
        raise DataError(
            f"load_state_dict_from_url: no file {file}; nothing is downloaded: get it from {url} and put it "
            "there"
        )
    return load(file, map_location=map_location, weights_only=weights_only)


def download_url_to_file(url: str, dst: str, hash_prefix: str | None = None, progress: bool = True) -> None:
    """Nothing is downloaded.

    Raises:
        DataError: always, with what is to be put where.
    """
    raise DataError(f"download_url_to_file: nothing is downloaded: get {url} and put it at {dst}")


load_url = load_state_dict_from_url
