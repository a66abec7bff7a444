"""Batch norm over the samples of all ranks."""

from __future__ import annotations

from typing import Any

import numpy as np

from distgrad.autograd.creation import full
from distgrad.autograd.dispatch import operations as ops
from distgrad.autograd.function import Function
from distgrad.autograd.tensor import Tensor
from distgrad.backend.array_module import get_array_module
from distgrad.backend.device import at_hand
from distgrad.backend.recording import as_one_call
from distgrad.comm.base import Communicator
from distgrad.comm.registry import get_world, is_initialized
from distgrad.errors import ShapeError
from distgrad.nn.module import Module
from distgrad.nn.modules.batchnorm import _BatchNorm
from distgrad.nn.parameter import write
from distgrad.parallel.reducer import current_weight, launch_agreed

__all__ = ["SyncBatchNorm"]


class _Sum(Function):
    """The sum over the ranks; each rank's gradient counts as much as the rank does in its backward pass."""

    @staticmethod
    def forward(ctx: Any, *args: Any) -> Tensor:
        x, ctx.comm = args
        return Tensor(ctx.comm.all_reduce(x._data.copy()))

    @staticmethod
    def backward(ctx: Any, *grad_outputs: Any) -> Any:
        (g,) = grad_outputs
        weight = current_weight()  # by which the parameters' gradients will be multiplied
        share = g * weight if weight else ops.zeros_like(g)  # without samples g may be NaN
        total = _Sum.apply(share, ctx.comm)
        launch_agreed(ctx.comm)
        return total * (1.0 / weight if weight else 0.0), None


@as_one_call()
def _check_count(total: Any, shape: list[int]) -> None:
    if total[0] == 1.0:
        raise ShapeError(f"SyncBatchNorm: one element a channel has no variance; got {shape}")


class SyncBatchNorm(_BatchNorm):
    """Batch norm of ``[N, C, ...]`` whose mean and variance in training are those of all ranks' samples.

    Every element counts alike, however the samples are spread over the ranks; a rank may have none.
    Gradients are those of the global mean loss, as :class:`~distgrad.parallel.ddp.DistributedDataParallel`
    weighs it; a rank of weight 0 gets none, though its samples count in the mean and variance. In evaluation
    mode it is batch norm.

    Collective: yes, in training, forward and backward; blocks: yes.

    Args:
        num_features: C.
        eps: added to the variance.
        momentum: how far the running mean and variance move in a step; None: they are plain averages.
        affine: whether a weight and a bias are learned.
        track_running_stats: whether a running mean and variance are kept, and used in evaluation mode.
        process_group: the ranks' communicator; None takes all that were started together.
        device: where the parameters lie.
        dtype: of the parameters; None means float32.

    Source: Ioffe and Szegedy, ICML 2015.
    """

    ndims = (2, 3, 4, 5)

    def __init__(
        self,
        num_features: int,
        eps: float = 1e-5,
        momentum: float | None = 0.1,
        affine: bool = True,
        track_running_stats: bool = True,
        process_group: Communicator | None = None,
        device: Any = None,
        dtype: Any = None,
    ) -> None:
        super().__init__(num_features, eps, momentum, affine, track_running_stats, device, dtype)
        self.process_group = process_group

    @classmethod
    def convert_sync_batchnorm(cls, module: Module, process_group: Communicator | None = None) -> Module:
        """Put a synchronised one in the place of every batch norm in a module, with its very parameters.

        Collective: no; blocks: no.

        Args:
            module: changed in place.
            process_group: as for :class:`SyncBatchNorm`.

        Returns:
            The module, or what takes its place if it is a batch norm itself.
        """
        if isinstance(module, _BatchNorm):
            converted = cls(
                module.num_features,
                module.eps,
                module.momentum,
                affine=False,
                track_running_stats=False,
                process_group=process_group,
            )
            converted.affine = module.affine
            converted.track_running_stats = module.track_running_stats
            converted.training = module.training
            converted.weight, converted.bias = module.weight, module.bias
            for name in ("running_mean", "running_var", "num_batches_tracked"):
                converted.register_buffer(name, getattr(module, name))
            return converted
        for name, child in list(module.named_children()):
            changed = cls.convert_sync_batchnorm(child, process_group)
            if changed is not child:
                setattr(module, name, changed)
        return module

    def forward(self, input: Tensor) -> Tensor:
        """``[N, num_features, ...]``, and the same back."""
        group = self.process_group
        if group is None and is_initialized():
            group = get_world()
        if group is None or group.size == 1 or not (self.training or not self.track_running_stats):
            return super().forward(input)
        group = group if group.takes(input.device) else group.host
        self._check(input, 1)
        axes = (0, *range(2, input.ndim))
        shape = (1, self.num_features, *[1] * (input.ndim - 2))
        x = input.astype(np.float32) if input.dtype.itemsize < 4 else input
        count = full((1,), input.size // self.num_features, dtype=np.float64, device=input.device)
        sums = _Sum.apply(ops.concat([x.sum(axis=axes).astype(np.float64), count], axis=0), group)
        total: Any = sums._data[-1:]
        if at_hand(total):  # on a GPU nobody waits to see it
            _check_count(total, list(input.shape))
        total = Tensor(get_array_module(total).maximum(total, 1.0))
        mean = sums[:-1] / total
        centered = x - mean.astype(x.dtype).reshape(shape)
        squares = (centered * centered).sum(axis=axes).astype(np.float64)
        variance = _Sum.apply(squares, group) / total
        self._track(mean, variance, total)
        scale = 1.0 / ops.sqrt(variance + self.eps)
        y = centered * scale.astype(x.dtype).reshape(shape)
        if self.weight is not None:
            y = y * self.weight.reshape(shape)
        if self.bias is not None:
            y = y + self.bias.reshape(shape)
        return y.astype(input.dtype)

    def _count_batch(self) -> Any:
        """How far the running mean and variance move in this step; a number that may lie on the device."""
        if self.training and self.track_running_stats:
            count = self.num_batches_tracked._data
            count += 1  # where it lies
            self.num_batches_tracked.changed("BatchNorm")
            if self.momentum is None:
                return 1.0 / self.num_batches_tracked._data
        return self.momentum or 0.0

    def _track(self, mean: Tensor, variance: Tensor, total: Tensor) -> None:
        """Move the running mean and variance towards the batch's; where no rank has samples they stay."""
        momentum = self._count_batch() * (total._data > 1.0)
        if self.running_mean is not None:
            xp = get_array_module(total._data)
            unbiased = variance._data * (total._data / xp.maximum(total._data - 1.0, 1.0))
            for running, now in ((self.running_mean, mean._data), (self.running_var, unbiased)):
                write(running, (1.0 - momentum) * running._data + momentum * now, "SyncBatchNorm")
