"""What must be as it was when a step was recorded, for its tape to stand for it."""

from __future__ import annotations

from collections.abc import Sequence
from operator import attrgetter
from typing import Any

from distgrad.autograd.nodes import Leaf
from distgrad.replay.traced import plain
from distgrad.replay.variables import Identities, Watched, attributes_of, entries_of

__all__ = ["Conditions"]


class Conditions:
    """The tensors, gradients, modules and variables that a recorded step met, as they were before it.

    Args:
        recorder: that heard the step; it is over, and what it made has been let go.
        watched: what the step's Python code sees.

    Attributes:
        leaves: whose gradients the step changes.
        changes: the tensors that it changes in place, but for those that optimizers count, and by what.
    """

    def __init__(self, recorder: Any, watched: Sequence[Watched]) -> None:
        self._tensors = []
        self.leaves = recorder.living_leaves()
        gradients = {id(leaf.grad) for leaf in self.leaves}
        for reference, array in recorder.tensors.values():
            tensor = reference()
            if tensor is not None and id(tensor) not in gradients and array() is plain(tensor._data):
                node = tensor._node
                self._tensors.append((tensor, plain(tensor._data), node if isinstance(node, Leaf) else None))
        self._gradients: list[Any] = []
        self._new: list[Any] = []
        for leaf in self.leaves:
            _, start, is_read = recorder.leaves[id(leaf)]
            now = None if leaf.grad is None else plain(leaf.grad._data)
            if is_read and start is not None:
                self._gradients.append((leaf, False, now if start() is now else None))
            else:
                self._new.append(leaf)
                if is_read:
                    self._gradients.append((leaf, True, None))
        self._groups = _groups(recorder)
        counted = {id(each) for _, _, _, parameters, _ in self._groups for each in parameters}
        counted |= {id(leaf.grad) for leaf in self._new}
        self.changes = [
            (tensor, where)
            for reference, where in recorder.changes.values()
            if (tensor := reference()) is not None and id(tensor) not in counted
        ]
        optimizers = {id(each[0]): each[0] for each in self._groups}.values()
        self._watched = [*watched, *(each for leaf in self.leaves for each in _hooks(leaf))]
        self._watched += [
            attributes_of("a reducer", each, ("enabled", "factor", "by_rank"))
            for each in recorder.reducers.values()
        ]
        self._watched += [entries_of("param_groups", each.param_groups) for each in optimizers]
        self._watched += [entries_of("params of a group", group["params"]) for _, group, *_ in self._groups]

        self._quick = self._identities()

    def _identities(self) -> Identities:
        """What is as it was in nearly every call, compared at once."""
        found = Identities()
        for tensor, array, leaf in self._tensors:
            found.add(attrgetter("_data", "_node"), tensor, (array, leaf or tensor._node))
        for leaf, is_none, array in self._gradients:
            if is_none:
                found.add(attrgetter("grad", "grad"), leaf, (None, None))
            elif leaf.grad is not None:
                found.add(attrgetter("grad._data", "grad._data"), leaf, (array, array))
        for each in self._watched:
            for piece in each.pieces():
                found.add(*piece)
        found.end()
        return found

    def new_gradients(self) -> list[Any]:
        """The arrays of gradients that were not there before the step, or that it does not read."""
        return [leaf.grad._data for leaf in self._new if leaf.grad is not None]

    def broken(self) -> str | None:
        """What is not as it was; None if all is."""
        if self._quick.hold() and all(map(_keeps, self._groups)):
            return None
        for tensor, array, leaf in self._tensors:
            if tensor._data is not array:
                return f"a tensor of shape {list(array.shape)} has moved in memory"
            if tensor._node is not leaf and (leaf is not None or tensor._node.__class__ is Leaf):
                return f"requires_grad of a tensor of shape {list(array.shape)} has changed"
        for leaf, is_none, array in self._gradients:
            g = leaf.grad
            if (g is not None) if is_none else (g is None or g._data is not array):
                return "gradients are there that were not, or the other way round"
        for optimizer, group, names, parameters, lags in self._groups:
            if optimizer.names(group) != names:
                return f"the options of a {type(optimizer).__name__} ask for another state"
            if _lags(optimizer, parameters) != lags:
                return f"parameters of a {type(optimizer).__name__} have taken other numbers of steps"
        for each in self._watched:
            name = each.changed()
            if name is not None:
                return f"{name} has changed"
        return None


def _keeps(each: Any) -> bool:
    """Whether a group asks for the state that it asked for, of parameters that have taken as many steps."""
    optimizer, group, names, parameters, lags = each
    if optimizer.names(group) != names:
        return False
    if not any(lags):
        return len(set(map(optimizer._steps.__getitem__, parameters))) == 1
    return _lags(optimizer, parameters) == lags


def _groups(recorder: Any) -> list[Any]:
    """Optimizers, groups, the state that these ask for, the parameters that are stepped, and their lags."""
    found: dict[int, Any] = {}
    for optimizer, group, names, parameter in recorder.groups:
        found.setdefault(id(group), (optimizer, group, names, {}))[3][parameter] = None
    return [
        (optimizer, group, names, tuple(parameters), _lags(optimizer, tuple(parameters)))
        for optimizer, group, names, parameters in found.values()
    ]


def _lags(optimizer: Any, parameters: tuple[Any, ...]) -> list[int]:
    """Steps that parameters have taken less than the first: those with as many may share a rule's call."""
    taken = optimizer._steps
    first = taken[parameters[0]]
    return [first - taken[parameter] for parameter in parameters]


def _hooks(leaf: Any) -> list[Watched]:
    """What is called when a leaf has its gradient."""
    names = ("hooks", "post_hooks", "observer")
    lists = [getattr(leaf, name) for name in names[:2] if getattr(leaf, name)]
    own = [attributes_of("a tensor", leaf, names)]
    return own + [entries_of("a tensor's hooks", each) for each in lists]
