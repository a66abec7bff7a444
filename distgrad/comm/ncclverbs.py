"""What the verbs are made of where arrays lie on GPUs: NCCL's operations on a stream."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
from numpy.typing import NDArray

from distgrad.backend.device import Device, device_of, find_backend
from distgrad.backend.streams import Stream, current_stream
from distgrad.comm.arrays import empty, zeros
from distgrad.comm.base import Communicator
from distgrad.comm.libnccl import DTYPES, OPS, Link, Provider
from distgrad.errors import (
    CommError,
    DeviceError,
    DTypeError,
)

__all__ = ["NcclVerbs"]

_BYTES = DTYPES["uint8"]


class NcclVerbs(Communicator):
    """The part of :class:`distgrad.comm.nccl.NcclCommunicator` that moves arrays."""

    has_mean = True
    device: Device
    provider: Provider
    stream: Stream
    _host: Communicator
    _link: Link

    def _in_order(self) -> bool:
        return current_stream(self.device) == self.stream

    def follow(self) -> None:
        """Let the communication stream wait for the current one."""
        if not self._in_order():
            self.stream.wait_stream(current_stream(self.device))

    def _settle(self) -> None:
        if not self._in_order():
            current_stream(self.device).wait_stream(self.stream)

    @contextmanager
    def _on_stream(self) -> Iterator[None]:
        """The communication stream, behind the current one, becomes the current one."""
        self.follow()
        if self._in_order():
            yield
        else:
            with self.stream:
                yield

    def takes(self, device: Device) -> bool:
        """Those of this rank's GPU alone; the hosts' go over ``host``.

        Collective: no; blocks: no.
        """
        return device == self.device

    def _check_array(self, verb: str, name: str, x: Any) -> None:
        if isinstance(x, np.ndarray) or not hasattr(x, "dtype") or (found := device_of(x)).kind == "cpu":
            raise DeviceError(
                f"{verb}: {name} must be an array on {self.device}, got {type(x).__module__}."
                f"{type(x).__qualname__}; copy it there, or pass host arrays to comm.host.{verb}"
            )
        if found != self.device:
            raise DeviceError(
                f"{verb}: {name} must lie on {self.device}, this rank's GPU, got {found}; copy it there"
            )

    def _number(self, x: NDArray[Any]) -> int:
        number = DTYPES.get(x.dtype.name)
        if number is None:
            raise DTypeError(f"nccl: no {x.dtype} in reductions, but {', '.join(DTYPES)}; convert it")
        return number

    def _all_reduce(self, x: NDArray[Any], op: str) -> None:
        number = self._number(x)
        if x.size:
            self._link.all_reduce(_address(x), _address(x), x.size, number, OPS[op], self.stream.handle)

    def _reduce_scatter(self, x: NDArray[Any], out: NDArray[Any], op: str, edges: list[int]) -> None:
        number = self._number(x)
        lengths = [stop - start for start, stop in itertools.pairwise(edges)]
        longest = max(lengths)
        if len(set(lengths)) == 1:
            sent, part = x, out
        else:  # NCCL knows even parts alone
            with self._on_stream():
                sent, part = zeros(x, (self.size, longest), x.dtype), empty(x, (longest,), x.dtype)
                for row, start, length in zip(sent, edges, lengths, strict=False):
                    row[:length] = x[start : start + length]
        if longest:
            self._link.reduce_scatter(
                _address(sent), _address(part), longest, number, OPS[op], self.stream.handle
            )
        if part is not out:
            with self._on_stream():
                out[...] = part[: out.size]

    def _broadcast(self, x: NDArray[np.uint8], root: int) -> None:
        if x.size:
            self._link.broadcast(_address(x), _address(x), x.size, _BYTES, root, self.stream.handle)

    def _all_gather(self, x: NDArray[np.uint8], out: NDArray[np.uint8], edges: list[int]) -> None:
        parts = list(itertools.pairwise(edges))
        if len({stop - start for start, stop in parts}) == 1:
            if x.size:
                self._link.all_gather(_address(x), _address(out), x.size, _BYTES, self.stream.handle)
            return
        own = out[slice(*parts[self.rank])]
        if x.size and _address(own) != _address(x):
            with self._on_stream():
                own[...] = x
        for root, (start, stop) in enumerate(parts):
            if stop > start:
                self._broadcast(out[start:stop], root)

    def _all_to_all(self, x: NDArray[np.uint8], out: NDArray[np.uint8]) -> None:
        with self._on_stream():
            out[self.rank] = x[self.rank]
        self._exchange({r: x[r] for r in self._others()}, {r: out[r] for r in self._others()})

    def _gather(self, x: NDArray[np.uint8], out: NDArray[np.uint8] | None, root: int) -> None:
        if out is None:
            self._exchange({root: x}, {})
            return
        with self._on_stream():
            out[self.rank] = x
        self._exchange({}, {r: out[r] for r in self._others()})

    def _scatter(self, x: NDArray[np.uint8] | None, out: NDArray[np.uint8], root: int) -> None:
        if x is None:
            self._exchange({}, {root: out})
            return
        with self._on_stream():
            out[...] = x[self.rank]
        self._exchange({r: x[r] for r in self._others()}, {})

    def _others(self) -> list[int]:
        return [rank for rank in range(self.size) if rank != self.rank]

    def _exchange(self, sent: dict[int, Any], received: dict[int, Any]) -> None:
        """Send and receive, all at once."""
        self.follow()
        if any(x.size for x in (*sent.values(), *received.values())):
            with self.provider.group():
                for rank, x in sent.items():
                    self._link.send(_address(x), x.size, _BYTES, rank, self.stream.handle)
                for rank, x in received.items():
                    self._link.recv(_address(x), x.size, _BYTES, rank, self.stream.handle)

    def _send_labelled(self, label: str, flat: NDArray[np.uint8], dest: int, tag: int) -> None:
        self._check_peer("send", dest, tag)
        self._host.send(np.frombuffer(label.encode().ljust(128), np.uint8), dest)
        if flat.size:
            self._link.send(_address(flat), flat.size, _BYTES, dest, self.stream.handle)

    def _recv_labelled(self, label: str, flat: NDArray[np.uint8], source: int, tag: int) -> None:
        self._check_peer("recv", source, tag)
        sent = self._host.recv(np.empty(128, np.uint8), source).tobytes().decode().rstrip()
        self._check_label(sent, label, source, tag)
        if flat.size:
            self._link.recv(_address(flat), flat.size, _BYTES, source, self.stream.handle)

    def _check_peer(self, verb: str, peer: int, tag: int) -> None:
        if tag or peer == self.rank:
            raise CommError(
                f"{verb}, group '{self.group}': NCCL has no tags, and no messages to oneself; got tag {tag} "
                f"and rank {peer} on rank {self.rank}. Send in the order of receiving, or over comm.host"
            )

    def _send(self, message: NDArray[np.uint8], dest: int, tag: int) -> None:
        self._host._send(message, dest, tag)

    def _recv(self, source: int, tag: int) -> NDArray[np.uint8]:
        return self._host._recv(source, tag)

    def _has_message(self, source: int, tag: int) -> bool:
        return self._host._has_message(source, tag)

    def _weighted_mean(self, flat: NDArray[Any], weight: float) -> None:
        with self._on_stream():
            xp = find_backend(self.device.kind).xp
            total = xp.full(1, weight, np.float64)
            self._all_reduce(total, "sum")
            if weight:
                flat *= (weight / total).astype(flat.dtype)
            else:
                flat[...] = 0
            self._all_reduce(flat, "sum")

    def _mean_of_narrow(self, flat: NDArray[Any], weight: float) -> None:
        with self._on_stream():
            super()._mean_of_narrow(flat, weight)

    def _narrow_part(self, x: NDArray[Any], out: NDArray[Any], edges: list[int]) -> None:
        with self._on_stream():
            super()._narrow_part(x, out, edges)


def _address(x: Any) -> int:
    return int(x.data.ptr)
