"""Layers of image networks."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from distgrad.autograd.creation import ones, zeros
from distgrad.autograd.dispatch import operations as ops
from distgrad.autograd.tensor import Tensor
from distgrad.nn.module import Module
from distgrad.nn.modules.activation import ReLU, Sigmoid
from distgrad.nn.modules.batchnorm import BatchNorm2d
from distgrad.nn.modules.containers import Sequential
from distgrad.nn.modules.conv import Conv2d
from distgrad.nn.modules.pooling import AdaptiveAvgPool2d

__all__ = ["Conv2dNormActivation", "FrozenBatchNorm2d", "SqueezeExcitation"]


class FrozenBatchNorm2d(Module):
    """Batch normalization whose statistics and parameters are buffers, which training leaves as they are.

    Args:
        num_features: channels.
        eps: added to variances.
    """

    weight: Any
    bias: Any
    running_mean: Any
    running_var: Any

    def __init__(self, num_features: int, eps: float = 1e-5) -> None:
        super().__init__()
        self.eps = eps
        for name, make in (("weight", ones), ("bias", zeros), ("running_mean", zeros), ("running_var", ones)):
            self.register_buffer(name, make(num_features))

    def forward(self, x: Tensor) -> Tensor:
        """``[N, C, H, W]``, normalized."""
        scale = self.weight / ops.sqrt(self.running_var + self.eps)
        shift = self.bias - self.running_mean * scale
        return x * scale.reshape((1, -1, 1, 1)) + shift.reshape((1, -1, 1, 1))


class Conv2dNormActivation(Sequential):
    """A convolution, a normalization and an activation.

    Args:
        in_channels, out_channels, kernel_size, stride, groups, dilation: of the convolution.
        padding: None for what keeps the size.
        norm_layer, activation_layer: make the others; None for none.
        inplace: of the activation; None for its own default.
        bias: of the convolution; None for one where there is no normalization.
    """

    def __init__(self, in_channels: int, out_channels: int, kernel_size: int = 3, stride: int = 1,
                 padding: int | None = None, groups: int = 1,
                 norm_layer: Callable[..., Module] | None = BatchNorm2d,
                 activation_layer: Callable[..., Module] | None = ReLU, dilation: int = 1,
                 inplace: bool | None = True, bias: bool | None = None) -> None:  # fmt: skip
        if padding is None:
            padding = (kernel_size - 1) // 2 * dilation
        has_bias = norm_layer is None if bias is None else bias
        parts: list[Module] = [
            Conv2d(in_channels, out_channels, kernel_size, stride, padding, dilation, groups, has_bias)
        ]
        if norm_layer is not None:
            parts.append(norm_layer(out_channels))
        if activation_layer is not None:
            parts.append(activation_layer(**({} if inplace is None else {"inplace": inplace})))
        super().__init__(*parts)
        self.out_channels = out_channels


class SqueezeExcitation(Module):
    """Channels times weights that are computed of the means of all channels.

    Source: Hu, Shen and Sun, "Squeeze-and-excitation networks", CVPR 2018.

    Args:
        input_channels: of the image.
        squeeze_channels: between the two maps.
        activation, scale_activation: make what follows the first and the second.
    """

    def __init__(
        self, input_channels: int, squeeze_channels: int, activation: Callable[..., Module] = ReLU,
        scale_activation: Callable[..., Module] = Sigmoid,
    ) -> None:  # fmt: skip
        super().__init__()
        self.avgpool = AdaptiveAvgPool2d(1)
        self.fc1 = Conv2d(input_channels, squeeze_channels, 1)
        self.fc2 = Conv2d(squeeze_channels, input_channels, 1)
        self.activation, self.scale_activation = activation(), scale_activation()

    def forward(self, input: Tensor) -> Tensor:
        """``[N, C, H, W]``, weighted."""
        scale = self.activation(self.fc1(self.avgpool(input)))
        return input * self.scale_activation(self.fc2(scale))
