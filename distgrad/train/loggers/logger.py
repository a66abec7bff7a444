"""What every logger can be told, on rank 0 alone."""

from __future__ import annotations

import operator
from abc import ABC, abstractmethod
from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from distgrad.autograd.tensor import Tensor
from distgrad.comm.registry import get_world, is_initialized
from distgrad.errors import OptionError
from distgrad.train.metrics.metric import numbers_of

__all__ = ["Logger", "Loggers", "number", "plain", "whole_step"]


def number(what: str, value: Any) -> float:
    """One number, from a tensor, an array or a Python number."""
    array = numbers_of(what, value)
    if array.size != 1:
        raise OptionError(f"{what} must be one real number, got {array.dtype}{list(array.shape)}")
    return float(array.reshape(()))


def whole_step(what: str, step: Any) -> int:
    """A step, from any kind of whole number."""
    try:
        return operator.index(step)
    except TypeError:
        raise OptionError(f"{what}: step must be a whole number, got {step!r}") from None


def plain(value: Any) -> Any:
    """The same in Python's own kinds: numbers and lists in place of tensors, arrays and numbers of NumPy."""
    if isinstance(value, Mapping):
        return {str(key): plain(each) for key, each in value.items()}
    if isinstance(value, list | tuple):
        return [plain(each) for each in value]
    return value.tolist() if isinstance(value, np.ndarray | np.generic | Tensor) else value


class Logger(ABC):
    """Writes down numbers, and what else its kind takes, on rank 0; on other ranks every call does nothing.

    ::

        with dg.train.CSVLogger("run/log.csv") as logger:
            logger.scalars(step, loss=loss, lr=lr)

    A call writes its own line or event: steps may repeat, and go back, as where epochs are counted
    beside steps.

    Attributes:
        is_writing: whether this rank is the one that writes.
        failed: whether an exception has ended the ``with`` statement, which services show as the run's state.
        reserved: names that the kind needs for itself.
    """

    reserved: tuple[str, ...] = ()

    def __init__(self) -> None:
        self.failed = self._closed = False
        self.is_writing = not is_initialized() or get_world().rank == 0
        if self.is_writing:
            self._open()

    def scalars(self, step: int, **values: Any) -> None:
        """Write one number under each name.

        Collective: no; blocks: no.

        Args:
            step: of the training.
            **values: numbers, or tensors of one.
        """
        if self._writes("scalars"):
            what = f"{type(self).__name__}.scalars"
            self._refuse_names(what, values)
            numbers = {name: number(f"{what}: {name}", each) for name, each in values.items()}
            self._scalars(whole_step(what, step), numbers)

    def histogram(self, step: int, name: str, values: Any, bins: int = 64) -> None:
        """Write how numbers are distributed.

        Collective: no; blocks: no.

        Args:
            step: of the training.
            name: of the histogram.
            values: numbers of any shape.
            bins: into how many equal ranges they are counted.
        """
        if self._writes("histogram"):
            what = f"{type(self).__name__}.histogram"
            if bins < 1:
                raise OptionError(f"{what}: bins must be 1 or more, got {bins}")
            self._histogram(whole_step(what, step), name, numbers_of(f"{what}: values", values).ravel(), bins)

    def image(self, step: int, name: str, picture: Any) -> None:
        """Write a picture.

        Collective: no; blocks: no.

        Args:
            step: of the training.
            name: of the picture.
            picture: ``[height, width]``, ``[1, height, width]`` or ``[3, height, width]``: bytes, or floating
                point from 0 to 1; numbers outside are cut off, NaN is 0. Truth values are 0 and 1.
        """
        if self._writes("image"):
            what = f"{type(self).__name__}.image"
            self._image(whole_step(what, step), name, _pixels(what, numbers_of(f"{what}: picture", picture)))

    def text(self, step: int, name: str, text: str) -> None:
        """Write a text.

        Collective: no; blocks: no.
        """
        if self._writes("text"):
            self._text(whole_step(f"{type(self).__name__}.text", step), name, text)

    def hyperparameters(self, values: Mapping[str, Any]) -> None:
        """Write the settings of the run: numbers, texts, truth values.

        Collective: no; blocks: no.
        """
        if self._writes("hyperparameters"):
            self._refuse_names(f"{type(self).__name__}.hyperparameters", values)
            self._hyperparameters(plain(dict(values)))

    def close(self) -> None:
        """Write what is left and close the files.

        Collective: no; blocks: no.
        """
        self._closed = True
        if self.is_writing:
            self.is_writing = False
            self._close()

    def __enter__(self) -> Logger:
        return self

    def __exit__(self, *exception: object) -> None:
        self.failed = _is_failure(exception[1])
        self.close()

    def _writes(self, verb: str) -> bool:
        """Whether this rank writes; on all alike an error once the logger is closed."""
        if self._closed:
            raise OptionError(
                f"{type(self).__name__}.{verb}: the logger is closed; write before close(), inside its with "
                "statement, or open it again with resume=STEP"
            )
        return self.is_writing

    # -- what a kind of logger does, on rank 0

    @abstractmethod
    def _open(self) -> None: ...

    @abstractmethod
    def _scalars(self, step: int, values: dict[str, float]) -> None: ...

    def _histogram(self, step: int, name: str, values: NDArray[Any], bins: int) -> None:
        raise self._refusal("histograms")

    def _image(self, step: int, name: str, pixels: NDArray[np.uint8]) -> None:
        raise self._refusal("pictures")

    def _text(self, step: int, name: str, text: str) -> None:
        raise self._refusal("texts")

    def _hyperparameters(self, values: dict[str, Any]) -> None:
        raise self._refusal("hyper-parameters")

    @abstractmethod
    def _close(self) -> None: ...

    def _refuse_names(self, what: str, names: Iterable[str]) -> None:
        taken = [name for name in names if name in self.reserved]
        if taken:
            raise OptionError(f"{what}: {taken[0]!r} is a field of every line; take another name")

    def _refusal(self, what: str) -> OptionError:
        return OptionError(
            f"{type(self).__name__}: takes numbers and no {what}; use JSONLogger, TensorBoardLogger, "
            "WandbLogger or MLflowLogger"
        )


