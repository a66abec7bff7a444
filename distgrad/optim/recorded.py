"""An optimizer's step that is written down once and played again, on a GPU."""

from __future__ import annotations

from typing import Any

from distgrad.backend.array_module import get_array_module
from distgrad.backend.graphs import GraphRecording
from distgrad.comm.progress import tell_step
from distgrad.errors import CaptureError

__all__ = ["apply_recorded", "check_recordable", "record_count"]


def check_recordable(optimizer: Any, has_own_update: bool, shared: Any, closure: Any) -> None:
    """Refuse what looks at numbers on the host.

    Args:
        optimizer: an Optimizer that is about to step.
        has_own_update: whether its class computes more than its rule.
        shared: parameters of which ranks own parts.
        closure: as given.

    Raises:
        CaptureError: the step cannot be written down.
    """
    for found, what in (
        (closure is not None, "with a closure"),
        (bool(shared), "of parameters that ranks share"),
        (has_own_update, "by a rule that looks at parameters as a whole"),
    ):
        if found:
            raise CaptureError(
                f"graphed: {type(optimizer).__name__}.step {what} needs the host in between; call it outside "
                "the graphed step"
            )


def apply_recorded(
    optimizer: Any,
    recording: GraphRecording,
    group: dict[str, Any],
    arrays: tuple[Any, ...],
    state: dict[str, Any],
    step: int,
) -> None:
    """The rule, by the options and the number of steps that there will be when it is played.

    Args:
        optimizer, recording: the Optimizer whose rule it is, and where it is written down.
        group, state, step: as ``Optimizer.update`` has them.
        arrays: the rule's first ones.
    """
    rule: Any = optimizer.rule
    steps = optimizer._steps
    one = next(each for each in group["params"] if each.grad is not None and steps[each] == step)
    live = recording.live(len(rule.numbers), lambda: rule.take(optimizer.numbers(group, steps[one])))
    optimizer._fused(get_array_module(arrays[0]), *arrays, *map(state.get, rule.state), live)


def record_count(optimizer: Any, recording: GraphRecording) -> None:
    """Count the step when it is played, and not while it is written down."""
    steps = optimizer._steps
    updated = [parameter for parameter in steps if parameter.grad is not None]
    for parameter in updated:
        steps[parameter] -= 1

    def count() -> None:
        for parameter in updated:
            parameter.changed(f"{type(optimizer).__name__}.step")
            steps[parameter] += 1
        tell_step(max(steps.values()))

    recording.effect(count)
