"""Discrete Fourier transforms: the array API standard's ``fft`` extension."""

from distgrad.autograd.creation import fftfreq, rfftfreq
from distgrad.autograd.later import PUBLIC, attributes
from distgrad.autograd.ops.fft import (
    fft,
    fftn,
    fftshift,
    hfft,
    ifft,
    ifftn,
    ifftshift,
    ihfft,
    irfft,
    irfftn,
    rfft,
    rfftn,
)

__getattr__ = attributes("fft")

__all__ = [
    "fft",
    "fftfreq",
    "fftn",
    "fftshift",
    "hfft",
    "ifft",
    "ifftn",
    "ifftshift",
    "ihfft",
    "irfft",
    "irfftn",
    "rfft",
    "rfftfreq",
    "rfftn",
]
__all__.extend(PUBLIC["fft"].split())


def __dir__() -> list[str]:
    return sorted(__all__)
