"""Losses of label sequences, and of very many classes."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np

from distgrad.autograd.dispatch import operations as ops
from distgrad.autograd.tensor import Tensor
from distgrad.backend.device import CPU, to_device
from distgrad.errors import OptionError, OutOfBoundsError, ShapeError
from distgrad.nn.functional.sequences import ctc_loss
from distgrad.nn.module import Module
from distgrad.nn.modules.containers import ModuleList, Sequential
from distgrad.nn.modules.linear import Linear
from distgrad.nn.modules.loss import Loss

__all__ = ["AdaptiveLogSoftmaxWithLoss", "CTCLoss"]


class CTCLoss(Loss):
    """Negative log-likelihood of label sequences of unknown alignment.

    Args:
        blank: the class that stands for no label.
        reduction: "none", "sum", or "mean", which divides each sequence's loss by its number of labels first.
        zero_infinity: 0 instead of ∞ where a sequence is too short for its labels.

    Source: Graves et al., ICML 2006.
    """

    def __init__(self, blank: int = 0, reduction: str = "mean", zero_infinity: bool = False) -> None:
        super().__init__(reduction)
        self.blank = blank
        self.zero_infinity = zero_infinity

    def forward(self, log_probs: Tensor, targets: Any, input_lengths: Any, target_lengths: Any) -> Tensor:
        """``[T, N, C]``, labels, and how many time steps and labels each sequence has."""
        return ctc_loss(
            log_probs,
            targets,
            input_lengths,
            target_lengths,
            self.blank,
            self.reduction,
            self.zero_infinity,
        )


class _Result(NamedTuple):
    """What an adaptive softmax gives.

    Attributes:
        output: the log-probability of each target.
        loss: the mean of their negatives.
    """

    output: Tensor
    loss: Tensor


class AdaptiveLogSoftmaxWithLoss(Module):
    """Log-softmax over very many classes, of which the rare ones are grouped and get fewer features.

    Args:
        in_features: features of the input.
        n_classes: classes, the frequent ones first.
        cutoffs: the first class of each group of rare ones, rising.
        div_value: by how much the features of each group are fewer than those of the one before.
        head_bias: whether the frequent classes' scores have a bias.
        device: where the parameters lie.
        dtype: of the parameters; None means float32.

    Source: Grave et al., ICML 2017.
    """

    def __init__(
        self,
        in_features: int,
        n_classes: int,
        cutoffs: Sequence[int],
        div_value: float = 4.0,
        head_bias: bool = False,
        device: Any = None,
        dtype: Any = None,
    ) -> None:
        super().__init__()
        bounds = [int(cutoff) for cutoff in cutoffs]
        if not bounds or bounds != sorted(set(bounds)) or bounds[0] < 1 or bounds[-1] >= n_classes:
            raise OptionError(
                f"AdaptiveLogSoftmaxWithLoss: cutoffs must rise from 1 to {n_classes - 1}, "
                f"got {list(cutoffs)}"
            )
        self.in_features = in_features
        self.n_classes = n_classes
        self.cutoffs = [*bounds, n_classes]
        self.div_value = div_value
        self.head_bias = head_bias
        self.shortlist_size = bounds[0]
        self.n_clusters = len(bounds)
        self.head_size = self.shortlist_size + self.n_clusters
        place = {"device": device, "dtype": dtype}
        self.head = Linear(in_features, self.head_size, head_bias, **place)
        self.tail = ModuleList()
        for i in range(self.n_clusters):
            width = int(in_features // div_value ** (i + 1))
            size = self.cutoffs[i + 1] - self.cutoffs[i]
            first = Linear(in_features, width, bias=False, **place)
            self.tail.append(Sequential(first, Linear(width, size, bias=False, **place)))

    def reset_parameters(self) -> None:
        """Draw new initial values."""
        for module in self.modules():
            if isinstance(module, Linear):
                module.reset_parameters()

    def forward(self, input: Tensor, target: Any) -> _Result:
        """``[N, in_features]`` and class numbers ``[N]``, or without N, to the loss and its parts."""
        # which rows go to which cluster decides shapes, so the host has to know the classes
        classes = to_device(target._data, CPU) if isinstance(target, Tensor) else np.asarray(target)
        if input.ndim not in (1, 2) or classes.shape != input.shape[:-1]:
            raise ShapeError(
                f"AdaptiveLogSoftmaxWithLoss: expected [N, {self.in_features}] and [N], got "
                f"{list(input.shape)} and {list(classes.shape)}"
            )
        if classes.size and (classes.min() < 0 or classes.max() >= self.n_classes):
            raise OutOfBoundsError(
                f"AdaptiveLogSoftmaxWithLoss: target must lie in 0 ... {self.n_classes - 1}, got "
                f"{classes.min()} to {classes.max()}"
            )
        if input.ndim == 1:
            output, loss = self.forward(ops.expand_dims(input, axis=0), classes[None])
            return _Result(ops.squeeze(output, 0), loss)
        group = np.searchsorted(self.cutoffs, classes, side="right")
        in_head = np.where(group == 0, classes, self.shortlist_size + group - 1)
        scores = ops.log_softmax(self.head(input), axis=1)
        output = ops.getitem(scores, self._key(input, np.arange(len(classes)), in_head))
        for i, tail in enumerate(self.tail):
            (rows,) = np.nonzero(group == i + 1)
            if rows.size:
                part = ops.log_softmax(tail(ops.getitem(input, self._key(input, rows))), axis=1)
                columns = classes[rows] - self.cutoffs[i]
                chosen = ops.getitem(part, self._key(input, np.arange(len(rows)), columns))
                output = output + ops.put_zeros(chosen, self._key(input, rows), output.shape)
        return _Result(output, -ops.mean(output))

    @staticmethod
    def _key(like: Tensor, *indices: np.ndarray) -> tuple[Any, ...]:
        """Indices that the host has found, where the scores lie."""
        return tuple([to_device(each, like.device) for each in indices])

    def log_prob(self, input: Tensor) -> Tensor:
        """``[N, in_features]`` to the log-probabilities of all classes, ``[N, n_classes]``."""
        head = ops.log_softmax(self.head(input), axis=1)
        parts = [head[:, : self.shortlist_size]]
        for i, tail in enumerate(self.tail):
            place = self.shortlist_size + i
            parts.append(ops.log_softmax(tail(input), axis=1) + head[:, place : place + 1])
        return ops.concat(parts, axis=1)

    def predict(self, input: Tensor) -> Tensor:
        """``[N, in_features]`` to the likeliest class of each row, ``[N]``."""
        return ops.argmax(self.log_prob(input), axis=1)
