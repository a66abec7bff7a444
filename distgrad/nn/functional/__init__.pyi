"""Signatures for type checkers and editors; written by tests/write_stubs.py."""

# fmt: off
# ruff: noqa
from builtins import bool as _bool
from collections.abc import Sequence as _Sequence
from typing import Any as _Any

import numpy as _np

from distgrad.autograd.tensor import Tensor as _Tensor
from distgrad.backend.rng import Generator as _Generator

_Array = _Tensor | _np.ndarray[_Any, _Any] | _np.generic | complex
_Lengths = int | _Sequence[int]

from distgrad.nn.functional.activations import celu as celu
from distgrad.nn.functional.activations import celu_ as celu_
from distgrad.nn.functional.activations import elu as elu
from distgrad.nn.functional.activations import elu_ as elu_
from distgrad.nn.functional.activations import gelu as gelu
from distgrad.nn.functional.activations import glu as glu
from distgrad.nn.functional.activations import gumbel_softmax as gumbel_softmax
from distgrad.nn.functional.activations import hardshrink as hardshrink
from distgrad.nn.functional.activations import hardsigmoid as hardsigmoid
from distgrad.nn.functional.activations import hardswish as hardswish
from distgrad.nn.functional.activations import hardtanh as hardtanh
from distgrad.nn.functional.activations import hardtanh_ as hardtanh_
from distgrad.nn.functional.activations import leaky_relu as leaky_relu
from distgrad.nn.functional.activations import leaky_relu_ as leaky_relu_
from distgrad.nn.functional.activations import log_softmax as log_softmax
from distgrad.nn.functional.activations import logsigmoid as logsigmoid
from distgrad.nn.functional.activations import mish as mish
from distgrad.nn.functional.activations import prelu as prelu
from distgrad.nn.functional.activations import relu as relu
from distgrad.nn.functional.activations import relu6 as relu6
from distgrad.nn.functional.activations import relu_ as relu_
from distgrad.nn.functional.activations import rrelu as rrelu
from distgrad.nn.functional.activations import rrelu_ as rrelu_
from distgrad.nn.functional.activations import selu as selu
from distgrad.nn.functional.activations import selu_ as selu_
from distgrad.nn.functional.activations import sigmoid as sigmoid
from distgrad.nn.functional.activations import silu as silu
from distgrad.nn.functional.activations import softmax as softmax
from distgrad.nn.functional.activations import softmin as softmin
from distgrad.nn.functional.activations import softplus as softplus
from distgrad.nn.functional.activations import softshrink as softshrink
from distgrad.nn.functional.activations import softsign as softsign
from distgrad.nn.functional.activations import tanh as tanh
from distgrad.nn.functional.activations import tanhshrink as tanhshrink
from distgrad.nn.functional.activations import threshold as threshold
from distgrad.nn.functional.activations import threshold_ as threshold_
from distgrad.nn.functional.affine import flatten as flatten
from distgrad.nn.functional.affine import linear as linear
from distgrad.nn.functional.affine import unflatten as unflatten
from distgrad.nn.functional.binary import binary_cross_entropy as binary_cross_entropy
from distgrad.nn.functional.binary import binary_cross_entropy_with_logits as binary_cross_entropy_with_logits
from distgrad.nn.functional.binary import kl_div as kl_div
from distgrad.nn.functional.binary import multi_margin_loss as multi_margin_loss
from distgrad.nn.functional.binary import multilabel_margin_loss as multilabel_margin_loss
from distgrad.nn.functional.binary import multilabel_soft_margin_loss as multilabel_soft_margin_loss
from distgrad.nn.functional.classification import cross_entropy as cross_entropy
from distgrad.nn.functional.classification import nll_loss as nll_loss
from distgrad.nn.functional.convolution import conv1d as conv1d
from distgrad.nn.functional.convolution import conv2d as conv2d
from distgrad.nn.functional.convolution import conv3d as conv3d
from distgrad.nn.functional.convolution import conv_transpose1d as conv_transpose1d
from distgrad.nn.functional.convolution import conv_transpose2d as conv_transpose2d
from distgrad.nn.functional.convolution import conv_transpose3d as conv_transpose3d
from distgrad.nn.functional.distances import bilinear as bilinear
from distgrad.nn.functional.distances import cosine_similarity as cosine_similarity
from distgrad.nn.functional.distances import normalize as normalize
from distgrad.nn.functional.distances import pairwise_distance as pairwise_distance
from distgrad.nn.functional.dropouts import alpha_dropout as alpha_dropout
from distgrad.nn.functional.dropouts import dropout as dropout
from distgrad.nn.functional.dropouts import dropout1d as dropout1d
from distgrad.nn.functional.dropouts import dropout2d as dropout2d
from distgrad.nn.functional.dropouts import dropout3d as dropout3d
from distgrad.nn.functional.dropouts import feature_alpha_dropout as feature_alpha_dropout
from distgrad.nn.functional.embeddings import embedding as embedding
from distgrad.nn.functional.embeddings import embedding_bag as embedding_bag
from distgrad.nn.functional.embeddings import one_hot as one_hot
from distgrad.nn.functional.images import channel_shuffle as channel_shuffle
from distgrad.nn.functional.images import fold as fold
from distgrad.nn.functional.images import interpolate as interpolate
from distgrad.nn.functional.images import pixel_shuffle as pixel_shuffle
from distgrad.nn.functional.images import pixel_unshuffle as pixel_unshuffle
from distgrad.nn.functional.images import unfold as unfold
from distgrad.nn.functional.images import upsample as upsample
from distgrad.nn.functional.normalization import batch_norm as batch_norm
from distgrad.nn.functional.normalization import group_norm as group_norm
from distgrad.nn.functional.normalization import instance_norm as instance_norm
from distgrad.nn.functional.normalization import layer_norm as layer_norm
from distgrad.nn.functional.normalization import local_response_norm as local_response_norm
from distgrad.nn.functional.normalization import rms_norm as rms_norm
from distgrad.nn.functional.padding import pad as pad
from distgrad.nn.functional.pooling import adaptive_avg_pool1d as adaptive_avg_pool1d
from distgrad.nn.functional.pooling import adaptive_avg_pool2d as adaptive_avg_pool2d
from distgrad.nn.functional.pooling import adaptive_avg_pool3d as adaptive_avg_pool3d
from distgrad.nn.functional.pooling import adaptive_max_pool1d as adaptive_max_pool1d
from distgrad.nn.functional.pooling import adaptive_max_pool2d as adaptive_max_pool2d
from distgrad.nn.functional.pooling import adaptive_max_pool3d as adaptive_max_pool3d
from distgrad.nn.functional.pooling import avg_pool1d as avg_pool1d
from distgrad.nn.functional.pooling import avg_pool2d as avg_pool2d
from distgrad.nn.functional.pooling import avg_pool3d as avg_pool3d
from distgrad.nn.functional.pooling import lp_pool1d as lp_pool1d
from distgrad.nn.functional.pooling import lp_pool2d as lp_pool2d
from distgrad.nn.functional.pooling import lp_pool3d as lp_pool3d
from distgrad.nn.functional.pooling import max_pool1d as max_pool1d
from distgrad.nn.functional.pooling import max_pool2d as max_pool2d
from distgrad.nn.functional.pooling import max_pool3d as max_pool3d
from distgrad.nn.functional.pooling import max_unpool1d as max_unpool1d
from distgrad.nn.functional.pooling import max_unpool2d as max_unpool2d
from distgrad.nn.functional.pooling import max_unpool3d as max_unpool3d
from distgrad.nn.functional.ranking import cosine_embedding_loss as cosine_embedding_loss
from distgrad.nn.functional.ranking import hinge_embedding_loss as hinge_embedding_loss
from distgrad.nn.functional.ranking import margin_ranking_loss as margin_ranking_loss
from distgrad.nn.functional.ranking import soft_margin_loss as soft_margin_loss
from distgrad.nn.functional.ranking import triplet_margin_loss as triplet_margin_loss
from distgrad.nn.functional.ranking import triplet_margin_with_distance_loss as triplet_margin_with_distance_loss
from distgrad.nn.functional.regression import gaussian_nll_loss as gaussian_nll_loss
from distgrad.nn.functional.regression import huber_loss as huber_loss
from distgrad.nn.functional.regression import l1_loss as l1_loss
from distgrad.nn.functional.regression import mse_loss as mse_loss
from distgrad.nn.functional.regression import poisson_nll_loss as poisson_nll_loss
from distgrad.nn.functional.regression import smooth_l1_loss as smooth_l1_loss
from distgrad.nn.functional.sequences import ctc_loss as ctc_loss
from distgrad.nn.functional.sequences import scaled_dot_product_attention as scaled_dot_product_attention

