"""Pooling in one, two and three dimensions, of ``[N, C, ...]`` or of one sample without N.

The functions of a kind take the same arguments, whatever the number of dimensions, so a kind is written once.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from distgrad.autograd.dispatch import operations as ops
from distgrad.autograd.ops.shape_rules import pairs
from distgrad.autograd.tensor import Tensor
from distgrad.nn.functional.arguments import batched

__all__ = [
    "adaptive_avg_pool1d",
    "adaptive_avg_pool2d",
    "adaptive_avg_pool3d",
    "adaptive_max_pool1d",
    "adaptive_max_pool2d",
    "adaptive_max_pool3d",
    "avg_pool1d",
    "avg_pool2d",
    "avg_pool3d",
    "lp_pool1d",
    "lp_pool2d",
    "lp_pool3d",
    "max_pool1d",
    "max_pool2d",
    "max_pool3d",
    "max_unpool1d",
    "max_unpool2d",
    "max_unpool3d",
]

Size = int | Sequence[int]


class _Pool:
    """A function for a number of spatial axes, which messages name it by."""

    def __init__(self, kind: str, spatial: int) -> None:
        self.spatial = spatial
        self.__name__ = f"{kind}{spatial}d"
        self.__doc__ = f"{type(self).__doc__}\n\nOver {spatial} spatial axes."

    def __repr__(self) -> str:
        return f"<function {self.__name__}>"


class _MaxPool(_Pool):
    """Largest element of each window."""

    def __call__(
        self,
        input: Tensor,
        kernel_size: Size,
        stride: Size | None = None,
        padding: Size = 0,
        dilation: Size = 1,
        ceil_mode: bool = False,
        return_indices: bool = False,
    ) -> Any:
        """Slide a window.

        Args:
            input: ``[N, C, ...]`` or ``[C, ...]``.
            kernel_size: length of the window, one number a spatial axis or one for all; so the next three.
            stride: step of the window; None means its length.
            padding: elements, never the largest, added to both ends.
            dilation: distance of the window's elements.
            ceil_mode: one more window where the last one leaves elements over.
            return_indices: give each element's place in its channel's flattened plane too.
        """
        name = self.__name__
        kernel = pairs(kernel_size, self.spatial, name, "kernel_size")
        steps = kernel if stride is None else pairs(stride, self.spatial, name, "stride")
        ends = pairs(padding, self.spatial, name, "padding", 0)
        spread = pairs(dilation, self.spatial, name, "dilation")

        def run(x: Tensor) -> Any:
            if return_indices:
                return ops.max_pool_with_indices(x, kernel, steps, ends, spread, ceil_mode)
            return ops.max_pool(
                x, kernel_size=kernel, stride=steps, padding=ends, dilation=spread, ceil_mode=ceil_mode
            )

        return batched(input, self.spatial + 2, name, run)


class _AvgPool(_Pool):
    """Mean of each window."""

    def __call__(
        self,
        input: Tensor,
        kernel_size: Size,
        stride: Size | None = None,
        padding: Size = 0,
        ceil_mode: bool = False,
        count_include_pad: bool = True,
        divisor_override: int | None = None,
    ) -> Tensor:
        """Slide a window.

        Args:
            input: ``[N, C, ...]`` or ``[C, ...]``.
            kernel_size: length of the window, one number a spatial axis or one for all, as are the next two.
            stride: step of the window; None means its length.
            padding: zeros added to both ends.
            ceil_mode: one more window where the last one leaves elements over.
            count_include_pad: whether the zeros count in the divisor.
            divisor_override: a divisor in the place of the window's size.
        """
        kernel = pairs(kernel_size, self.spatial, self.__name__, "kernel_size")

        def run(x: Tensor) -> Tensor:
            return ops.avg_pool(x, kernel, stride, padding, ceil_mode, count_include_pad, divisor_override)

        return batched(input, self.spatial + 2, self.__name__, run)


class _LPPool(_Pool):
    """p-norm of each window."""

    def __call__(
        self,
        input: Tensor,
        norm_type: float,
        kernel_size: Size,
        stride: Size | None = None,
        ceil_mode: bool = False,
    ) -> Tensor:
        """Slide a window.

        Args:
            input: ``[N, C, ...]`` or ``[C, ...]``.
            norm_type: p.
            kernel_size: length of the window, one number a spatial axis or one for all, as is the next.
            stride: step of the window; None means its length.
            ceil_mode: one more window where the last one leaves elements over.
        """
        kernel = pairs(kernel_size, self.spatial, self.__name__, "kernel_size")

        def run(x: Tensor) -> Tensor:
            return ops.lp_pool(x, norm_type, kernel, stride, ceil_mode)

        return batched(input, self.spatial + 2, self.__name__, run)


class _AdaptiveAvgPool(_Pool):
    """Means of windows that cover each spatial axis evenly."""

    def __call__(self, input: Tensor, output_size: Any) -> Tensor:
        """Pool to given lengths.

        Args:
            input: ``[N, C, ...]`` or ``[C, ...]``.
            output_size: lengths of the result's spatial axes, or one for all; None keeps an axis.
        """
        return batched(
            input, self.spatial + 2, self.__name__, lambda x: ops.adaptive_avg_pool(x, output_size)
        )


class _AdaptiveMaxPool(_Pool):
    """Largest elements of windows that cover each spatial axis evenly."""

    def __call__(self, input: Tensor, output_size: Any, return_indices: bool = False) -> Any:
        """Pool to given lengths.

        Args:
            input: ``[N, C, ...]`` or ``[C, ...]``.
            output_size: lengths of the result's spatial axes, or one for all; None keeps an axis.
            return_indices: give each element's place in its channel's flattened plane too.
        """
        y, index = batched(
            input, self.spatial + 2, self.__name__, lambda x: ops.adaptive_max_pool(x, output_size)
        )
        return (y, index) if return_indices else y


class _MaxUnpool(_Pool):
    """Elements put back to where max pooling took them from, zeros elsewhere."""

    def __call__(
        self,
        input: Tensor,
        indices: Tensor,
        kernel_size: Size,
        stride: Size | None = None,
        padding: Size = 0,
        output_size: Sequence[int] | None = None,
    ) -> Tensor:
        """Undo a pooling.

        Args:
            input: ``[N, C, ...]`` or ``[C, ...]``.
            indices: what the pooling gave with ``return_indices``.
            kernel_size, stride, padding: the pooling's.
            output_size: the spatial lengths before it, or that whole shape; None: the shortest that fit.
        """
        kernel = pairs(kernel_size, self.spatial, self.__name__, "kernel_size")
        steps = kernel if stride is None else pairs(stride, self.spatial, self.__name__, "stride")
        ends = pairs(padding, self.spatial, self.__name__, "padding", 0)
        lengths = tuple(
            (n - 1) * s - 2 * p + k
            for n, s, p, k in zip(input.shape[-self.spatial :], steps, ends, kernel, strict=True)
        )
        if output_size is not None:
            lengths = tuple(output_size)[-self.spatial :]
        index = indices if input.ndim == self.spatial + 2 else ops.expand_dims(indices, axis=0)
        return batched(input, self.spatial + 2, self.__name__, lambda x: ops.max_unpool(x, index, lengths))


max_pool1d, max_pool2d, max_pool3d = (_MaxPool("max_pool", n) for n in (1, 2, 3))
avg_pool1d, avg_pool2d, avg_pool3d = (_AvgPool("avg_pool", n) for n in (1, 2, 3))
lp_pool1d, lp_pool2d, lp_pool3d = (_LPPool("lp_pool", n) for n in (1, 2, 3))
max_unpool1d, max_unpool2d, max_unpool3d = (_MaxUnpool("max_unpool", n) for n in (1, 2, 3))
adaptive_avg_pool1d, adaptive_avg_pool2d, adaptive_avg_pool3d = (
    _AdaptiveAvgPool("adaptive_avg_pool", n) for n in (1, 2, 3)
)
adaptive_max_pool1d, adaptive_max_pool2d, adaptive_max_pool3d = (
    _AdaptiveMaxPool("adaptive_max_pool", n) for n in (1, 2, 3)
)
