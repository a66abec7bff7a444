"""The state of an optimizer: what it shows, gives and takes back, by parameters and by their numbers."""

from __future__ import annotations

import copy
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping
from typing import Any, ClassVar, cast

from distgrad.autograd.casting import WEAK
from distgrad.autograd.tensor import Tensor
from distgrad.backend.array_module import ARRAY_MODULES
from distgrad.errors import ShapeError, StateDictError
from distgrad.optim.hooks import Hooked, with_load_hooks, with_state_hooks
from distgrad.optim.matching import matched_groups, num_steps
from distgrad.optim.states import States, piece_key, shape_key

__all__ = ["Stateful"]


class _Entry(dict[str, Any]):
    """The state of one parameter; what is assigned in the place of the rule's goes to the optimizer too."""

    def __init__(self, entries: dict[str, Any], optimizer: Stateful, parameter: Tensor) -> None:
        super().__init__(entries)
        self._home = optimizer, parameter

    def __setitem__(self, name: str, value: Any) -> None:
        super().__setitem__(name, value)
        optimizer, parameter = self._home
        optimizer._set_one(parameter, name, value)

    def __reduce__(self) -> tuple[Any, ...]:
        return dict, (dict(self),)


class _State(defaultdict[Any, dict[str, Any]]):
    """The states of all parameters; one that is taken out is what it was before the first step."""

    def __init__(self, optimizer: Stateful, entries: Mapping[Any, dict[str, Any]]) -> None:
        super().__init__(dict, entries)
        self._optimizer = optimizer

    def __delitem__(self, parameter: Any) -> None:
        super().__delitem__(parameter)
        self._optimizer._forget(parameter)

    def pop(self, parameter: Any, *default: Any) -> Any:
        """Take one out."""
        entry = super().pop(parameter, *default)
        self._optimizer._forget(parameter)
        return entry

    def clear(self) -> None:
        """Take all out."""
        for parameter in list(self):
            del self[parameter]

    def __reduce__(self) -> tuple[Any, ...]:
        return defaultdict, (dict, dict(self))


