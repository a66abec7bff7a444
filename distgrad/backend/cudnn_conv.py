"""Convolutions by cuDNN: forward, with the bias in the same launch, and the gradients in x and weight.

float32 is float32, unless ``set_float32_matmul_precision`` lets the tensor cores round it; numbers of 16 bits
are summed in float32. Arrays lie in row order, channels before places.
"""

from __future__ import annotations

from typing import Any, NamedTuple

from distgrad.backend.cudnn import ALIGNED, data_type, is_exact, plan_for, steps_of

__all__ = ["ConvolutionSetting", "compute"]

_MOST_BYTES = 256 << 20  # of workspace
_X, _WEIGHT, _Y, _BIAS = 1, 2, 3, 4
_RESULTS = {"forward": _Y, "input": _X, "weight": _WEIGHT}

Sizes = tuple[int, ...]


class ConvolutionSetting(NamedTuple):
    """A convolution, or one of its gradients.

    Args:
        result: ``"forward"``, or the input whose gradient it is.
        char: the dtype's.
        exact: as :func:`is_exact` has it.
        has_bias: whether one is added.
        x, weight, y: shapes, of two or three axes behind the channels.
        stride, padding, dilation: a number an axis.
    """

    result: str
    char: str
    exact: bool
    has_bias: bool
    x: Sizes
    weight: Sizes
    y: Sizes
    stride: Sizes
    padding: Sizes
    dilation: Sizes

    @property
    def most_bytes(self) -> int:
        """Of workspace."""
        return _MOST_BYTES

    def declare(self, library: Any, graph: Any) -> None:
        """Enter the operation."""
        kind, shapes = data_type(library, self.char), {_X: self.x, _WEIGHT: self.weight, _Y: self.y}
        number = _RESULTS[self.result]

        def tensor(number: int, shape: Sizes) -> Any:
            return graph.tensor(dim=list(shape), stride=steps_of(shape), data_type=kind, uid=number)

        given = {each: tensor(each, shape) for each, shape in shapes.items() if each != number}
        how = {name: list(getattr(self, name)) for name in ("padding", "stride", "dilation")}
        how["compute_data_type"] = library.data_type.FLOAT
        if self.result == "forward":
            out = graph.conv_fprop(image=given[_X], weight=given[_WEIGHT], **how)
        elif self.result == "input":
            out = graph.conv_dgrad(loss=given[_Y], filter=given[_WEIGHT], **how)
        else:
            out = graph.conv_wgrad(image=given[_X], loss=given[_Y], **how)
        if self.has_bias:
            ones = (1,) * (len(self.y) - 2)
            out = graph.bias(input=out, bias=tensor(_BIAS, (1, self.y[1], *ones)))
        shape = shapes[number]
        out.set_uid(number).set_output(True).set_data_type(kind)
        out.set_dim(list(shape)).set_stride(steps_of(shape))


def _is_aligned(x: Any) -> bool:
    return x is None or x.data.ptr % ALIGNED == 0


def compute(
    result: str, x: Any, weight: Any, y: Any, stride: Sizes, padding: Sizes, dilation: Sizes, bias: Any = None
) -> bool:
    """Write ``y``, or the gradient in ``x`` or ``weight`` from the other two.

    Args:
        result: ``"forward"``, ``"input"`` or ``"weight"``.
        x, weight, y: in row order, of one dtype; groups follow from the numbers of channels.
        stride, padding, dilation: a number an axis.
        bias: added to ``y``, ``[channels of y]``; or None.

    Returns:
        False where nothing was written, since there is no engine.
    """
    shapes: list[Sizes] = [x.shape, weight.shape, y.shape]
    geometry = [tuple(stride), tuple(padding), tuple(dilation)]
    if len(shapes[0]) == 3:  # the library knows no single axis
        shapes = [(*shape[:2], 1, *shape[2:]) for shape in shapes]
        geometry = [(plain, *sizes) for plain, sizes in zip((1, 0, 1), geometry, strict=True)]
    char = x.dtype.char
    setting = ConvolutionSetting(result, char, is_exact(char), bias is not None, *shapes, *geometry)
    plan = plan_for(setting)
    if plan is None:
        return False
    arrays = {_X: x, _WEIGHT: weight, _Y: y, **({} if bias is None else {_BIAS: bias})}
    number = _RESULTS[result]
    home = arrays[number]
    for each, array in arrays.items():
        if not _is_aligned(array):
            arrays[each] = array.__class__(array.shape, array.dtype) if each == number else array.copy()
    plan.run(arrays)
    if arrays[number] is not home:
        home[...] = arrays[number]
    return True
