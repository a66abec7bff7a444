"""What must be as it was when a step was recorded, for its tape to stand for it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from distgrad.replay.traced import plain
from distgrad.replay.variables import Variable

__all__ = ["Conditions"]


class Conditions:
    """The tensors, gradients, modules and variables that a recorded step met, as they were before it.

    Args:
        recorder: that heard the step; it is over, and what it made has been let go.
        variables: of the step's own code.

    Attributes:
        leaves: whose gradients the step changes.
    """

    def __init__(self, recorder: Any, variables: Sequence[Variable]) -> None:
        self._tensors = []
        self.leaves = recorder.living_leaves()
        gradients = {id(leaf.grad) for leaf in self.leaves}
        for reference, array in recorder.tensors.values():
            tensor = reference()
            if tensor is not None and id(tensor) not in gradients and id(plain(tensor._data)) == array:
                self._tensors.append((tensor, plain(tensor._data), tensor._node is None))
        self._gradients: list[Any] = []
        self._new: list[Any] = []
        for leaf in self.leaves:
            _, start, is_read = recorder.leaves[id(leaf)]
            now = None if leaf.grad is None else plain(leaf.grad._data)
            if is_read and start is not None:
                self._gradients.append((leaf, False, now if start == id(now) else None))
            else:
                self._new.append(leaf)
                if is_read:
                    self._gradients.append((leaf, True, None))
        self._modules = [(module, *state) for module, state in recorder.modules.items()]
        self._groups = list({id(each[1]): each for each in recorder.groups}.values())
        self._variables = [(name, get, value) for name, get, value in variables]

    def new_gradients(self) -> list[Any]:
        """The arrays of gradients that were not there before the step, or that it does not read."""
        return [leaf.grad._data for leaf in self._new if leaf.grad is not None]

    def broken(self) -> str | None:
        """What is not as it was; None if all is."""
        for tensor, array, is_constant in self._tensors:
            if tensor._data is not array:
                return f"a tensor of shape {list(array.shape)} has moved in memory"
            if (tensor._node is None) is not is_constant:
                return f"requires_grad of a tensor of shape {list(array.shape)} has changed"
        for leaf, is_none, array in self._gradients:
            g = leaf.grad
            if (g is not None) if is_none else (g is None or g._data is not array):
                return "gradients are there that were not, or the other way round"
        for module, training, hooks in self._modules:
            if module.training is not training or module._hooks is not hooks:
                return f"the mode or hooks of a {type(module).__name__} have changed"
        for optimizer, group, names in self._groups:
            if optimizer.names(group) != names:
                return f"the options of a {type(optimizer).__name__} ask for another state"
        for name, get, value in self._variables:
            if get() is not value:
                return f"{name} has changed"
        return None
