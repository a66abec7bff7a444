"""``torch.nn.utils.fusion``: a batch norm that no longer learns becomes part of the layer before it."""

from __future__ import annotations

import copy
from typing import Any

from distgrad.autograd.modes import no_grad
from distgrad.errors import OptionError
from distgrad.nn.parameter import Parameter

__all__ = ["fuse_conv_bn_eval", "fuse_conv_bn_weights", "fuse_linear_bn_eval", "fuse_linear_bn_weights"]


def fuse_conv_bn_weights(
    conv_w: Any, conv_b: Any, bn_rm: Any, bn_rv: Any, bn_eps: float, bn_w: Any, bn_b: Any,
    transpose: bool = False,
) -> tuple[Parameter, Parameter]:  # fmt: skip
    """Weight and bias of a convolution that is followed by a batch norm.

    ``w' = w γ / √(v + ε)``, ``b' = (b − m) γ / √(v + ε) + β``.

    Args:
        conv_w, conv_b: the convolution's; None for no bias.
        bn_rm, bn_rv, bn_eps: the batch norm's running mean m and variance v, and its ε.
        bn_w, bn_b: its γ and β; None for 1 and 0.
        transpose: whether the weight's second axis is that of the outputs.
    """
    with no_grad():
        scale = (bn_rv + bn_eps).rsqrt() * (1.0 if bn_w is None else bn_w)
        axes = [1, -1] if transpose else [-1, 1]
        weight = conv_w * scale.reshape(axes + [1] * (conv_w.ndim - 2))
        bias = ((0.0 if conv_b is None else conv_b) - bn_rm) * scale + (0.0 if bn_b is None else bn_b)
    return Parameter(weight.to(conv_w.dtype), conv_w.requires_grad), Parameter(bias, conv_w.requires_grad)


def fuse_linear_bn_weights(
    linear_w: Any, linear_b: Any, bn_rm: Any, bn_rv: Any, bn_eps: float, bn_w: Any, bn_b: Any
) -> tuple[Parameter, Parameter]:
    """As :func:`fuse_conv_bn_weights`, of a linear layer."""
    return fuse_conv_bn_weights(linear_w, linear_b, bn_rm, bn_rv, bn_eps, bn_w, bn_b)


def fuse_conv_bn_eval(conv: Any, bn: Any, transpose: bool = False) -> Any:
    """A copy of the convolution that does what both do outside training; arguments: the two modules.

    Raises:
        OptionError: modules in training, or a batch norm without running statistics.
    """
    if conv.training or bn.training or bn.running_mean is None:
        raise OptionError("fuse: expected modules after eval(), the batch norm with running statistics")
    fused = copy.deepcopy(conv)
    statistics = (bn.running_mean, bn.running_var, bn.eps, bn.weight, bn.bias)
    fused.weight, fused.bias = fuse_conv_bn_weights(conv.weight, conv.bias, *statistics, transpose)
    return fused


def fuse_linear_bn_eval(linear: Any, bn: Any) -> Any:
    """As :func:`fuse_conv_bn_eval`, of a linear layer."""
    return fuse_conv_bn_eval(linear, bn)
