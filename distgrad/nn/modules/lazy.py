"""Modules that learn the width of their input from the first batch."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, ClassVar

from distgrad.autograd.tensor import Tensor
from distgrad.nn.module import Module
from distgrad.nn.modules import batchnorm, conv, linear
from distgrad.nn.parameter import UninitializedBuffer, UninitializedParameter

__all__ = [
    "LazyBatchNorm1d",
    "LazyBatchNorm2d",
    "LazyBatchNorm3d",
    "LazyConv1d",
    "LazyConv2d",
    "LazyConv3d",
    "LazyConvTranspose1d",
    "LazyConvTranspose2d",
    "LazyConvTranspose3d",
    "LazyInstanceNorm1d",
    "LazyInstanceNorm2d",
    "LazyInstanceNorm3d",
    "LazyLinear",
]


class _Lazy(Module):
    """What the lazy modules share: the first call gives them their sizes, and makes them ordinary ones.

    A lazy module is called once before it is given to an optimizer, wrapped or saved; a state dict can be
    loaded into it before.
    """

    becomes: ClassVar[type[Module]]
    _learn: Callable[[Tensor], dict[str, tuple[int, ...]]]  # notes the sizes; returns shapes by name
    weight: Any
    bias: Any

    def has_uninitialized_params(self) -> bool:
        """Whether a shape is still unknown."""
        tensors = [*self._parameters.values(), *self._buffers.values()]
        return any(isinstance(each, UninitializedParameter | UninitializedBuffer) for each in tensors)

    def initialize_parameters(self, input: Tensor) -> None:
        """Take the sizes from a batch, and draw initial values unless a state dict was loaded."""
        shapes = self._learn(input)
        drawn = self.has_uninitialized_params()
        for name, shape in shapes.items():
            tensor = self._parameters.get(name, self._buffers.get(name))
            if isinstance(tensor, UninitializedParameter | UninitializedBuffer):
                tensor.materialize(shape)
        self.__class__ = self.becomes  # type: ignore[assignment]
        if drawn:
            self.reset_parameters()

    def reset_parameters(self) -> None:
        """Nothing, before the sizes are known."""

    def _unlearn(self, device: Any, dtype: Any) -> None:
        """Parameters without a shape in place of those that the constructor made."""
        for name, parameter in self._parameters.items():
            if parameter is not None:
                self._parameters[name] = UninitializedParameter(True, device, dtype)

    def forward(self, input: Tensor, *args: Any) -> Tensor:
        """Learn the sizes, then compute as the ordinary module does from now on."""
        self.initialize_parameters(input)
        return self.forward(input, *args)


class LazyLinear(_Lazy, linear.Linear):
    """A :class:`Linear` whose ``in_features`` is the length of the first batch's last axis.

    Args:
        out_features: length of the output's last axis.
        bias: whether a bias is added.
        device: where the parameters will lie.
        dtype: of the parameters; None means float32.
    """

    becomes = linear.Linear

    def __init__(self, out_features: int, bias: bool = True, device: Any = None, dtype: Any = None) -> None:
        super().__init__(0, out_features, bias, device, dtype)
        self._unlearn(device, dtype)

    def _learn(self, input: Tensor) -> dict[str, tuple[int, ...]]:
        self.in_features = input.shape[-1]
        return {"weight": (self.out_features, self.in_features), "bias": (self.out_features,)}


class _LazyConv(_Lazy, conv._Convolution):
    """A convolution whose ``in_channels`` is that of the first batch."""

    def __init__(self, out_channels: int, *args: Any, **options: Any) -> None:
        super().__init__(0, out_channels, *args, **options)
        self._unlearn(options.get("device"), options.get("dtype"))

    def _learn(self, input: Tensor) -> dict[str, tuple[int, ...]]:
        channels = self.in_channels = input.shape[-self.num_axes - 1]
        channels_first = (self.out_channels, channels // self.groups)
        if issubclass(self.becomes, conv._ConvTranspose):
            channels_first = (channels, self.out_channels // self.groups)
        return {"weight": (*channels_first, *self.kernel_size), "bias": (self.out_channels,)}


class LazyConv1d(_LazyConv, conv.Conv1d):
    """A :class:`Conv1d` that learns ``in_channels``; the other arguments are the same."""

    becomes = conv.Conv1d


class LazyConv2d(_LazyConv, conv.Conv2d):
    """A :class:`Conv2d` that learns ``in_channels``; the other arguments are the same."""

    becomes = conv.Conv2d


class LazyConv3d(_LazyConv, conv.Conv3d):
    """A :class:`Conv3d` that learns ``in_channels``; the other arguments are the same."""

    becomes = conv.Conv3d


class LazyConvTranspose1d(_LazyConv, conv.ConvTranspose1d):
    """A :class:`ConvTranspose1d` that learns ``in_channels``; the other arguments are the same."""

    becomes = conv.ConvTranspose1d


class LazyConvTranspose2d(_LazyConv, conv.ConvTranspose2d):
    """A :class:`ConvTranspose2d` that learns ``in_channels``; the other arguments are the same."""

    becomes = conv.ConvTranspose2d


class LazyConvTranspose3d(_LazyConv, conv.ConvTranspose3d):
    """A :class:`ConvTranspose3d` that learns ``in_channels``; the other arguments are the same."""

    becomes = conv.ConvTranspose3d


class _LazyNorm(_Lazy, batchnorm._Norm):
    """A norm whose ``num_features`` is the number of channels of the first batch."""

    def __init__(self, *args: Any, **options: Any) -> None:
        super().__init__(0, *args, **options)
        device, dtype = options.get("device"), options.get("dtype")
        self._unlearn(device, dtype)
        for name in ("running_mean", "running_var"):
            if self._buffers[name] is not None:
                self._buffers[name] = UninitializedBuffer(device, dtype)

    def _learn(self, input: Tensor) -> dict[str, tuple[int, ...]]:
        instance = issubclass(self.becomes, batchnorm._InstanceNorm)
        self.num_features = input.shape[input.ndim - self.ndims[0] if instance else 1]
        return dict.fromkeys(("weight", "bias", "running_mean", "running_var"), (self.num_features,))


class LazyBatchNorm1d(_LazyNorm, batchnorm.BatchNorm1d):
    """A :class:`BatchNorm1d` that learns ``num_features``; the other arguments are the same."""

    becomes = batchnorm.BatchNorm1d


class LazyBatchNorm2d(_LazyNorm, batchnorm.BatchNorm2d):
    """A :class:`BatchNorm2d` that learns ``num_features``; the other arguments are the same."""

    becomes = batchnorm.BatchNorm2d


class LazyBatchNorm3d(_LazyNorm, batchnorm.BatchNorm3d):
    """A :class:`BatchNorm3d` that learns ``num_features``; the other arguments are the same."""

    becomes = batchnorm.BatchNorm3d


class LazyInstanceNorm1d(_LazyNorm, batchnorm.InstanceNorm1d):
    """An :class:`InstanceNorm1d` that learns ``num_features``; the other arguments are the same."""

    becomes = batchnorm.InstanceNorm1d


class LazyInstanceNorm2d(_LazyNorm, batchnorm.InstanceNorm2d):
    """An :class:`InstanceNorm2d` that learns ``num_features``; the other arguments are the same."""

    becomes = batchnorm.InstanceNorm2d


class LazyInstanceNorm3d(_LazyNorm, batchnorm.InstanceNorm3d):
    """An :class:`InstanceNorm3d` that learns ``num_features``; the other arguments are the same."""

    becomes = batchnorm.InstanceNorm3d
