"""Operations of networks as functions, by PyTorch's names and arguments."""

from distgrad.nn.functional.activations import (
    log_softmax,
    relu,
    relu_,
    sigmoid,
    softmax,
    softmin,
    tanh,
)
from distgrad.nn.functional.affine import flatten, linear, unflatten
from distgrad.nn.functional.classification import cross_entropy, nll_loss
from distgrad.nn.functional.convolution import (
    conv1d,
    conv2d,
    conv3d,
    conv_transpose1d,
    conv_transpose2d,
    conv_transpose3d,
)
from distgrad.nn.functional.dropouts import (
    alpha_dropout,
    dropout,
    dropout1d,
    dropout2d,
    dropout3d,
    feature_alpha_dropout,
)
from distgrad.nn.functional.padding import pad
from distgrad.nn.functional.pooling import max_pool1d, max_pool2d, max_pool3d
from distgrad.nn.functional.regression import mse_loss

__all__ = [
    "alpha_dropout",
    "conv1d",
    "conv2d",
    "conv3d",
    "conv_transpose1d",
    "conv_transpose2d",
    "conv_transpose3d",
    "cross_entropy",
    "dropout",
    "dropout1d",
    "dropout2d",
    "dropout3d",
    "feature_alpha_dropout",
    "flatten",
    "linear",
    "log_softmax",
    "max_pool1d",
    "max_pool2d",
    "max_pool3d",
    "mse_loss",
    "nll_loss",
    "pad",
    "relu",
    "relu_",
    "sigmoid",
    "softmax",
    "softmin",
    "tanh",
    "unflatten",
]
