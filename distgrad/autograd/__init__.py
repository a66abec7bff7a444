"""Tensors, the operations on them, and their gradients."""

from distgrad.autograd.functional import backward, grad
from distgrad.autograd.gradcheck import gradcheck, gradgradcheck
from distgrad.autograd.modes import enable_grad, is_grad_enabled, no_grad, set_grad_enabled

__all__ = [
    "backward",
    "enable_grad",
    "grad",
    "gradcheck",
    "gradgradcheck",
    "is_grad_enabled",
    "no_grad",
    "set_grad_enabled",
]
