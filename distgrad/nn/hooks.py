"""Functions that users hang on a module: before and after its forward pass, and in its backward pass.

For the backward hooks the inputs and outputs of a module pass through a node each, which leaves values alone.
In backward the outputs' node sees the gradients that enter the module, the inputs' node those that leave it.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, ParamSpec, Protocol, TypeVar

from distgrad.autograd.dispatch import as_array
from distgrad.autograd.graph import Node, OutputNode
from distgrad.autograd.modes import modes
from distgrad.autograd.tensor import FLOATING, RemovableHandle, Tensor, make_tensor
from distgrad.errors import OptionError

__all__ = ["EVERYWHERE", "Forward", "Hook", "Hooked", "Hooks", "Wraps"]

P = ParamSpec("P")
R_co = TypeVar("R_co", covariant=True)


class Forward(Protocol[P, R_co]):
    """What gives a module's call its signature."""

    @property
    def forward(self) -> Callable[P, R_co]:
        """From the inputs to the outputs."""


class Wraps(Protocol[P, R_co]):
    """What gives a call the signature of the module within."""

    @property
    def module(self) -> Forward[P, R_co]:
        """The module that is called."""


@dataclass(frozen=True)
class Hook:
    """A registered function and how it wants to be called.

    Args:
        function: the user's function.
        with_kwargs: hand it the keyword arguments of the call too.
        always_call: call it also when ``forward`` raises.
        with_module: hand it the module too, where that is not always so.
        in_place: it must return None.
    """

    function: Callable[..., Any]
    with_kwargs: bool = False
    always_call: bool = False
    with_module: bool = True
    in_place: bool = False


