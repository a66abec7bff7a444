"""Stores of keys and values that ranks share: in a process, in a file, or at a TCP port."""

from __future__ import annotations

import base64
import contextlib
import fcntl
import json
import os
import secrets
import socket
import struct
import threading
import time
import weakref
from collections.abc import Sequence
from typing import IO, Any

from distgrad.comm.topology import host_name
from distgrad.errors import CommError, CommTimeoutError
from distgrad.torch.distributed.works import seconds_of

__all__ = ["FileStore", "HashStore", "PrefixStore", "Store", "TCPStore"]

_POLL_S = 0.01
_DEFAULT_S = 300.0
_PLACE = "distgrad meeting place"
_LENGTH = struct.Struct("=q")
_USERS, _GONE = "distgrad users", "distgrad users gone"  # of a file
_MAX_BYTES = 1 << 26  # of a request, so that a stranger's number cannot fill the memory


def _perform(data: dict[str, bytes], verb: str, key: str, values: Sequence[bytes]) -> bytes | None:
    """Carry one request out; None where a key is not there."""
    if verb == "set":
        data[key] = values[0]
    elif verb == "get":
        return data.get(key)
    elif verb == "add":
        data[key] = str(int(data.get(key, b"0")) + int(values[0])).encode()
        return data[key]
    elif verb == "append":
        data[key] = data.get(key, b"") + values[0]
    elif verb == "compare_set":
        expected, desired = values
        if data.get(key) == expected or (key not in data and not expected):
            data[key] = desired
        return data.get(key, expected)
    elif verb == "delete":
        return b"1" if data.pop(key, None) is not None else None
    elif verb == "count":
        return str(len(data)).encode()
    else:
        raise CommError(f"Store: no request {verb!r}")
    return b""


def _bytes(value: Any) -> bytes:
    return value.encode() if isinstance(value, str) else bytes(value)


class Store:
    """Keys and values; each kind of store carries one request out in its own way."""

    def __init__(self, timeout: Any = None) -> None:
        self._timeout_s = seconds_of(timeout) or _DEFAULT_S
        self._num_meetings = 0

    def _request(self, verb: str, key: str, *values: bytes) -> bytes | None:
        raise TypeError("Store: use HashStore, FileStore or TCPStore")

    @property
    def timeout(self) -> float:
        """Seconds after which waiting gives up."""
        return self._timeout_s

    def set_timeout(self, timeout: Any) -> None:
        """Give up waiting after this time, a ``timedelta`` or seconds."""
        self._timeout_s = float(seconds_of(timeout) or _DEFAULT_S)

    def set(self, key: str, value: str | bytes) -> None:
        """Give a key its value."""
        self._request("set", key, _bytes(value))

    def get(self, key: str) -> bytes:
        """A key's value, waited for.

        Raises:
            CommTimeoutError: it did not come.
        """
        self.wait([key])
        found = self._request("get", key)
        assert found is not None
        return found

    def add(self, key: str, amount: int) -> int:
        """Add to a key's number, which begins at 0; the sum."""
        return int(self._request("add", key, str(amount).encode()) or 0)

    def append(self, key: str, value: str | bytes) -> None:
        """Add to the end of a key's value."""
        self._request("append", key, _bytes(value))

    def compare_set(self, key: str, expected_value: str | bytes, desired_value: str | bytes) -> bytes:
        """Give a key its value if it has the expected one, or none and none is expected; its value then."""
        found = self._request("compare_set", key, _bytes(expected_value), _bytes(desired_value))
        assert found is not None
        return found

    def check(self, keys: Sequence[str]) -> bool:
        """Whether all the keys are there."""
        return all(self._request("get", key) is not None for key in keys)

    def wait(self, keys: Sequence[str], timeout: Any = None) -> None:
        """Wait until all the keys are there.

        Raises:
            CommTimeoutError: they did not come in time.
        """
        seconds = seconds_of(timeout) or self._timeout_s
        deadline_s = time.monotonic() + seconds
        while not self.check(keys):
            if time.monotonic() > deadline_s:
                raise CommTimeoutError(f"Store.wait: keys {list(keys)} did not come within {seconds:g} s")
            time.sleep(_POLL_S)

    def delete_key(self, key: str) -> bool:
        """Forget a key; whether it was there."""
        return self._request("delete", key) is not None

    def num_keys(self) -> int:
        """How many keys there are."""
        return int(self._request("count", "") or 0)

    def multi_get(self, keys: Sequence[str]) -> list[bytes]:
        """The values of several keys, waited for."""
        return [self.get(key) for key in keys]

    def multi_set(self, keys: Sequence[str], values: Sequence[str | bytes]) -> None:
        """Give several keys their values."""
        for key, value in zip(keys, values, strict=True):
            self.set(key, value)

    def has_extended_api(self) -> bool:
        """Yes."""
        return True

    def meeting_place(self, rank: int, size: int) -> str:
        """Where the ranks of ``init_process_group(store=...)`` meet, as the first one says."""
        self._num_meetings += 1
        key = f"{_PLACE} {self._num_meetings}"
        self.set(f"{key} of {rank}", host_name())
        if rank == 0:
            hosts = self.multi_get([f"{key} of {each}" for each in range(size)])
            several = len(set(hosts)) > 1
            self.set(key, f"{self.own_address()}:{_free_port()}" if several else f"/{secrets.token_hex(16)}")
        return self.get(key).decode()

    def own_address(self) -> str:
        """Where the users of the store on other hosts reach this one."""
        return socket.gethostname()


