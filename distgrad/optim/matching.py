"""Which saved options and state belong to which of an optimizer's groups and parameters."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from distgrad.errors import StateDictError

__all__ = ["matched_groups", "num_steps"]


def matched_groups(
    own: list[dict[str, Any]], saved: list[dict[str, Any]]
) -> list[tuple[dict[str, Any], list[int]]]:
    """For each group the options to take over, and the numbers under which its parameters' state is saved.

    Raises:
        StateDictError: groups of other sizes, and no names to go by.
    """
    by_name = {
        name: (number, group)
        for group in saved
        for name, number in zip(group.get("param_names", ()), group["params"], strict=False)
    }
    names = [name for group in own for name in group.get("param_names", ())]
    if names and sorted(names) == sorted(by_name) and len(names) == sum(len(each["params"]) for each in own):
        matched = []
        for group in own:
            homes = [by_name[name] for name in group["param_names"]]
            matched.append((_agreed([home for _, home in homes]), [number for number, _ in homes]))
        return matched
    sizes, ours = ([len(group["params"]) for group in groups] for groups in (saved, own))
    if sizes != ours:
        raise StateDictError(
            f"load_state_dict: the file's groups hold {sizes} parameters, this optimizer {ours}; make both "
            "from model.named_parameters(), and the state goes by name"
        )
    return [(_agreed([group]), group["params"]) for group in saved]


def _agreed(groups: list[dict[str, Any]]) -> dict[str, Any]:
    """The options that have one value in all these groups."""
    first, *others = groups or [{}]
    return {
        option: value
        for option, value in first.items()
        if option not in ("params", "param_names") and all(other.get(option) == value for other in others)
    }


def num_steps(entry: Mapping[str, Any]) -> int:
    """The steps behind a parameter's state; PyTorch's SGD keeps a momentum and doesn't count them."""
    return int(entry.get("step", bool(entry)))