@dataclass
class Hooks:
    """The hooks of one module, each kind in the order in which they are called."""

    forward_pre: list[Hook] = field(default_factory=list)
    forward: list[Hook] = field(default_factory=list)
    backward_pre: list[Hook] = field(default_factory=list)
    backward: list[Hook] = field(default_factory=list)
    state_pre: list[Hook] = field(default_factory=list)  # before a state dict is made, and behind it
    state_post: list[Hook] = field(default_factory=list)
    load_pre: list[Hook] = field(default_factory=list)  # before one is loaded, and behind it
    load_post: list[Hook] = field(default_factory=list)
    compiled: Callable[..., Any] | None = None  # what the module's call is replaced by

    @staticmethod
    def add(hooks: list[Hook], hook: Hook, prepend: bool) -> RemovableHandle:
        """Put a hook first or last; returns what takes it away again."""
        hooks.insert(0 if prepend else len(hooks), hook)
        return RemovableHandle(hooks, hook)

    def call(self, module: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        """The module's forward pass with all its hooks, replayed where it can be."""
        if self.compiled is not None:
            return self.compiled(*args, **kwargs)
        return self.call_eagerly(module, args, kwargs)

    def call_eagerly(self, module: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        """The module's forward pass with all its hooks."""
        finished: set[int] = set()
        result: list[Any] = [None]
        try:
            return self._call(module, args, kwargs, finished, result)
        except BaseException as raised:
            for hook in _all_of("forward", self):
                if hook.always_call and id(hook) not in finished:
                    _run_although_raised(raised, hook, module, args, kwargs, result[0])
            raise

    def _call(
        self,
        module: Any,
        args: tuple[Any, ...],
        kwargs: dict[str, Any],
        finished: set[int],
        so_far: list[Any],
    ) -> Any:
        for hook in _all_of("forward_pre", self):
            args, kwargs = _run_pre_hook(hook, module, args, kwargs)
        watched = _all_of("backward", self), _all_of("backward_pre", self)
        watch = _BackwardWatch(module, *watched) if any(watched) else None
        if watch is not None:
            args = watch.enter(args)
        result = so_far[0] = module.forward(*args, **kwargs)
        for hook in _all_of("forward", self):
            finished.add(id(hook))
            changed = _run_forward_hook(hook, module, args, kwargs, result)
            result = so_far[0] = result if changed is None else changed
        return result if watch is None else watch.leave(result)


#: The hooks of all modules, once there are any: they are called before a module's own.
EVERYWHERE: list[Hooks] = []


def _all_of(kind: str, own: Hooks) -> tuple[Hook, ...]:
    """The hooks of one kind that a module's call has, in order."""
    everywhere = getattr(EVERYWHERE[0], kind) if EVERYWHERE else ()
    return (*everywhere, *getattr(own, kind))


def _run_forward_hook(
    hook: Hook, module: Any, args: tuple[Any, ...], kwargs: dict[str, Any], result: Any
) -> Any:
    if hook.with_kwargs:
        return hook.function(module, args, kwargs, result)
    return hook.function(module, args, result)


def _run_although_raised(
    raised: BaseException, hook: Hook, module: Any, args: tuple[Any, ...], kwargs: dict[str, Any], result: Any
) -> None:
    """Call a forward hook behind an error of ``forward``, which one of its own may not hide.

    The same error, a rank's failure say that both met, is said once.
    """
    try:
        _run_forward_hook(hook, module, args, kwargs, result)
    except Exception as error:
        if type(error) is type(raised):
            return
        warnings.warn(
            f"forward hook of {type(module).__name__} with always_call raised {error!r}, which is passed "
            "over as forward raised before",
            stacklevel=2,
        )


class Hooked:
    """What has hooks: the part of a module that registers them."""

    _hooks: Hooks | None

    def _hooks_of(self) -> Hooks:
        if self._hooks is None:
            self.__dict__["_hooks"] = Hooks()
        return self.__dict__["_hooks"]

    def register_forward_pre_hook(
        self, hook: Callable[..., Any], *, prepend: bool = False, with_kwargs: bool = False
    ) -> RemovableHandle:
        """Call ``hook(module, args)`` before ``forward``; what it returns, unless None, is the arguments.

        Args:
            hook: the function.
            prepend: call it before the hooks that are there.
            with_kwargs: call ``hook(module, args, kwargs)``, which returns None or ``(args, kwargs)``.
        """
        return Hooks.add(self._hooks_of().forward_pre, Hook(hook, with_kwargs), prepend)

    def register_forward_hook(
        self,
        hook: Callable[..., Any],
        *,
        prepend: bool = False,
        with_kwargs: bool = False,
        always_call: bool = False,
    ) -> RemovableHandle:
        """Call ``hook(module, args, output)`` after ``forward``; what it returns, unless None, is the output.

        Args:
            hook: the function.
            prepend: call it before the hooks that are there.
            with_kwargs: call ``hook(module, args, kwargs, output)``.
            always_call: call it also when ``forward`` raises, with None for the output.
        """
        return Hooks.add(self._hooks_of().forward, Hook(hook, with_kwargs, always_call), prepend)

    def register_full_backward_pre_hook(
        self, hook: Callable[..., Any], prepend: bool = False
    ) -> RemovableHandle:
        """Call ``hook(module, grad_output)`` in backward, before the module's own gradients.

        Args:
            hook: takes the gradients of the module's outputs, a tuple; what it returns replaces them.
            prepend: call it before the hooks that are there.
        """
        return Hooks.add(self._hooks_of().backward_pre, Hook(hook), prepend)

    def register_full_backward_hook(self, hook: Callable[..., Any], prepend: bool = False) -> RemovableHandle:
        """Call ``hook(module, grad_input, grad_output)`` in backward, once the inputs' gradients are there.

        Args:
            hook: takes the gradients of the positional arguments (None for one without) and of the outputs,
                both tuples; what it returns replaces those of the arguments.
            prepend: call it before the hooks that are there.
        """
        return Hooks.add(self._hooks_of().backward, Hook(hook), prepend)

    def register_backward_hook(self, hook: Callable[..., Any]) -> RemovableHandle:
        """:meth:`register_full_backward_hook`, under its name of old."""
        return self.register_full_backward_hook(hook)


def _run_pre_hook(
    hook: Hook, module: Any, args: tuple[Any, ...], kwargs: dict[str, Any]
) -> tuple[tuple[Any, ...], dict[str, Any]]:
    """The arguments as the hook leaves them."""
    if not hook.with_kwargs:
        changed = hook.function(module, args)
        if changed is None:
            return args, kwargs
        return (changed if isinstance(changed, tuple) else (changed,)), kwargs
    changed = hook.function(module, args, kwargs)
    if changed is None:
        return args, kwargs
    if not (isinstance(changed, tuple) and len(changed) == 2 and isinstance(changed[1], dict)):
        raise TypeError(
            f"forward pre-hook of {type(module).__name__}: with_kwargs expects None or (args, kwargs), "
            f"got {type(changed).__name__}"
        )
    return changed


class _BackwardWatch:
    """The backward hooks of one call of a module: what stands between its graph and the world's."""

    def __init__(self, module: Any, backward: tuple[Hook, ...], backward_pre: tuple[Hook, ...]) -> None:
        self.module = module
        self.backward = backward
        self.backward_pre = backward_pre
        self.grad_output: tuple[Any, ...] = ()
        self.inputs_watched = False
        self.num_inputs = 0

    def enter(self, args: tuple[Any, ...]) -> tuple[Any, ...]:
        """The arguments, with the tensors among them behind a node whose gradients the hooks see."""
        self.num_inputs = len(args)
        watched = _through_node(args, f"inputs of {type(self.module).__name__}", self.leaving)
        self.inputs_watched = watched is not None
        return args if watched is None else watched

    def leave(self, result: Any) -> Any:
        """The result, with the tensors in it behind a node whose gradients the hooks see."""
        results = result if isinstance(result, tuple) else (result,)
        watched = _through_node(results, f"outputs of {type(self.module).__name__}", self.entering)
        if watched is None:
            return result
        if not isinstance(result, tuple):
            return watched[0]
        return watched if type(result) is tuple else type(result)(*watched)

    def entering(self, gradients: tuple[Any, ...]) -> tuple[Any, ...]:
        """The gradients of the outputs have come."""
        for hook in self.backward_pre:
            gradients = _replaced(hook.function(self.module, gradients), gradients, self.module)
        self.grad_output = gradients
        if not self.inputs_watched:
            for hook in self.backward:
                hook.function(self.module, (None,) * self.num_inputs, gradients)
        return gradients

    def leaving(self, gradients: tuple[Any, ...]) -> tuple[Any, ...]:
        """The gradients of the inputs are complete."""
        for hook in self.backward:
            changed = hook.function(self.module, gradients, self.grad_output)
            gradients = _replaced(changed, gradients, self.module)
        return gradients


def _replaced(changed: Any, gradients: tuple[Any, ...], module: Any) -> tuple[Any, ...]:
    """What a hook returned, in the place of the gradients; None leaves them."""
    if changed is None:
        return gradients
    changed = changed if isinstance(changed, tuple) else (changed,)
    if len(changed) != len(gradients):
        raise OptionError(
            f"backward hook of {type(module).__name__}: expected {len(gradients)} gradients, "
            f"got {len(changed)}"
        )
    return changed


class _Watchpoint:
    """Stands in a node as its operation: passes gradients on, as the hooks leave them."""

    vjps: dict[str, Any] = {}  # noqa: RUF012 (nothing is saved for backward)

    def __init__(self, name: str, places: list[int], count: int, function: Callable[..., Any]) -> None:
        self.name = name
        self.places = places
        self.count = count
        self.function = function

    def backward(self, xp: Any, gradients: tuple[Any, ...], saved: Any, edges: Any, grads: Any) -> list[Any]:
        """Show the gradients, one for each value passed through, None for values without."""
        on_tensors = isinstance(gradients[0], Tensor)
        shown: list[Any] = [None] * self.count
        for place, g in zip(self.places, gradients, strict=True):
            shown[place] = g if on_tensors else Tensor(as_array(g))
        changed = self.function(tuple(shown))
        out = [changed[place] for place in self.places]
        if on_tensors:
            return out
        return [g._data if isinstance(g, Tensor) else g for g in out]


def _through_node(values: tuple[Any, ...], name: str, function: Callable[..., Any]) -> tuple[Any, ...] | None:
    """The values, with those in the graph passed through one node; None if there are none."""
    places = [
        i
        for i, value in enumerate(values)
        if isinstance(value, Tensor) and value._node is not None and value.dtype.char in FLOATING
    ]
    if not places or not modes.grad:
        return None
    metas = tuple((values[i].shape, values[i].dtype) for i in places)
    edges = tuple(values[i]._node for i in places)
    node = Node(_Watchpoint(name, places, len(values), function), edges, metas, ())
    node.outputs = metas
    out = list(values)
    for index, place in enumerate(places):
        out[place] = make_tensor(values[place]._data, OutputNode(node, index))
        out[place]._version = values[place]._version
    return tuple(out)
