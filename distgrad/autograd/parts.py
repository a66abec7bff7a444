"""What one rank holds of the state that ranks share: the arrays themselves, and ranges of spread ones.

``state_dict`` gives what stands alone: copies, and wholes that several ranks bring together. Inside
:func:`local_views` it gives what this rank has where it lies, with a :class:`Part` in the place of each array
that is spread over the ranks, and no rank waits for another.
"""

from __future__ import annotations

import contextlib
import dataclasses
import threading
from collections.abc import Iterator
from typing import Any

__all__ = ["Part", "are_local", "kept_dtype", "local_views", "outside", "shares_of"]


@dataclasses.dataclass(frozen=True, eq=False)
class Part:
    """A range of a flattened array: what this rank has, or is to have, of it.

    Attributes:
        shape: of the whole array.
        start: the range's first element.
        data: the elements, flat.
        is_replica: whether another rank has the same, and saves it.
    """

    shape: tuple[int, ...]
    start: int
    data: Any
    is_replica: bool = False


class _State(threading.local):
    local = False


_state = _State()


@contextlib.contextmanager
def local_views() -> Iterator[None]:
    """Let ``state_dict`` give what this rank has where it lies. Collective: no; blocks: no."""
    before, _state.local = _state.local, True
    try:
        yield
    finally:
        _state.local = before


def are_local() -> bool:
    """Whether ``state_dict`` was called inside :func:`local_views`."""
    return _state.local


def shares_of(parameter: Any) -> Any:
    """Which ranks own what of a parameter, as its flat buffer has it; None where this one owns all."""
    leaf = parameter._leaf
    return None if leaf is None or leaf.flat is None else leaf.flat[0].shares


def kept_dtype(parameter: Any) -> Any:
    """The dtype in which a parameter is updated and saved: its own, or that of its master weights."""
    shares = shares_of(parameter)
    return parameter.dtype if shares is None or shares.masters is None else shares.masters.dtype


def outside(parameter: Any) -> Any:
    """A tensor outside the graph, in the same memory; inside :func:`local_views` a part, if it is spread.

    Of a parameter that has master weights it is a copy of these. Collective: then; blocks: then.
    """
    shares = shares_of(parameter)
    part = shares.part(parameter) if _state.local and shares is not None else None
    if part is not None:
        return part
    has_masters = shares is not None and shares.masters is not None
    return shares.detached(parameter) if has_masters else parameter.detach()
