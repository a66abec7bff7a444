"""Layers and the batch norm behind them as one layer: ``torch.nn.utils.fuse_*``."""

from __future__ import annotations

import copy
from typing import Any

from distgrad.autograd.dispatch import operations as ops
from distgrad.autograd.tensor import Tensor
from distgrad.errors import OptionError
from distgrad.nn.module import Module
from distgrad.nn.parameter import Parameter

__all__ = ["fuse_conv_bn_eval", "fuse_conv_bn_weights", "fuse_linear_bn_eval", "fuse_linear_bn_weights"]


def _fused(
    weight: Tensor, bias: Any, mean: Tensor, var: Tensor, eps: float, scale: Any, shift: Any, axis: int
) -> tuple[Parameter, Parameter]:
    """``w s / sqrt(var + eps)`` and ``(b - mean) s / sqrt(var + eps) + shift`` along the axis of outputs."""
    factor = ops.reciprocal(ops.sqrt(var + eps))
    factor = factor if scale is None else factor * scale
    moved = -mean if bias is None else bias - mean
    shape = [1] * weight.ndim
    shape[axis] = -1
    whole = moved * factor if shift is None else moved * factor + shift
    weight = (weight * ops.reshape(factor, tuple(shape))).detach()
    return Parameter(weight), Parameter(whole.detach())


def fuse_conv_bn_weights(
    conv_w: Tensor, conv_b: Any, bn_rm: Tensor, bn_rv: Tensor, bn_eps: float, bn_w: Any, bn_b: Any,
    transpose: bool = False,
) -> tuple[Parameter, Parameter]:  # fmt: skip
    """Weight and bias of a convolution that does what it and the batch norm behind it do in ``eval``."""
    return _fused(conv_w, conv_b, bn_rm, bn_rv, bn_eps, bn_w, bn_b, 1 if transpose else 0)


def fuse_linear_bn_weights(
    linear_w: Tensor, linear_b: Any, bn_rm: Tensor, bn_rv: Tensor, bn_eps: float, bn_w: Any, bn_b: Any
) -> tuple[Parameter, Parameter]:
    """The same of a linear layer."""
    return _fused(linear_w, linear_b, bn_rm, bn_rv, bn_eps, bn_w, bn_b, 0)


def _together(layer: Module, norm: Module, where: str, axis: int = 0) -> Module:
    if layer.training or norm.training:
        raise OptionError(f"{where}: call eval() of both modules first; what is fused learns nothing")
    found = copy.deepcopy(layer)
    found.weight, found.bias = _fused(
        layer.weight, layer.bias, norm.running_mean, norm.running_var, norm.eps, norm.weight, norm.bias, axis
    )
    return found


def fuse_conv_bn_eval(conv: Module, bn: Module, transpose: bool = False) -> Module:
    """A convolution that does what it and the batch norm behind it do in ``eval``.

    Raises:
        OptionError: one of them is in training.
    """
    return _together(conv, bn, "fuse_conv_bn_eval", 1 if transpose else 0)


def fuse_linear_bn_eval(linear: Module, bn: Module) -> Module:
    """The same of a linear layer."""
    return _together(linear, bn, "fuse_linear_bn_eval")