class Stateful(Hooked):
    """What has a state dict: the part of an optimizer that makes and loads it."""

    rule: ClassVar[Any]
    param_groups: list[dict[str, Any]]
    state_shapes: Callable[..., dict[str, tuple[int, ...]]]
    _updates: ClassVar[bool] = False  # whether a class has an update of its own
    _steps: dict[Tensor, int]
    _states: States
    _shapes_of: Callable[[Tensor], dict[str, tuple[int, ...]]]
    _program_state: defaultdict[Any, dict[str, Any]]

    @property
    def state(self) -> defaultdict[Tensor, dict[str, Any]]:
        """What is kept of each parameter: its number of steps, the rule's arrays, what a program added.

        The rule's tensors lie in the optimizer's own memory, where a value that is assigned is copied to; a
        dict without entries stands for parameters that were not updated. Of parameters that several ranks own
        it is the piece that this one does.
        """
        state = self._program_state
        if self._has_rule:
            for parameter, steps in self._steps.items():
                self._refresh(parameter, steps)
        return state

    @state.setter
    def state(self, value: Mapping[Any, dict[str, Any]]) -> None:
        if not self._has_rule:  # it is the program's own, which may share it
            self._program_state = value if isinstance(value, defaultdict) else defaultdict(dict, value)
            return
        self._program_state = _State(self, value)
        for parameter in self._steps:
            self._forget(parameter)
            self._restore(parameter, value.get(parameter, {}))

    def _forget(self, parameter: Any) -> None:
        """Let a parameter be what it was before its first step."""
        if parameter in self._steps:
            self._states.forget(parameter)
            self._steps[parameter] = 0

    def _restore(self, parameter: Tensor, entry: Mapping[str, Any]) -> None:
        """Go on from what a rule has kept of a parameter."""
        self._steps[parameter] = num_steps(entry)
        for name in self._shapes_of(parameter).keys() & entry.keys():
            self._states.write(parameter, name, entry[name])

    @property
    def _has_rule(self) -> bool:
        """Whether steps are by a rule; a subclass with a ``step`` of its own keeps what it likes."""
        return self.rule is not None or type(self)._updates

    def _refresh(self, parameter: Tensor, steps: int) -> None:
        """Show what the rule keeps of a parameter beside what the program does."""
        state = self._program_state
        entry: Mapping[str, Any] = dict.pop(cast("dict[Any, Any]", state), parameter, {})
        added = self._added(parameter, entry)
        if steps:
            arrays = self._states.of(parameter) or {}
            own = {name: Tensor(array) for name, array in arrays.items()}
            state[parameter] = _Entry({"step": steps, **own, **added}, self, parameter)
        elif added:
            state[parameter] = added

    def _added(self, parameter: Tensor, entry: Mapping[str, Any]) -> dict[str, Any]:
        """What no rule has put into an entry."""
        if not self._has_rule:
            return dict(entry)
        own = {"step", "mu_product", *self._shapes_of(parameter), *(self.rule.state if self.rule else ())}
        own |= {key(name) for name in own for key in (piece_key, shape_key)}
        return {name: each for name, each in entry.items() if name not in own}

    def _begin_state(self, entries: Mapping[Any, dict[str, Any]]) -> None:
        self._program_state = _State(self, entries) if self._has_rule else defaultdict(dict, entries)

    def _set_one(self, parameter: Tensor, name: str, value: Any) -> None:
        """Take what a program assigned in the place of the rule's, unless it is for a parameter to come."""
        if name == "step":
            self._steps[parameter] = int(value)
        elif self._shapes_of(parameter).get(name) == tuple(getattr(value, "shape", ())):
            self._states.write(parameter, name, value)

    @property
    def is_sharded(self) -> bool:
        """Whether ranks own parts of its state."""
        return self._states.is_sharded

    @with_state_hooks
    def state_dict(self, *, rank0_only: bool = False, sharded: bool = False) -> dict[str, Any]:
        """Options and state as PyTorch lays them out: parameters are numbered in the order of the groups.

        Collective: yes, where ranks own parts of the parameters, except with ``sharded``; blocks: yes, then.

        Args:
            rank0_only: where ranks own parts, only rank 0 gets the arrays, and the others' memory is spared;
                what every rank has whole, each gets.
            sharded: only what this rank owns: flat pieces, each with its start under ``name.start`` and the
                whole's shape; :func:`distgrad.parallel.join_states` makes it again from all of them.

        Returns:
            ``{"state": {number: {"step": …, name: array}}, "param_groups": [{…, "params": [numbers]}]}``,
            with copies of the arrays; where PyTorch's names are used, they are tensors, as PyTorch's are.
        """
        state: dict[Any, dict[str, Any]] = {
            key: each for key, each in self._program_state.items() if not isinstance(key, Tensor)
        }
        groups = []
        number = 0
        for group in self.param_groups:
            numbers = []
            for parameter in group["params"]:
                if self._steps[parameter]:
                    arrays = (
                        self._states.pieces(parameter)
                        if sharded
                        else self._states.collect(parameter, 0 if rank0_only else None)
                    )
                    state[number] = {"step": self._steps[parameter], **_shown(arrays)}
                if added := self._added(parameter, self._program_state.get(parameter, {})):
                    state[number] = state.get(number, {}) | added
                numbers.append(number)
                number += 1
            groups.append({**{k: v for k, v in group.items() if k != "params"}, "params": numbers})
        return {"state": state, "param_groups": groups}

    @with_load_hooks
    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Take over what :meth:`state_dict` returned; nothing is changed if it does not fit.

        A parameter of which the file holds no state starts anew, as before its first step.

        Where this optimizer and the saved one were given ``model.named_parameters()``, the state goes by
        name, however the parameters are spread over groups. A group then takes each option on which the saved
        groups of its parameters agree, and keeps its own where they do not. Without names parameters are
        counted, and the groups must be as they were.

        Raises:
            StateDictError: groups or parameters that differ in number, or an array that is missing.
            ShapeError: an array of another shape than its parameter.
        """
        matched = matched_groups(self.param_groups, state_dict["param_groups"])
        plan = []
        for group, (options, numbers) in zip(self.param_groups, matched, strict=True):
            for parameter, number in zip(group["params"], numbers, strict=True):
                entry = state_dict["state"].get(number, {})
                shapes = self.state_shapes({**group, **options}, parameter.shape) if self._has_rule else {}
                for name, shape in shapes.items() if num_steps(entry) else ():
                    if piece_key(name) in entry:
                        raise StateDictError(
                            f"load_state_dict: parameter {number} holds one rank's piece of {name!r}; make "
                            "the whole with dg.parallel.join_states, from what all ranks saved"
                        )
                    if name not in entry:
                        raise StateDictError(f"load_state_dict: parameter {number} lacks {name!r}")
                    if tuple(entry[name].shape) != shape:
                        raise ShapeError(
                            f"load_state_dict: {name} of parameter {number} is {list(entry[name].shape)}, "
                            f"expected {list(shape)}"
                        )
                plan.append((group, parameter, entry))
        for group, (options, _) in zip(self.param_groups, matched, strict=True):
            group.update(options)
        numbered = {number for _, numbers in matched for number in numbers}
        defaultdict.clear(self._program_state)
        self._program_state |= {k: each for k, each in state_dict["state"].items() if k not in numbered}
        for _, parameter, entry in plan:
            self._states.forget(parameter)
            self._steps[parameter] = steps = num_steps(entry) if self._has_rule else 0
            for name in self._shapes_of(parameter) if steps else ():
                self._states.write(parameter, name, entry[name])
            if added := self._added(parameter, entry):
                self._program_state[parameter] = copy.deepcopy(added)

    def local_parts(self, state_dict: dict[str, Any]) -> Iterator[tuple[Any, int, int]]:
        """The arrays of a state dict of which this rank is to have a range alone, where ranks own parts.

        :meth:`load_state_dict` takes a :class:`~distgrad.autograd.parts.Part` with that range in their place.

        Returns:
            Each of these arrays, the first element of the range, and one past its last.
        """
        matched = matched_groups(self.param_groups, state_dict["param_groups"])
        for group, (options, numbers) in zip(self.param_groups, matched, strict=True):
            for parameter, number in zip(group["params"], numbers, strict=True):
                entry = state_dict["state"].get(number, {})
                for name in self.state_shapes({**group, **options}, parameter.shape):
                    part = self._states.part(parameter, tuple(entry[name].shape)) if name in entry else None
                    if part is not None:
                        yield entry[name], *part


def _shown(arrays: Mapping[str, Any]) -> Mapping[str, Any]:
    """Arrays as tensors where PyTorch's names are used, whose files and programs have these."""
    if not WEAK:
        return arrays
    return {name: Tensor(each) if each.__class__ in ARRAY_MODULES else each for name, each in arrays.items()}