def _free_port() -> int:
    with socket.create_server(("", 0)) as door:
        return int(door.getsockname()[1])


class HashStore(Store):
    """A store of this process, for all its threads."""

    def __init__(self) -> None:
        super().__init__()
        self._data: dict[str, bytes] = {}
        self._lock = threading.Lock()

    def _request(self, verb: str, key: str, *values: bytes) -> bytes | None:
        with self._lock:
            return _perform(self._data, verb, key, values)


class FileStore(Store):
    """A store in a file, which processes that see it share.

    Args:
        file_name: the file; made if it is not there.
        world_size: how many stores use it in all; the last one to go deletes the file. Below 0 it stays, and
            who uses it again finds the old keys, as in a file that a killed process has left.
    """

    def __init__(self, file_name: str, world_size: int = -1) -> None:
        super().__init__()
        self.path = os.path.abspath(os.fspath(file_name))
        _in_file(self.path, "add", _USERS, b"1")
        self._leave = weakref.finalize(self, _leave_file, self.path, world_size, os.getpid())

    def _request(self, verb: str, key: str, *values: bytes) -> bytes | None:
        return _in_file(self.path, verb, key, *values)


def _in_file(path: str, verb: str, key: str, *values: bytes) -> bytes | None:
    with _locked(path) as file:
        data = _read(file)
        found = _perform(data, verb, key, values)
        if verb not in ("get", "count"):
            _write(file, data)
    return found


def _read(file: IO[bytes]) -> dict[str, bytes]:
    return {name: base64.b64decode(value) for name, value in json.loads(file.read() or b"{}").items()}


def _write(file: IO[bytes], data: dict[str, bytes]) -> None:
    encoded = {name: base64.b64encode(value).decode() for name, value in data.items()}
    file.seek(0)
    file.write(json.dumps(encoded).encode())
    file.truncate()


def _locked(path: str) -> IO[bytes]:
    """The file of that name, which nobody else has until it is closed."""
    while True:
        file = open(os.open(path, os.O_RDWR | os.O_CREAT, 0o600), "r+b")  # noqa: SIM115  # the caller closes it
        fcntl.flock(file, fcntl.LOCK_EX)
        with contextlib.suppress(FileNotFoundError):
            if os.path.samestat(os.fstat(file.fileno()), os.stat(path)):
                return file
        file.close()  # its last user has deleted it while this one waited


def _leave_file(path: str, world_size: int, process: int) -> None:
    """Count a user of the file as gone, and delete it behind the last one."""
    if process != os.getpid() or not os.path.exists(path):  # a child's copy of a store is no user
        return
    with _locked(path) as file:
        data = _read(file)
        here, gone = _perform(data, "add", _USERS, [b"-1"]), _perform(data, "add", _GONE, [b"1"])
        if here == b"0" and int(gone or 0) >= world_size >= 0:
            os.remove(path)
        else:
            _write(file, data)


class PrefixStore(Store):
    """Another store, whose keys all begin with ``prefix``."""

    def __init__(self, prefix: str, store: Store) -> None:
        super().__init__(store.timeout)
        self.prefix = prefix
        self.underlying_store = store

    def _request(self, verb: str, key: str, *values: bytes) -> bytes | None:
        return self.underlying_store._request(verb, f"{self.prefix}/{key}", *values)

    def own_address(self) -> str:
        """As the other store's."""
        return self.underlying_store.own_address()


def _send(line: socket.socket, parts: Sequence[bytes]) -> None:
    whole = b"".join(_LENGTH.pack(len(part)) + part for part in parts)
    line.sendall(_LENGTH.pack(len(whole)) + whole)


def _receive(line: socket.socket) -> list[bytes]:
    """The parts of one message; an OSError or ValueError where it is none."""
    (length,) = _LENGTH.unpack(_exactly(line, _LENGTH.size))
    if not 0 <= length <= _MAX_BYTES:
        raise ValueError("a message of no length that is taken")
    whole, parts = _exactly(line, length), []
    while whole:
        (size,) = _LENGTH.unpack(whole[: _LENGTH.size])
        parts.append(whole[_LENGTH.size : _LENGTH.size + size])
        whole = whole[_LENGTH.size + size :] if size >= 0 else b""
    return parts


