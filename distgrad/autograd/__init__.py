"""Tensors, the operations on them, and their gradients."""

from distgrad.autograd.anomaly import detect_anomaly, set_detect_anomaly
from distgrad.autograd.casting import set_weak_scalars
from distgrad.autograd.checkpoint import checkpoint
from distgrad.autograd.function import Function
from distgrad.autograd.functional import backward, grad
from distgrad.autograd.gradcheck import gradcheck, gradgradcheck
from distgrad.autograd.modes import (
    enable_grad,
    inference_mode,
    is_grad_enabled,
    is_inference_mode_enabled,
    no_grad,
    set_grad_enabled,
)

__all__ = [
    "Function",
    "backward",
    "checkpoint",
    "detect_anomaly",
    "enable_grad",
    "grad",
    "gradcheck",
    "gradgradcheck",
    "inference_mode",
    "is_grad_enabled",
    "is_inference_mode_enabled",
    "no_grad",
    "set_detect_anomaly",
    "set_grad_enabled",
    "set_weak_scalars",
]
