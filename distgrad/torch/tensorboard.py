"""``torch.utils.tensorboard``: tensorboardX, whose writers take tensors too."""

from __future__ import annotations

import importlib
from typing import Any

from distgrad.autograd.tensor import Tensor
from distgrad.errors import MissingDependencyError

__all__ = ["SummaryWriter"]


def _plain(value: Any) -> Any:
    """Tensors, also inside dicts and sequences, as arrays of the host."""
    if isinstance(value, Tensor):
        return value.detach().cpu().numpy()
    if isinstance(value, dict):
        return {key: _plain(each) for key, each in value.items()}
    return [_plain(each) for each in value] if isinstance(value, list | tuple) else value


class SummaryWriter:
    """Writes what TensorBoard shows; its methods are tensorboardX's.

    Args:
        log_dir: the folder; None for one below ``runs``.
        comment: behind the name of that folder.
        options: as tensorboardX's.

    Raises:
        MissingDependencyError: tensorboardX is not installed.
    """

    def __init__(self, log_dir: Any = None, comment: str = "", **options: Any) -> None:
        try:
            writers = importlib.import_module("tensorboardX")
        except ImportError as error:
            raise MissingDependencyError(
                "SummaryWriter: needs tensorboardX, which is not installed; pip install tensorboardX"
            ) from error
        self._writer = writers.SummaryWriter(None if log_dir is None else str(log_dir), comment, **options)
        self.log_dir = self._writer.logdir

    def __getattr__(self, name: str) -> Any:
        found = getattr(self._writer, name)
        if not name.startswith("add_"):
            return found
        return lambda *args, **options: found(*_plain(args), **_plain(options))

    def add_graph(self, model: Any, input_to_model: Any = None, **options: Any) -> None:
        """Nothing: there is no graph of a program."""

    def __enter__(self) -> SummaryWriter:
        return self

    def __exit__(self, *exc: object) -> None:
        self._writer.close()
