"""Options of optimizers that PyTorch has, and names that are nearly an option's."""

from __future__ import annotations

import difflib
import functools
import inspect
from collections.abc import Callable, Iterable
from typing import Any

from distgrad.names.hints import ARGUMENTS

__all__ = ["is_misspelt", "with_pytorchs_options"]


def with_pytorchs_options(initialize: Callable[..., None]) -> Callable[..., None]:
    """Take PyTorch's options that ask for what is the case anyway, and meet the others with the reason."""
    parameters = inspect.signature(initialize).parameters
    reasons = {option: why for option, why in ARGUMENTS["Optimizer"].items() if option not in parameters}
    taken = {option for option in ("foreach", "fused", "capturable") if option not in parameters}
    if any(each.kind is each.VAR_KEYWORD for each in parameters.values()):
        return initialize  # a rule of the user's own passes them on

    @functools.wraps(initialize)
    def take(self: Any, *args: Any, **options: Any) -> None:
        for option in options.keys() & reasons.keys():
            if options[option]:
                name = type(self).__name__
                raise TypeError(f"{name}: there is no {option}; {reasons[option]}: leave it out")
            del options[option]
        for option in options.keys() & taken:
            del options[option]
        initialize(self, *args, **options)

    return take


def is_misspelt(option: str, known: Iterable[str]) -> bool:
    """Whether it is no known option but looks like one: ``lear`` like ``lr``, unlike ``lr_scale``."""
    others = [each for each in known if not option.startswith(each)]
    return option not in known and bool(difflib.get_close_matches(option.lower(), others))
