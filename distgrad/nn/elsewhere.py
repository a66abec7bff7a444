"""Names of ``torch.nn`` that stand elsewhere or are left out: the error that says so."""

from __future__ import annotations

from typing import Any

__all__ = ["explain_name"]

_ELSEWHERE = {
    "SyncBatchNorm": "it stands in dg.parallel",
    "DataParallel": "one process a rank instead: dg.parallel.DistributedDataParallel",
    "parallel": "it is dg.parallel",
    "RNNBase": "subclass RNN, LSTM or GRU",
    "RNNCellBase": "subclass RNNCell, LSTMCell or GRUCell",
}


def explain_name(name: str) -> Any:
    """The error for a name that ``dg.nn`` lacks.

    Raises:
        AttributeError: always; where the name is PyTorch's, it says what to write.
    """
    hint = f"; {_ELSEWHERE[name]}" if name in _ELSEWHERE else ""
    raise AttributeError(f"module 'distgrad.nn' has no attribute {name!r}{hint}")
