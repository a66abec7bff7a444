"""Networks: modules, their parameters, and the functions that they are made of."""

from distgrad.nn import functional, init
from distgrad.nn.module import Module
from distgrad.nn.modules.activation import (
    LogSoftmax,
    ReLU,
    Sigmoid,
    Softmax,
    Softmax2d,
    Softmin,
    Tanh,
)
from distgrad.nn.modules.containers import (
    ModuleDict,
    ModuleList,
    ParameterDict,
    ParameterList,
    Sequential,
)
from distgrad.nn.modules.conv import (
    Conv1d,
    Conv2d,
    Conv3d,
    ConvTranspose1d,
    ConvTranspose2d,
    ConvTranspose3d,
)
from distgrad.nn.modules.dropout import (
    AlphaDropout,
    Dropout,
    Dropout1d,
    Dropout2d,
    Dropout3d,
    FeatureAlphaDropout,
)
from distgrad.nn.modules.linear import (
    Flatten,
    Identity,
    Linear,
    Unflatten,
)
from distgrad.nn.modules.loss import CrossEntropyLoss, MSELoss, NLLLoss
from distgrad.nn.modules.pooling import MaxPool1d, MaxPool2d, MaxPool3d
from distgrad.nn.parameter import Buffer, Parameter

__all__ = [
    "AlphaDropout",
    "Buffer",
    "Conv1d",
    "Conv2d",
    "Conv3d",
    "ConvTranspose1d",
    "ConvTranspose2d",
    "ConvTranspose3d",
    "CrossEntropyLoss",
    "Dropout",
    "Dropout1d",
    "Dropout2d",
    "Dropout3d",
    "FeatureAlphaDropout",
    "Flatten",
    "Identity",
    "Linear",
    "LogSoftmax",
    "MSELoss",
    "MaxPool1d",
    "MaxPool2d",
    "MaxPool3d",
    "Module",
    "ModuleDict",
    "ModuleList",
    "NLLLoss",
    "Parameter",
    "ParameterDict",
    "ParameterList",
    "ReLU",
    "Sequential",
    "Sigmoid",
    "Softmax",
    "Softmax2d",
    "Softmin",
    "Tanh",
    "Unflatten",
    "functional",
    "init",
]
