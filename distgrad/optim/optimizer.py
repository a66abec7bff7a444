"""The optimizer: parameter groups, state, and the walk over flat buffers that applies a rule.

A rule that treats elements alike stands in ``distgrad.backend.kernels.rules``, as a function of one element,
and an optimizer's class says what its numbers are: ``numbers(group, step)``. It is called on runs of
neighbouring parameters, in blocks that fit the cache where NumPy computes, and its state lies in twins of the
flat buffers. A rule that needs to see a parameter as a whole is a method, ``update(group, p, g, state,
step)``, which changes the arrays ``p`` and ``state`` in place; it is called on one parameter at a time, in
its own shape, and may keep state of any shape.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterable, Iterator
from typing import Any, ClassVar

import numpy as np

from distgrad.autograd.flat import Run, Shares, flatten, join_runs
from distgrad.autograd.modes import enable_grad, no_grad
from distgrad.autograd.tensor import FLOATING, Tensor
from distgrad.backend.array_module import get_array_module
from distgrad.backend.device import CPU, follow, widened
from distgrad.backend.graphs import graph_recording
from distgrad.backend.kernels.elementwise import Elementwise
from distgrad.backend.kernels.rules import RULES
from distgrad.backend.kernels.table import accelerated, expect, is_fused
from distgrad.backend.kernels.translate import array_form
from distgrad.comm.progress import tell_step
from distgrad.errors import DTypeError, OptionError
from distgrad.optim.hooks import Hooks, with_load_hooks, with_state_hooks, with_step_hooks
from distgrad.optim.options import is_misspelt, with_pytorchs_options
from distgrad.optim.recorded import apply_recorded, check_recordable, record_count
from distgrad.optim.stateful import Stateful
from distgrad.optim.states import States, own_whole
from distgrad.profiler import owners
from distgrad.profiler.owners import holders
from distgrad.trace import span
from distgrad.tracebacks import warn_once

__all__ = ["Optimizer"]

#: So that a rule's arrays stay in a core's second-level cache between its operations.
_BLOCK_ELEMENTS = 1 << 15


class Optimizer(Stateful):
    """Base of all optimizers.

    Args:
        params: tensors, ``(name, tensor)`` pairs, or dicts with ``params`` and a group's own options.
        defaults: options of groups that do not set their own.

    Attributes:
        param_groups: dicts of ``params`` and options, and of ``param_names`` where names were given; options
            may be changed between steps.
    """

    #: What happens to one element, if the optimizer is made of that.
    rule: ClassVar[Elementwise | None] = None
    #: Names of the state arrays that the rule always keeps, each of a parameter's size; those of ``rule``.
    state_names: ClassVar[tuple[str, ...]] = ()
    #: Elements to a call of the rule: all where a kernel goes over them once, else a block.
    block_elements: ClassVar[int] = _BLOCK_ELEMENTS
    #: Whether the rule treats elements alike, so that it may be given any block of them.
    elementwise: ClassVar[bool] = True

    _fused: ClassVar[Callable[..., Any]]  # the rule on arrays
    _kernels: ClassVar[tuple[str, ...]] = ()  # what its kernel is called, if it has one

    def __init_subclass__(cls, **options: Any) -> None:
        """Make the rule's forms for arrays."""
        super().__init_subclass__(**options)
        if "__init__" in cls.__dict__:
            cls.__init__ = with_pytorchs_options(cls.__init__)  # type: ignore[method-assign]
        for name, around in (("step", with_step_hooks), ("state_dict", with_state_hooks),
                             ("load_state_dict", with_load_hooks)):  # fmt: skip
            if name in cls.__dict__:
                setattr(cls, name, around(cls.__dict__[name]))
        cls._updates = cls.update is not Optimizer.update and cls.step is Optimizer.step
        rule = cls.__dict__.get("rule")
        if rule is not None:
            form, is_known = array_form(rule), RULES.get(rule.name) is rule  # else one of that name may be
            cls._kernels = (rule.name,) if is_known else ()
            cls._fused = staticmethod(accelerated(rule.name, form) if is_known else form)
            cls.state_names = tuple(name for name in rule.state if name not in rule.optional)
            cls.block_elements = sys.maxsize if is_known and is_fused(rule.name) else _BLOCK_ELEMENTS

    def __init__(self, params: Iterable[Any], defaults: dict[str, Any]) -> None:
        self.defaults = defaults
        self.param_groups: list[dict[str, Any]] = []
        self._begin()
        if isinstance(params, Tensor) or not isinstance(params, Iterable):
            raise DTypeError(
                f"{type(self).__name__}: params must be several tensors or groups, got one "
                f"{type(params).__name__}; pass model.parameters(), or a list"
            )
        entries = list(params)
        if not entries:
            raise ValueError(f"{type(self).__name__}: got no parameters; pass model.parameters()")
        groups = entries if isinstance(entries[0], dict) else [{"params": entries}]
        for group in groups:
            self.add_param_group(group)

    def _begin(self) -> None:
        """Have no parameters yet."""
        self._hooks = Hooks()
        self._begin_state(self.__dict__.get("_program_state", {}))
        expect(self._kernels)
        self._steps: dict[Tensor, int] = {}
        self._group_of: dict[Tensor, dict[str, Any]] = {}
        self._states = States(self._shapes_of, self.elementwise, self._steps)
        owners.register(self, type(self)._held)

    def __getstate__(self) -> dict[str, Any]:
        """What ``copy.deepcopy`` and pickles take: options, parameters, and all of their state.

        Collective: where ranks own parts of it; blocks: then.
        """
        spread = {"_steps", "_group_of", "_states", "_hooks"}
        kept = [
            (each, steps, self._states.collect(each) if steps else {}) for each, steps in self._steps.items()
        ]
        return {name: value for name, value in vars(self).items() if name not in spread} | {"_kept": kept}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update({name: value for name, value in state.items() if name != "_kept"})
        self._begin()
        for group in self.param_groups:
            self._train(group)
        for parameter, steps, arrays in state["_kept"]:
            self._steps[parameter] = steps
            for name, array in arrays.items():
                self._states.write(parameter, name, array)

    def add_param_group(self, param_group: dict[str, Any]) -> None:
        """Train further parameters, with options of their own.

        Args:
            param_group: ``params``, tensors or ``(name, tensor)`` pairs, and options.

        Raises:
            DTypeError: an entry that is no tensor, or not of a floating dtype.
            ValueError: a parameter that a group holds already, or an option that is nearly one of the
                optimizer's; others are the program's own, and stay with the group.
        """
        group = param_group
        entries = [group["params"]] if isinstance(group["params"], Tensor) else list(group["params"])
        params = [entry[1] if isinstance(entry, tuple) else entry for entry in entries]
        known = {id(p) for other in self.param_groups for p in other["params"]}
        name = type(self).__name__
        for parameter in params:
            if not isinstance(parameter, Tensor) or parameter.dtype.char not in FLOATING:
                got = getattr(parameter, "dtype", type(parameter).__name__)
                raise DTypeError(f"{name}: parameters must be floating tensors, got {got}")
            if not parameter.is_leaf:
                raise OptionError(f"{name}: parameters must be leaves, got a result of {parameter.grad_fn}")
            if id(parameter) in known:
                raise ValueError(f"{name}: a parameter of shape {list(parameter.shape)} is given twice")
            known.add(id(parameter))
        misspelt = [each for each in group if each != "params" and is_misspelt(each, self.defaults)]
        if misspelt:
            raise ValueError(f"{name}: unknown options {misspelt}; known are {sorted(self.defaults)}")
        full = {"params": params, **self.defaults, **{k: v for k, v in group.items() if k != "params"}}
        self.check_options(full)
        if entries and all(isinstance(entry, tuple) for entry in entries):
            full["param_names"] = [entry[0] for entry in entries]
        self.param_groups.append(full)
        self._train(full)

    def _train(self, group: dict[str, Any]) -> None:
        """Count the steps of a group's parameters, and keep state of them."""
        params = group["params"]
        flatten(params)
        own_whole(params, self.elementwise)
        self._steps |= dict.fromkeys(params, 0)
        self._group_of |= dict.fromkeys(params, group)
        self._states.add(params)

    def _adopt(self) -> None:
        """Take over parameters that a program put into the groups itself, with the state that it gave them.

        Collective: where ranks own parts of them; blocks: then.
        """
        for group in self.param_groups:
            new = [each for each in group["params"] if each not in self._steps]
            if new:
                self._train({**group, "params": new})
                self._group_of |= dict.fromkeys(new, group)
                for parameter in new:
                    self._restore(parameter, self._program_state.get(parameter, {}))

    def check_options(self, group: dict[str, Any]) -> None:
        """Refuse options outside their range; a rule with options beyond these extends it.

        Raises:
            ValueError: with the option's name and value.
        """
        for option in ("lr", "eps", "weight_decay", "momentum"):
            if isinstance(group.get(option), str):  # YAML reads 1e-3 as one
                raise DTypeError(
                    f"{type(self).__name__}: {option} must be a number, got the text {group[option]!r}; "
                    f"write {option}=float({group[option]!r})"
                ) from None
            if option in group and not group[option] >= 0.0:
                raise ValueError(f"{type(self).__name__}: {option} must be at least 0, got {group[option]}")
        for beta in group.get("betas", ()):
            if not 0.0 <= beta < 1.0:
                raise ValueError(f"{type(self).__name__}: betas must lie in [0, 1), got {group['betas']}")

    def update(
        self, group: dict[str, Any], p: np.ndarray, g: np.ndarray, state: dict[str, np.ndarray], step: int
    ) -> None:
        """Change ``p`` and ``state`` in place, by ``rule`` and :meth:`numbers` unless a subclass has its own.

        Args:
            group: the options.
            p: parameters, ``[n]``, or in the parameter's shape if the rule is not elementwise.
            g: gradients of the same shape, to be left as they are.
            state: arrays by name, zeros before the first step; of the same shape, or ``state_shapes``.
            step: how often the parameters have been updated, this time included.
        """
        if self.rule is None:
            raise TypeError(f"{type(self).__name__}: an optimizer must define rule and numbers, or update")
        if step == 1:
            self.begin(group, state)
        if (recording := graph_recording()) is None:
            self._apply_rule((p, g), state, self.numbers(group, step))
        else:
            apply_recorded(self, recording, group, (p, g), state, step)

    def _apply_rule(
        self, first: tuple[np.ndarray, ...], state: dict[str, np.ndarray], numbers: dict[str, Any]
    ) -> None:
        """The rule on its first arrays, the state's and the numbers."""
        rule: Any = self.rule
        self._fused(get_array_module(first[0]), *first, *map(state.get, rule.state), rule.take(numbers))

    def numbers(self, group: dict[str, Any], step: int) -> dict[str, float]:
        """All that a step takes from the options and its own number, by the names that the rule has for it.

        Args:
            group: the options.
            step: as :meth:`update` has it.
        """
        return {}

    def begin(self, group: dict[str, Any], state: dict[str, np.ndarray]) -> None:
        """Change the state in place before the first step, where it is not to be zeros."""

    @with_step_hooks
    def step(self, closure: Callable[[], Any] | None = None) -> Any:
        """Update every parameter that has a gradient.

        Args:
            closure: computes the loss and its gradients anew and returns the loss.

        Returns:
            What ``closure`` returned.
        """
        loss = None
        if closure is not None:
            with enable_grad():
                loss = closure()
        self._adopt()
        before = self._num_updates()
        own_whole(self._steps, self.elementwise)
        shared = self._find_shared()
        if (recording := graph_recording()) is not None:
            check_recordable(self, type(self).update is not Optimizer.update, shared, closure)
        with no_grad(), span("optimizer.step", step=before, optimizer=type(self).__name__):
            for shares, parameters in shared.items():
                shares.settle(parameters)
            for group in self.param_groups:
                try:
                    self._step(group)
                except TypeError:
                    self.check_options(group)  # which the user may have changed since
                    raise
            for shares, parameters in shared.items():
                shares.hand_out(parameters)
        updates = self._num_updates()
        if updates == before:
            warn_once(
                "gradient",
                f"{type(self).__name__}.step: no parameter has a gradient, so nothing was changed; call "
                "loss.backward() after zero_grad() and before step(), with the parameters of this model",
            )
        elif recording is not None:
            record_count(self, recording)
        tell_step(updates)
        return loss

    def _held(self) -> dict[str, int]:
        """Bytes by what they are for."""
        leaves = [parameter.leaf_state() for parameter in self._steps]
        return {
            "parameters": sum(parameter.nbytes for parameter in self._steps),
            "gradients": sum(leaf.buffer.nbytes for leaf in leaves if leaf.buffer is not None),
            "state": sum(array.nbytes for array in self._states.arrays()),
        }

    def _num_updates(self) -> int:
        return max(self._steps.values())

    def _find_shared(self) -> dict[Shares, list[Tensor]]:
        """The parameters with gradients that several ranks own, by their shares."""
        shared: dict[Shares, list[Tensor]] = {}
        for parameter in self._steps:
            shares = parameter.leaf_state().flat[0].shares
            if shares is not None and parameter.grad is not None:
                shared.setdefault(shares, []).append(parameter)
        return shared

    def _step(self, group: dict[str, Any]) -> None:
        if self.elementwise:
            for run in self._runs(group):
                self._apply(group, run)
            return
        for parameter in self._with_gradients(group):
            state = self._states.of(parameter)
            if state is not None:
                buffer, start, stop = parameter.leaf_state().flat
                pair = buffer.updated_between(start, stop)
                values, gradient = (array.reshape(parameter.shape) for array in pair)
                follow(values)
                self._update(group, values, gradient, state, self._steps[parameter])

    def zero_grad(self, set_to_none: bool = True) -> None:
        """Forget the gradients; ``set_to_none=False`` leaves zeros instead."""
        for group in self.param_groups:
            for parameter in group["params"]:
                if set_to_none:
                    parameter.grad = None
                elif parameter.grad is not None:
                    parameter.grad._data[...] = 0
                    parameter.grad.changed("zero_grad")

    def _with_gradients(self, group: dict[str, Any]) -> Iterator[Tensor]:
        """The parameters that are updated, their gradients in their buffers and the step counted."""
        for parameter in group["params"]:
            gradient = parameter.grad
            if gradient is None:
                continue
            leaf = parameter.leaf_state()
            if gradient._data is not leaf.buffer:
                leaf.buffer[...] = gradient._data
            parameter.changed(f"{type(self).__name__}.step")
            self._states.home(parameter)
            self._steps[parameter] += 1
            yield parameter

    def _runs(self, group: dict[str, Any]) -> list[Run]:
        """Stretches of flat buffers that are updated alike; the key of a run is its number of steps."""
        pieces = []
        for parameter in self._with_gradients(group):
            buffer, start, stop = parameter.leaf_state().flat
            pieces.append(Run(buffer, start, stop, self._steps[parameter]))
        return join_runs(pieces)

    def _apply(self, group: dict[str, Any], run: Run) -> None:
        buffer = run.buffer
        arrays = {name: self._states.twin(buffer, name) for name in self.names(group)}
        follow(buffer.data)
        length = self.block_elements if buffer.update_device == CPU else sys.maxsize  # no cache to fit
        for start, stop, place in buffer.owned(run.start, run.stop):
            for where in Run(buffer, start, stop).blocks(length):
                inside = slice(where.start - start + place, where.stop - start + place)
                state = {name: array[inside] for name, array in arrays.items()}
                self._update(group, *buffer.updated(where, inside), state, run.key)

    def _update(self, group: dict[str, Any], p: Any, g: Any, state: dict[str, Any], step: int) -> None:
        """The rule on arrays that it has room in: parameters of 16 bits are rounded after it alone."""
        wide, wide_g = widened(p, g)
        self.update(group, wide, wide_g, state, step)
        if wide is not p:
            p[...] = wide

    def names(self, group: dict[str, Any]) -> tuple[str, ...]:
        """The state arrays that a group's options ask for."""
        return self.state_names

    def state_shapes(self, group: dict[str, Any], shape: tuple[int, ...]) -> dict[str, tuple[int, ...]]:
        """Names and shapes of the state of one parameter; a rule that is not elementwise may have its own."""
        return dict.fromkeys(self.names(group), shape)

    def _shapes_of(self, parameter: Tensor) -> dict[str, tuple[int, ...]]:
        """Names and shapes of a parameter's state, as its group has it."""
        return self.state_shapes(self._group_of[parameter], parameter.shape)

    def __repr__(self) -> str:
        lines = [f"{type(self).__name__} ("]
        for number, group in enumerate(self.param_groups):
            lines.append(f"Parameter Group {number}")
            lines += [f"    {k}: {v}" for k, v in sorted(group.items()) if k != "params"]
        return "\n".join([*lines, ")"])


holders[Optimizer] = lambda optimizer: (("state", array, "") for array in optimizer._states.arrays())
