"""``horovod.run``: a function on several ranks, which this process starts."""

from __future__ import annotations

import multiprocessing
import os
import secrets
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from distgrad.errors import LaunchError

__all__ = ["run"]


def _be_a_rank(
    place: str, rank: int, size: int, line: Any, fn: Callable[..., Any], args: Any, kwargs: Any,
    variables: Mapping[str, str],
) -> None:  # fmt: skip
    os.environ.update(variables)
    from distgrad.comm.registry import init

    init(address=place, rank=rank, size=size)
    line.send(fn(*args, **kwargs))


def run(
    func: Callable[..., Any],
    args: Sequence[Any] = (),
    kwargs: Mapping[str, Any] | None = None,
    num_proc: int = 1,
    env: Mapping[str, str] | None = None,
    np: int | None = None,
    **others: Any,
) -> list[Any]:
    """Call a function on several ranks of this host; what each returned.

    For other hosts, and for output that is told apart, use ``distgrad run``.

    Args:
        func: of a module's top level; it calls ``hvd.init()``.
        args, kwargs: what it gets.
        num_proc, np: number of ranks.
        env: environment variables of the ranks.
        **others: Horovod's further options; ``verbose`` and ``use_gloo`` are taken.

    Raises:
        LaunchError: a rank ended badly, or an option that is not taken.
    """
    unknown = [name for name, value in others.items() if name not in ("verbose", "use_gloo") and value]
    if unknown:
        raise LaunchError(f"horovod.run: {unknown[0]} is not to be had here; use distgrad run")
    size = num_proc if np is None else np
    context = multiprocessing.get_context("spawn")
    place = f"/{secrets.token_hex(16)}"
    ranks, lines = [], []
    for rank in range(size):
        ours, theirs = context.Pipe(duplex=False)
        given = (place, rank, size, theirs, func, tuple(args), dict(kwargs or {}), dict(env or {}))
        process = context.Process(target=_be_a_rank, args=given)
        process.start()
        theirs.close()
        ranks.append(process)
        lines.append(ours)
    try:
        return [_result(rank, line) for rank, line in enumerate(lines)]
    finally:
        for process in ranks:
            process.join(10)
            process.kill()


def _result(rank: int, line: Any) -> Any:
    try:
        return line.recv()
    except EOFError:
        raise LaunchError(
            f"horovod.run: rank {rank} ended without a result; see its traceback above"
        ) from None