def _exactly(line: socket.socket, count: int) -> bytes:
    found = bytearray()
    while len(found) < count:  # MSG_WAITALL waits for nothing where the line has a timeout
        part = line.recv(min(count - len(found), 1 << 20))
        if not part:
            raise ConnectionError("the other end is gone")
        found += part
    return bytes(found)


class _Server:
    """Serves a store's requests at a port, a thread a client, until it is closed."""

    def __init__(self, host: str, port: int) -> None:
        self._store = HashStore()
        self._door = socket.create_server((host, port))
        self.port = int(self._door.getsockname()[1])
        self._lines: set[socket.socket] = set()
        threading.Thread(target=self._accept, name="TCPStore", daemon=True).start()

    def _accept(self) -> None:
        with contextlib.suppress(OSError):  # closed
            while True:
                line, _ = self._door.accept()
                self._lines.add(line)
                threading.Thread(target=self._serve, args=(line,), name="TCPStore", daemon=True).start()

    def _serve(self, line: socket.socket) -> None:
        with line, contextlib.suppress(OSError, ValueError, struct.error, CommError):
            while True:
                verb, key, *values = _receive(line)
                found = self._store._request(verb.decode(), key.decode(), *values)
                _send(line, [] if found is None else [found])
        self._lines.discard(line)

    def close(self) -> None:
        """Serve no more."""
        for each in (self._door, *self._lines):
            with contextlib.suppress(OSError):
                each.shutdown(socket.SHUT_RDWR)
            each.close()


class TCPStore(Store):
    """A store at a TCP port: one process serves it, the others call. Whoever reaches the port can use it.

    Args:
        host_name: of the process that serves, which listens at that name alone.
        port: 0 lets the system choose one.
        world_size: how many processes, this one included, use it; None for any number.
        is_master: whether this one serves.
        timeout: after which waiting gives up.
        wait_for_workers: wait until ``world_size`` processes have come.
        multi_tenant, master_listen_fd, use_libuv: taken for PyTorch's sake.

    Raises:
        CommTimeoutError: nobody serves, or the others did not come.
    """

    def __init__(
        self, host_name: str, port: int, world_size: int | None = None, is_master: bool = False,
        timeout: Any = None, wait_for_workers: bool = True, multi_tenant: bool = False,
        master_listen_fd: int | None = None, use_libuv: bool = True,
    ) -> None:  # fmt: skip
        super().__init__(timeout)
        self.host = host_name
        self._server = _Server(host_name, port) if is_master else None
        self.port = self._server.port if self._server is not None else port
        self._lock = threading.Lock()
        self._line = self._connect()
        come = self.add("distgrad workers", 1)
        deadline_s = time.monotonic() + self._timeout_s
        while wait_for_workers and world_size is not None and come < world_size:
            if time.monotonic() > deadline_s:
                raise CommTimeoutError(
                    f"TCPStore: {come} of {world_size} processes came within {self._timeout_s:g} s"
                )
            time.sleep(_POLL_S)
            come = self.add("distgrad workers", 0)

    def _connect(self) -> socket.socket:
        deadline_s = time.monotonic() + self._timeout_s
        while True:
            try:
                line = socket.create_connection((self.host, self.port), timeout=self._timeout_s)
            except OSError as error:
                if time.monotonic() > deadline_s:
                    raise CommTimeoutError(
                        f"TCPStore: nobody serves at {self.host}:{self.port} ({error}); start the master"
                    ) from error
                time.sleep(_POLL_S)
            else:
                return line

    def own_address(self) -> str:
        """This end of the line to the master; the master's name where that is here."""
        own = str(self._line.getsockname()[0])
        return self.host if own.startswith("127.") else own

    def _request(self, verb: str, key: str, *values: bytes) -> bytes | None:
        parts = [verb.encode(), key.encode(), *values]
        size = sum(_LENGTH.size + len(part) for part in parts)
        if size > _MAX_BYTES:
            raise CommError(
                f"TCPStore.{verb}: expected at most {_MAX_BYTES} bytes, got {size}; use several keys"
            )
        with self._lock:
            try:
                _send(self._line, parts)
                found = _receive(self._line)
            except (OSError, ValueError, struct.error) as error:
                self._line.close()
                raise CommError(
                    f"TCPStore: the master at {self.host}:{self.port} is gone ({error})"
                ) from error
            except (
                BaseException
            ):  # an interrupt: the answer that is still to come would be taken for the next
                self._line.close()
                raise
        return found[0] if found else None

    def __del__(self) -> None:
        for each in (getattr(self, "_line", None), getattr(self, "_server", None)):
            if each is not None:
                each.close()