def _is_failure(exception: object) -> bool:
    """Whether it ends a program as failed, where ``sys.exit(0)`` does not."""
    return exception is not None and not (isinstance(exception, SystemExit) and not exception.code)


def _pixels(what: str, picture: NDArray[Any]) -> NDArray[np.uint8]:
    """``[height, width, 3]`` bytes."""
    if picture.ndim == 2:
        picture = picture[None]
    if picture.ndim != 3 or picture.shape[0] not in (1, 3):
        raise OptionError(
            f"{what}: a picture must be [height, width] or [1 or 3, height, width], got {list(picture.shape)}"
        )
    if picture.size == 0:
        raise OptionError(f"{what}: a picture must hold a pixel or more, got {list(picture.shape)}")
    if picture.dtype.kind in "bf":
        picture = np.round(np.clip(np.nan_to_num(picture.astype(np.float64)), 0, 1) * 255)
    elif picture.min() < 0 or picture.max() > 255:
        raise OptionError(
            f"{what}: whole numbers must be bytes, from 0 to 255, got {picture.min()} to {picture.max()}"
        )
    rows = np.broadcast_to(np.moveaxis(picture, 0, -1), (*picture.shape[1:], 3))
    return np.ascontiguousarray(rows.astype(np.uint8))


class Loggers:
    """Several loggers that are told the same; each ignores what its kind does not take.

    Args:
        *loggers: of any kind; at least one.
    """

    def __init__(self, *loggers: Logger) -> None:
        if not loggers:
            raise OptionError("Loggers: expected at least one logger")
        self.loggers = loggers

    def __getattr__(self, name: str) -> Any:
        if name not in ("scalars", "histogram", "image", "text", "hyperparameters"):
            raise AttributeError(f"Loggers has no attribute {name!r}")

        def call(*args: Any, **options: Any) -> None:
            for logger in self.loggers:
                if getattr(type(logger), f"_{name}") is not getattr(Logger, f"_{name}"):
                    getattr(logger, name)(*args, **options)

        return call

    def close(self) -> None:
        """Close all of them."""
        for logger in self.loggers:
            logger.close()

    def __enter__(self) -> Loggers:
        return self

    def __exit__(self, *exception: object) -> None:
        for logger in self.loggers:
            logger.__exit__(*exception)
