"""Files: nested state as safetensors, written whole or not at all.

A file holds every array under the path of its keys (``model.0.weight``), so that other programs can read a
module's state dict as it is, and in its metadata the tree that the arrays hang in, with the numbers and texts
between them, and a digest of all bytes. A file without that metadata, from PyTorch say, loads as a flat dict.

Source: the safetensors format, Hugging Face, 2022.
"""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import json
import os
import pickle
import shutil
import tempfile
from pathlib import Path
from typing import Any

import numpy as np

from distgrad.autograd.casting import bfloat16, small_float
from distgrad.autograd.tensor import Tensor
from distgrad.checkpoint.tree import decode, encode
from distgrad.errors import DataError, DTypeError
from distgrad.names.lacking import unexpected
from distgrad.trace import span

__all__ = ["load", "save"]

_PART = ".distgrad-part"  # ends the name of a folder in which a file is being written
_TREE = "distgrad.tree"
_DIGEST = "distgrad.sha256"


def save(state: Any, path: str | os.PathLike[str], metadata: dict[str, str] | None = None) -> None:
    """Write state to a file, which appears under its name only once it is complete.

    What a process that was killed meanwhile has left in the folder goes with the next save into it. What lies
    on a device is copied to the host; a file knows no devices.

    Args:
        state: tensors, arrays and NumPy's scalars in dicts (also OrderedDict and Counter), lists and tuples,
            with numbers, texts and None between them: what ``state_dict()`` returns, or a dict of several of
            those. Arrays come back in native byte order.
        path: the file; an old one is replaced.
        metadata: texts to keep beside it.

    Raises:
        DTypeError: something that is neither of those, with its place in the state; also subclasses of
            them (namedtuple, enum members, masked arrays), which would come back as what they are not.
        OSError: the file cannot be written; an old one is left as it was.
    """
    arrays: dict[str, np.ndarray] = {}
    try:
        tree = encode(state, "", arrays)
    except RecursionError:
        raise DTypeError(
            "save: the state holds itself, or is nested too deeply; save a flatter one"
        ) from None
    reserved = {_TREE, _DIGEST} & set(metadata or {})
    if reserved:
        raise ValueError(f"save: metadata must not use the names {sorted(reserved)}")
    notes = {**(metadata or {}), _TREE: json.dumps(tree)}
    with span("checkpoint.save", bytes=sum(array.nbytes for array in arrays.values()), path=str(path)):
        _write(Path(path), arrays, {**notes, _DIGEST: _digest(arrays, notes)})


def _write(path: Path, arrays: dict[str, np.ndarray], notes: dict[str, str]) -> None:
    from safetensors.numpy import save_file

    if not path.parent.is_dir():
        raise FileNotFoundError(f"save: there is no folder {path.parent} for {path.name}; make it first")
    _sweep(path.parent)
    lock, folder = _create_part(path)
    try:
        temporary = Path(folder, path.name)  # safetensors makes another one beside it meanwhile
        save_file(arrays, temporary, notes)
        umask = os.umask(0)
        os.umask(umask)
        os.chmod(temporary, 0o666 & ~umask)
        with open(temporary, "rb") as file:
            os.fsync(file.fileno())
        os.replace(temporary, path)
    finally:
        shutil.rmtree(folder, ignore_errors=True)
        if lock is not None:
            os.close(lock)


def _create_part(path: Path) -> tuple[int | None, str]:
    """A new folder beside ``path``, and its lock: as long as that is open, the folder is in use."""
    while True:
        folder = tempfile.mkdtemp(dir=path.parent, prefix=f".{path.name}.", suffix=_PART)
        try:
            return _lock(folder), folder
        except (BlockingIOError, FileNotFoundError):  # another process sweeps, and took it for a lost one
            continue
        except OSError:  # this file system knows no locks, so nobody sweeps
            return None, folder


def _lock(folder: str | Path) -> int:
    lock = os.open(folder, os.O_RDONLY)
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        os.stat(folder)
    except OSError:
        os.close(lock)
        raise
    return lock


def _sweep(folder: Path) -> None:
    """Remove what processes that were killed in :func:`save` have left."""
    for part in folder.glob(f".*{_PART}"):
        with contextlib.suppress(OSError):  # it is in use, or gone
            lock = _lock(part)
            shutil.rmtree(part, ignore_errors=True)
            os.close(lock)


