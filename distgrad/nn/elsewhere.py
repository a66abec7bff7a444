"""Names of ``torch.nn`` that stand elsewhere or are left out."""

from __future__ import annotations

from distgrad.names.lacking import lacking

__all__ = ["explain_name"]

explain_name = lacking(
    "module 'distgrad.nn'",
    {
        "SyncBatchNorm": "it stands in dg.parallel",
        "DataParallel": "one process a rank instead: dg.parallel.DistributedDataParallel",
        "parallel": "it is dg.parallel",
        "RNNBase": "subclass RNN, LSTM or GRU",
        "RNNCellBase": "subclass RNNCell, LSTMCell or GRUCell",
    },
)
