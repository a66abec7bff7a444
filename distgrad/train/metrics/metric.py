"""What every metric is: sums and rows of this rank's samples, merged over all ranks by one exchange."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from distgrad.autograd.tensor import Tensor
from distgrad.comm.base import Communicator
from distgrad.comm.registry import init
from distgrad.errors import DataError, DTypeError, OptionError, ShapeError

__all__ = ["Metric", "Metrics", "classes_of", "numbers_of", "same_shape", "within"]

Sums = dict[str, NDArray[np.float64]]
Rows = dict[str, list[NDArray[Any]]]


def numbers_of(what: str, values: Any) -> NDArray[Any]:
    """Numbers as an array of the host.

    Args:
        what: the call and argument, for error messages.
        values: a tensor on any device, an array, or what ``numpy.asarray`` takes.

    Raises:
        DTypeError: they are no numbers.
    """
    array = values.detach().cpu().numpy() if isinstance(values, Tensor) else np.asarray(values)
    if array.dtype.name == "bfloat16":
        return array.astype(np.float32)
    if array.dtype.kind not in "buif":
        raise DTypeError(f"{what} must hold real numbers, got {array.dtype}")
    return array


def classes_of(what: str, values: Any) -> NDArray[np.int64]:
    """Classes as an array of the host.

    Args:
        what: the call and argument, for error messages.
        values: as for :func:`numbers_of`.

    Raises:
        DTypeError: they are no numbers.
        DataError: they are no whole ones.
    """
    array = numbers_of(what, values)
    if array.dtype.kind == "f" and not (np.isfinite(array) & (array == np.trunc(array))).all():
        raise DataError(f"{what} must hold classes, whole numbers from 0, got others")
    found: NDArray[np.int64] = array.astype(np.int64)
    return found


def within(what: str, classes: NDArray[np.int64], num_classes: int, advice: str) -> None:
    """Refuse classes beyond those that there are."""
    if classes.size and not 0 <= (low := classes.min()) <= (high := classes.max()) < num_classes:
        raise DataError(
            f"{what} must be classes from 0 to {num_classes - 1}, got {low if low < 0 else high}; {advice}"
        )


class Metric(ABC):
    """A number about all samples that all ranks have seen, each counted once.

    :meth:`update` takes in a batch on this rank alone; :meth:`compute` merges what the ranks have and gives
    the same bits on all of them. Ranks may have seen different numbers of samples, or none.

    A metric of your own calls :meth:`add_sum` and :meth:`add_rows` in its constructor, adds to ``self.sums``
    and appends to ``self.rows`` in ``update``, and says in :meth:`value` what follows from the merged ones.
    """

    def __init__(self) -> None:
        self._shapes: dict[str, tuple[int, ...]] = {}
        self._kept: list[str] = []
        self.sums: Sums = {}
        self.rows: Rows = {}

    def add_sum(self, name: str, shape: tuple[int, ...] = ()) -> None:
        """Keep a sum of this shape under ``self.sums[name]``, in float64, added up over the ranks."""
        self._shapes[name] = shape
        self.sums[name] = np.zeros(shape)

    def add_rows(self, name: str) -> None:
        """Keep arrays under ``self.rows[name]``, a list; merged, it holds those of rank 0 first."""
        self._kept.append(name)
        self.rows[name] = []

    @abstractmethod
    def update(self, *args: Any, **kwargs: Any) -> None:
        """Take in a batch of this rank.

        Collective: no; blocks: no.
        """

    @abstractmethod
    def value(self, sums: Mapping[str, NDArray[np.float64]], rows: Mapping[str, list[NDArray[Any]]]) -> Any:
        """What follows from the sums and rows of all ranks; NaN where that is undefined."""

    def compute(self, comm: Communicator | None = None) -> Any:
        """The value over the samples of all ranks; what was taken in stays.

        Collective: yes; blocks: yes.

        Args:
            comm: the ranks; None means the world's, ``dg.comm.init()``.
        """
        return Metrics(value=self).compute(comm)["value"]

    def reset(self) -> None:
        """Forget all samples.

        Collective: no; blocks: no.
        """
        self.sums = {name: np.zeros(shape) for name, shape in self._shapes.items()}
        self.rows = {name: [] for name in self._kept}


class Metrics(Mapping[str, Metric]):
    """Metrics by name, for all of which the ranks exchange their sums at once.

    ::

        metrics = dg.train.Metrics(loss=dg.train.Mean(), accuracy=dg.train.Accuracy())
        for images, labels in dg.train.evaluate(model, loader):
            scores = model(images)
            metrics["loss"].update(F.cross_entropy(scores, labels, reduction="none"))
            metrics["accuracy"].update(scores, labels)
        print(metrics.compute())            # {"loss": 0.07, "accuracy": 0.98}

    Args:
        metrics: by name, the same ones on every rank.
    """

    def __init__(self, **metrics: Metric) -> None:
        for name, metric in metrics.items():
            if not isinstance(metric, Metric):
                raise OptionError(f"Metrics: {name} must be a Metric, got {type(metric).__name__}")
        self._metrics = metrics

    def __getitem__(self, name: str) -> Metric:
        return self._metrics[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self._metrics)

    def __len__(self) -> int:
        return len(self._metrics)

    def compute(self, comm: Communicator | None = None) -> dict[str, Any]:
        """Every metric's value over the samples of all ranks.

        One all-reduce for all sums; one more exchange if any metric keeps rows, as rankings do.

        Collective: yes; blocks: yes.

        Args:
            comm: the ranks; None means the world's, ``dg.comm.init()``.
        """
        ranks = (init() if comm is None else comm).host
        sums = self._merge_sums(ranks)
        rows = self._merge_rows(ranks)
        return {name: metric.value(sums[name], rows[name]) for name, metric in self._metrics.items()}

    def _merge_sums(self, comm: Communicator) -> dict[str, Sums]:
        every = [array for metric in self._metrics.values() for array in metric.sums.values()]
        flat = np.concatenate([np.zeros(0), *(array.ravel() for array in every)])
        if flat.size:
            comm.all_reduce(flat)
        parts = iter(np.split(flat, np.cumsum([array.size for array in every])))
        return {
            name: {key: next(parts).reshape(array.shape) for key, array in metric.sums.items()}
            for name, metric in self._metrics.items()
        }

    def _merge_rows(self, comm: Communicator) -> dict[str, Rows]:
        own = {name: metric.rows for name, metric in self._metrics.items()}
        every = comm.all_gather_object(own) if any(own.values()) else [own]
        return {
            name: {key: [array for each in every for array in each[name][key]] for key in rows}
            for name, rows in own.items()
        }

    def reset(self) -> None:
        """Let every metric forget all samples.

        Collective: no; blocks: no.
        """
        for metric in self._metrics.values():
            metric.reset()


def same_shape(what: str, first: NDArray[Any], second: NDArray[Any]) -> None:
    """Refuse predictions and targets of different shapes."""
    if first.shape != second.shape:
        raise ShapeError(
            f"{what}: predictions are {list(first.shape)} but targets {list(second.shape)}; make both alike"
        )