def load(path: str | os.PathLike[str], *, allow_pickle: bool = False, **others: Any) -> dict[str, Any]:
    """Read what :func:`save` has written, or any safetensors file.

    Args:
        path: the file.
        allow_pickle: also read a Python pickle. A pickle can run any program as it is read: allow it only
            for files that you wrote yourself.
        **others: none; PyTorch's other arguments are met by an error that says what stands for them.

    Returns:
        The state, arrays as tensors; a flat dict by name for files that others wrote. Floats of 8 and 4 bits
        keep their dtype, of ml_dtypes: bring them to another with ``astype`` before computing. Type checkers
        take it for a dict, as ``state_dict()`` gives; where something else was saved, ``cast`` it.

    Raises:
        DataError: a file that is missing, truncated, changed or of another kind.
    """
    for name in others:
        raise unexpected("load", name)
    path = Path(path)
    try:
        with path.open("rb") as file:
            head = file.read(9)
    except OSError as error:
        raise DataError(f"load: cannot read {path}: {error.strerror}") from None
    if len(head) == 9 and head[8:] == b"{":
        with span("checkpoint.load", bytes=path.stat().st_size, path=str(path)):
            return _load_safetensors(path)
    if head[:1] == b"\x80" and allow_pickle:
        try:
            with path.open("rb") as file:
                return pickle.load(file)
        except Exception as error:  # whatever the classes that it names raise
            raise DataError(f"load: the pickle {path} cannot be read: {error!r}") from error
    kind = {
        b"\x80": "a Python pickle; pass allow_pickle=True if you trust it",
        b"P": "a zip archive (torch.save?)",
    }
    raise DataError(
        f"load: expected {path} to be a safetensors file, got "
        f"{kind.get(head[:1], f'{path.stat().st_size} bytes that begin with {head!r}')}"
    )


def _load_safetensors(path: Path) -> Any:
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(path, framework="numpy") as file:
            notes = file.metadata() or {}
            names = file.keys()
            kinds = {name: file.get_slice(name).get_dtype() for name in names}
            if "BF16" in kinds.values():
                bfloat16()  # NumPy has none until its package is loaded
            narrow = [name for name, kind in kinds.items() if kind.split("_")[0] in _BELOW_16_BITS]
            arrays = {name: file.get_tensor(name) for name in names if name not in narrow}
            shapes = {name: file.get_slice(name).get_shape() for name in narrow}
        for name in narrow:
            arrays[name] = _narrow(path, name, kinds[name], shapes[name])
    except (SafetensorError, TypeError) as error:
        size = path.stat().st_size
        raise DataError(f"load: {path} ({size} bytes) is truncated or no safetensors file: {error}") from None
    if _TREE not in notes and _DIGEST not in notes:
        return {name: Tensor(array) for name, array in arrays.items()}
    if notes.pop(_DIGEST, None) != _digest(arrays, notes):
        raise DataError(
            f"load: the bytes of {path} differ from the digest in its header; the file was changed after it "
            "was written, take another copy"
        )
    try:
        return decode(json.loads(notes[_TREE]), arrays.__getitem__)
    except (ValueError, KeyError, TypeError, RecursionError) as error:
        raise DataError(f"load: the header of {path} does not describe its arrays: {error!r}") from None


_BELOW_16_BITS = ("F4", "F6", "F8")

#: Those of them that NumPy can hold, by the format's names and those of ml_dtypes.
_NARROW = {
    "F8_E4M3": "float8_e4m3fn",
    "F8_E5M2": "float8_e5m2",
    "F8_E8M0": "float8_e8m0fnu",
    "F8_E4M3FNUZ": "float8_e4m3fnuz",
    "F8_E5M2FNUZ": "float8_e5m2fnuz",
    "F4": "float4_e2m1fn",
}


def _narrow(path: Path, name: str, kind: str, shape: list[int]) -> np.ndarray:
    """An array of floats below 16 bits, which the format's own package does not make."""
    if kind not in _NARROW:
        raise DataError(
            f"load: {path}: {name} is {kind}, of which NumPy has no arrays; write it as F8, F16 or F32"
        )
    dtype = small_float(_NARROW[kind])
    with path.open("rb") as file:
        header_bytes = int.from_bytes(file.read(8), "little")
        start, stop = json.loads(file.read(header_bytes))[name]["data_offsets"]
        file.seek(8 + header_bytes + start)
        data = np.frombuffer(file.read(stop - start), np.uint8)
    if kind == "F4":  # two to a byte, the first in the lower half
        data = np.stack([data & 15, data >> 4], axis=-1).reshape(-1)
    return data.view(dtype).reshape(shape)


def _digest(arrays: dict[str, np.ndarray], notes: dict[str, str]) -> str:
    digest = hashlib.sha256(json.dumps(notes, sort_keys=True).encode())
    for name in sorted(arrays):
        array = arrays[name]
        digest.update(f"{name} {array.dtype} {list(array.shape)};".encode())
        digest.update(np.ascontiguousarray(array).reshape(-1).view(np.uint8).data)
    return digest.hexdigest()