__all__ = [
    "adaptive_avg_pool1d",
    "adaptive_avg_pool2d",
    "adaptive_avg_pool3d",
    "adaptive_max_pool1d",
    "adaptive_max_pool2d",
    "adaptive_max_pool3d",
    "alpha_dropout",
    "avg_pool1d",
    "avg_pool2d",
    "avg_pool3d",
    "batch_norm",
    "bilinear",
    "binary_cross_entropy",
    "binary_cross_entropy_with_logits",
    "celu",
    "celu_",
    "channel_shuffle",
    "conv1d",
    "conv2d",
    "conv3d",
    "conv_transpose1d",
    "conv_transpose2d",
    "conv_transpose3d",
    "cosine_embedding_loss",
    "cosine_similarity",
    "cross_entropy",
    "ctc_loss",
    "dropout",
    "dropout1d",
    "dropout2d",
    "dropout3d",
    "elu",
    "elu_",
    "embedding",
    "embedding_bag",
    "feature_alpha_dropout",
    "flatten",
    "fold",
    "gaussian_nll_loss",
    "gelu",
    "glu",
    "group_norm",
    "gumbel_softmax",
    "hardshrink",
    "hardsigmoid",
    "hardswish",
    "hardtanh",
    "hardtanh_",
    "hinge_embedding_loss",
    "huber_loss",
    "instance_norm",
    "interpolate",
    "kl_div",
    "l1_loss",
    "layer_norm",
    "leaky_relu",
    "leaky_relu_",
    "linear",
    "local_response_norm",
    "log_softmax",
    "logsigmoid",
    "lp_pool1d",
    "lp_pool2d",
    "lp_pool3d",
    "margin_ranking_loss",
    "max_pool1d",
    "max_pool2d",
    "max_pool3d",
    "max_unpool1d",
    "max_unpool2d",
    "max_unpool3d",
    "mish",
    "mse_loss",
    "multi_margin_loss",
    "multilabel_margin_loss",
    "multilabel_soft_margin_loss",
    "nll_loss",
    "normalize",
    "one_hot",
    "pad",
    "pairwise_distance",
    "pixel_shuffle",
    "pixel_unshuffle",
    "poisson_nll_loss",
    "prelu",
    "relu",
    "relu6",
    "relu_",
    "rms_norm",
    "rrelu",
    "rrelu_",
    "scaled_dot_product_attention",
    "selu",
    "selu_",
    "sigmoid",
    "silu",
    "smooth_l1_loss",
    "soft_margin_loss",
    "softmax",
    "softmin",
    "softplus",
    "softshrink",
    "softsign",
    "tanh",
    "tanhshrink",
    "threshold",
    "threshold_",
    "triplet_margin_loss",
    "triplet_margin_with_distance_loss",
    "unflatten",
    "unfold",
    "upsample",
]
