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

__all__ = ["Part", "are_local", "local_views", "outside"]


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


def outside(parameter: Any) -> Any:
    """A tensor outside the graph, in the same memory; inside :func:`local_views` a part, if it is spread."""
    leaf = parameter._leaf if _state.local else None
    shares = None if leaf is None or leaf.flat is None else leaf.flat[0].shares
    part = None if shares is None else shares.part(parameter)
    return parameter.detach() if part is None else part
