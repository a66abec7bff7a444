"""Distances and angles, and the bilinear map."""

from __future__ import annotations

import math
from typing import Any

from distgrad.autograd.creation import zeros
from distgrad.autograd.tensor import Tensor
from distgrad.errors import OptionError
from distgrad.nn import init
from distgrad.nn.functional import distances as F
from distgrad.nn.module import Module
from distgrad.nn.parameter import Parameter

__all__ = ["Bilinear", "CosineSimilarity", "PairwiseDistance"]


class CosineSimilarity(Module):
    """``Σ x1 x2 / (‖x1‖ ‖x2‖)`` along an axis.

    Args:
        dim: the axis.
        eps: the smallest a norm counts as.
    """

    def __init__(self, dim: int = 1, eps: float = 1e-8) -> None:
        super().__init__()
        self.dim = dim
        self.eps = eps

    def forward(self, x1: Tensor, x2: Tensor) -> Tensor:
        """Two shapes that broadcast, to that shape without the axis."""
        return F.cosine_similarity(x1, x2, self.dim, self.eps)


class PairwiseDistance(Module):
    """``‖x1 − x2 + eps‖_p`` along the last axis.

    Args:
        p: order of the norm.
        eps: added to every difference.
        keepdim: keep the last axis, with length 1.
    """

    def __init__(self, p: float = 2.0, eps: float = 1e-6, keepdim: bool = False) -> None:
        super().__init__()
        self.norm = p
        self.eps = eps
        self.keepdim = keepdim

    def forward(self, x1: Tensor, x2: Tensor) -> Tensor:
        """Two shapes that broadcast, to that shape without the last axis."""
        return F.pairwise_distance(x1, x2, self.norm, self.eps, self.keepdim)


class Bilinear(Module):
    """``y_o = x1ᵀ weight_o x2 + bias_o``.

    Args:
        in1_features, in2_features: lengths of the inputs' last axes.
        out_features: length of the output's.
        bias: whether a bias is added.
        device: where the parameters lie.
        dtype: of the parameters; None means float32.

    Attributes:
        weight: ``[out_features, in1_features, in2_features]``, uniform on ±1/√in1_features.
        bias: ``[out_features]``, the same.
    """

    bias: Parameter | None

    def __init__(
        self,
        in1_features: int,
        in2_features: int,
        out_features: int,
        bias: bool = True,
        device: Any = None,
        dtype: Any = None,
    ) -> None:
        super().__init__()
        if in1_features < 1:
            raise OptionError(f"Bilinear: in1_features must be at least 1, got {in1_features}")
        self.in1_features = in1_features
        self.in2_features = in2_features
        self.out_features = out_features
        shape = (out_features, in1_features, in2_features)
        self.weight = Parameter(zeros(shape, dtype=dtype, device=device))
        self.bias = Parameter(zeros(out_features, dtype=dtype, device=device)) if bias else None
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Draw new initial values."""
        bound = 1 / math.sqrt(self.in1_features)
        init.uniform_(self.weight, -bound, bound)
        if self.bias is not None:
            init.uniform_(self.bias, -bound, bound)

    def forward(self, input1: Tensor, input2: Tensor) -> Tensor:
        """``[..., in1_features]`` and ``[..., in2_features]`` to ``[..., out_features]``."""
        return F.bilinear(input1, input2, self.weight, self.bias)

    def extra_repr(self) -> str:
        """The sizes."""
        return (
            f"in1_features={self.in1_features}, in2_features={self.in2_features}, "
            f"out_features={self.out_features}, bias={self.bias is not None}"
        )
