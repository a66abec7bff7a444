"""Parameters whose elements are elsewhere, or on their way: whoever touches one gets them first.

While a parameter is absent it is of a class whose ``_data`` asks the shares of its flat buffer to bring the
elements, so that no reader can come too early, be it a module, an average of weights, or a user's print.
Present again, it is of its own class and costs nothing.
"""

from __future__ import annotations

import copy
import functools
from collections.abc import Iterable
from typing import Any, cast

import numpy as np

from distgrad.autograd.parts import shares_of
from distgrad.autograd.tensor import Tensor
from distgrad.backend.device import CPU, Device, device_of
from distgrad.backend.meta import META

__all__ = ["be_absent", "be_present", "collect", "home_of"]

_elements: Any = Tensor.__dict__["_data"]  # the slot itself


class _Absent:
    """What stands before a parameter's class while its elements are not at hand."""

    __slots__ = ()
    _present: type[Tensor]

    @property
    def _data(self) -> Any:
        self.leaf_state().flat[0].shares.bring(self)  # type: ignore[attr-defined]
        return vars(Tensor)["_data"].__get__(self)  # a recorder may have put another in the slot's place

    @_data.setter
    def _data(self, value: Any) -> None:
        _elements.__set__(self, value)

    def _overwrite(self, values: Any) -> None:
        self.leaf_state().flat[0].shares.overwrite(self, values)  # type: ignore[attr-defined]

    @property
    def data(self) -> Any:
        self._data  # noqa: B018
        return cast(Tensor, self).data

    @data.setter
    def data(self, value: Any) -> None:
        self._data  # noqa: B018
        cast(Tensor, self).data = value

    def detach(self) -> Any:
        return self.leaf_state().flat[0].shares.detached(self)  # type: ignore[attr-defined]

    @property
    def shape(self) -> tuple[int, ...]:
        return _elements.__get__(self).shape

    @property
    def dtype(self) -> np.dtype[Any]:
        return _elements.__get__(self).dtype

    @property
    def ndim(self) -> int:
        return _elements.__get__(self).ndim

    @property
    def itemsize(self) -> int:
        return _elements.__get__(self).itemsize

    @property
    def nbytes(self) -> int:
        return _elements.__get__(self).nbytes

    @property
    def device(self) -> Device:
        return device_of(_elements.__get__(self))

    def __deepcopy__(self, memo: dict[int, Any]) -> Any:
        self._data  # noqa: B018
        return copy.deepcopy(self, memo)

    def __copy__(self) -> Any:
        self._data  # noqa: B018
        return copy.copy(self)

    def __reduce_ex__(self, protocol: Any) -> Any:
        self._data  # noqa: B018
        return self.__reduce_ex__(protocol)


@functools.cache
def _absent(kind: Any) -> Any:
    return type(kind.__name__, (_Absent, kind), {"__slots__": (), "_present": kind, "__doc__": kind.__doc__})


def be_absent(parameter: Tensor) -> None:
    """Let whoever touches the elements ask for them first."""
    if not isinstance(parameter, _Absent):
        parameter.__class__ = _absent(cast(Any, type(parameter)))


def be_present(parameter: Tensor) -> None:
    """Let the elements be read as they are."""
    if isinstance(parameter, _Absent):
        parameter.__class__ = parameter._present  # type: ignore[assignment]


def collect(entries: Iterable[tuple[str, Any]], is_root: bool, out: dict[str, Any]) -> dict[str, Any]:
    """Entries of a state dict on rank 0 alone, whose tensors are outside the graph.

    One whose elements all ranks hold parts of is copied, and to that rank only.

    Collective: yes; blocks: for such a one.
    """
    for key, value in entries:
        if isinstance(value, Tensor):
            shares = shares_of(value)
            spread = shares is not None and (isinstance(value, _Absent) or shares.masters is not None)
            value = shares.detached(value, 0) if spread else value.detach()
        if is_root:
            out[key] = value
    return out


def home_of(tensor: Tensor) -> Device:
    """Where a tensor's elements are to lie: where it does, or on the host if it has none yet."""
    return CPU if tensor.device == META else tensor.device
