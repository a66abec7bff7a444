"""Special functions, under SciPy's names."""

from distgrad.autograd.later import PUBLIC, attributes
from distgrad.autograd.ops.special import erf, erfc, erfinv, logit, logsumexp, ndtr, xlogy

__getattr__ = attributes("special")

__all__ = ["erf", "erfc", "erfinv", "logit", "logsumexp", "ndtr", "xlogy"]
__all__.extend(PUBLIC["special"].split())


def __dir__() -> list[str]:
    return sorted(__all__)
