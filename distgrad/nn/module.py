"""The module: parameters, buffers and modules within modules, each under a name."""

from __future__ import annotations

import importlib
from collections.abc import Callable, Iterator, Mapping
from typing import Any, TypeVar

import numpy as np

from distgrad.autograd.casting import bfloat16
from distgrad.autograd.ops.move import destination
from distgrad.autograd.tensor import FLOATING, Tensor
from distgrad.backend.device import Device, resolve
from distgrad.backend.kernels.table import expect
from distgrad.errors import DTypeError, MissingMethodError
from distgrad.nn.everywhere import registered
from distgrad.nn.hooks import EVERYWHERE, Forward, Hooks, P, R_co
from distgrad.nn.parameter import Buffer, Parameter, write
from distgrad.nn.placing import convert, make_empty, share_memory
from distgrad.nn.stateful import Stateful
from distgrad.nn.text import bracketed, indented, module_html, wrong_kind
from distgrad.profiler.owners import holders

__all__ = ["Module"]

M = TypeVar("M", bound="Module")
_COMPILER = "distgrad.replay.compiled"  # on a floor above, and loaded when it is first asked for


class Module(Stateful):
    """A part of a network; the base of them all.

    A subclass calls ``super().__init__()``, assigns its parameters and modules to attributes, and writes
    ``forward``::

        class Net(nn.Module):
            def __init__(self):
                super().__init__()
                self.layer = nn.Linear(784, 10)

            def forward(self, x):
                return self.layer(x.reshape(-1, 784))
    """

    training: bool
    _parameters: dict[str, Parameter | None]
    _buffers: dict[str, Tensor | None]
    _modules: dict[str, Module | None]
    _non_persistent: set[str]
    forward: Callable[..., Any]
    _counted: tuple[str, ...] = ()  # attributes that count calls, of which no result depends
    _kernels: tuple[str, ...] = ()  # of the operations that forward calls, and of their gradients

    def __init__(self) -> None:
        expect(self._kernels)
        self.__dict__.update(  # past __setattr__, which needs these
            training=True, _parameters={}, _buffers={}, _modules={}, _non_persistent=set(), _hooks=None
        )

    def __call__(self: Forward[P, R_co], *args: P.args, **kwargs: P.kwargs) -> R_co:
        hooks = self._hooks  # type: ignore[attr-defined]
        if hooks is None:
            if not EVERYWHERE:
                return self.forward(*args, **kwargs)
            hooks = Hooks()
        return hooks.call(self, args, kwargs)

    def _refuse_call(self, *args: Any, **kwargs: Any) -> Any:
        raise MissingMethodError(f"{type(self).__name__} has no forward method; define forward(self, ...)")

    # -- attributes

    def __getattr__(self, name: str) -> Any:
        own = self.__dict__
        for kind in ("_parameters", "_buffers", "_modules"):
            entries = own.get(kind)
            if entries is not None and name in entries:
                return entries[name]
        if name == "forward":
            return self._refuse_call
        raise AttributeError(f"{type(self).__name__!r} object has no attribute {name!r}")

    def __setattr__(self, name: str, value: Any) -> None:
        own = self.__dict__
        if isinstance(value, Parameter):
            self._forget(name, but="_parameters")
            self.register_parameter(name, value)
        elif isinstance(value, Module):
            self._forget(name, but="_modules")
            self.register_module(name, value)
        elif isinstance(value, Buffer):
            self._forget(name, but="_buffers")
            self.register_buffer(name, value, persistent=value.persistent)
        elif value is not None and name in own.get("_parameters", ()):
            raise TypeError(wrong_kind(self, name, value, "parameter", "a Parameter"))
        elif value is not None and name in own.get("_modules", ()):
            raise TypeError(wrong_kind(self, name, value, "module", "a Module"))
        elif value is not None and not isinstance(value, Tensor) and name in own.get("_buffers", ()):
            raise TypeError(wrong_kind(self, name, value, "buffer", "a Tensor"))
        else:
            for kind in ("_parameters", "_buffers", "_modules"):
                entries = own.get(kind, ())
                if name in entries:
                    own[kind][name] = value
                    return
            object.__setattr__(self, name, value)

    def __delattr__(self, name: str) -> None:
        own = self.__dict__
        for kind in ("_parameters", "_buffers", "_modules"):
            if name in own.get(kind, ()):
                del own[kind][name]
                self._non_persistent.discard(name)
                return
        object.__delattr__(self, name)

    def __dir__(self) -> list[str]:
        return sorted({*super().__dir__(), *self._parameters, *self._buffers, *self._modules})

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state)

    def register_parameter(self, name: str, param: Parameter | None) -> None:
        """Give the module a parameter called ``name``; None keeps the name for one that may be missing."""
        if param is not None and not isinstance(param, Parameter):
            raise TypeError(wrong_kind(self, name, param, "parameter", "a Parameter"))
        self._register("_parameters", name, param)

    def register_buffer(self, name: str, tensor: Tensor | None, persistent: bool = True) -> None:
        """Give the module a tensor that is kept with it but not trained.

        Args:
            name: the attribute.
            tensor: the buffer; None keeps the name for one that may be missing.
            persistent: whether it is part of ``state_dict``.
        """
        if tensor is not None and not isinstance(tensor, Tensor):
            raise TypeError(wrong_kind(self, name, tensor, "buffer", "a Tensor"))
        self._register("_buffers", name, tensor)
        if persistent:
            self._non_persistent.discard(name)
        else:
            self._non_persistent.add(name)

    def register_module(self, name: str, module: Module | None) -> None:
        """Give the module a part called ``name``."""
        if module is not None and not isinstance(module, Module):
            raise TypeError(wrong_kind(self, name, module, "module", "a Module"))
        self._register("_modules", name, module)

    add_module = register_module

    def _forget(self, name: str, but: str) -> None:
        """Take a name out of all places but one, which an assignment gives a value of another kind."""
        own = self.__dict__
        if name not in own.get(but, ()):
            own.pop(name, None)
            for kind in {"_parameters", "_buffers", "_modules"} & own.keys():
                own[kind].pop(name, None)
            own.get("_non_persistent", set()).discard(name)

    def _register(self, kind: str, name: str, value: Any) -> None:
        """Put a value under a name, which is new or in the same place, in one of the three places."""
        own = self.__dict__
        if kind not in own:
            raise AttributeError(
                f"{type(self).__name__}: cannot assign {name!r} before super().__init__() has run; "
                "call it first in __init__"
            )
        if not isinstance(name, str) or "." in name or name == "":
            raise KeyError(f"{type(self).__name__}: a name must be text without dots, got {name!r}")
        value = registered(self, kind, name, value)
        places = (own, own["_parameters"], own["_buffers"], own["_modules"])
        if name not in own[kind] and (hasattr(type(self), name) or any(name in each for each in places)):
            raise KeyError(f"{type(self).__name__}: {name!r} is an attribute already; delete it first")
        own[kind][name] = value

    # -- iteration

    def named_children(self) -> Iterator[tuple[str, Module]]:
        """(name, module) of the modules directly inside, each once."""
        seen = set()
        for name, module in self._modules.items():
            if module is not None and module not in seen:
                seen.add(module)
                yield name, module

    def children(self) -> Iterator[Module]:
        """The modules directly inside, each once."""
        return (module for _, module in self.named_children())

    def named_modules(
        self, memo: set[Module] | None = None, prefix: str = "", remove_duplicate: bool = True
    ) -> Iterator[tuple[str, Module]]:
        """(dotted name, module) of this module and all within.

        Args:
            memo: modules to pass over; those that are met are added.
            prefix: put before the names.
            remove_duplicate: show a module that stands in several places once only.
        """
        memo = set() if memo is None else memo
        if remove_duplicate:
            if self in memo:
                return
            memo.add(self)
        yield prefix, self
        for name, module in self._modules.items():
            if module is not None:
                yield from module.named_modules(memo, _join(prefix, name), remove_duplicate)

    def modules(self) -> Iterator[Module]:
        """This module and all within, each once."""
        return (module for _, module in self.named_modules())

    def named_parameters(
        self, prefix: str = "", recurse: bool = True, remove_duplicate: bool = True
    ) -> Iterator[tuple[str, Parameter]]:
        """(dotted name, parameter) of this module and, if ``recurse``, all within.

        Args:
            prefix: put before the names.
            recurse: go into the modules within.
            remove_duplicate: show a parameter that stands in several places once only.
        """
        return self._named("_parameters", prefix, recurse, remove_duplicate)

    share_memory = share_memory

    def parameters(self, recurse: bool = True) -> Iterator[Parameter]:
        """The parameters of this module and, if ``recurse``, all within, each once."""
        return (parameter for _, parameter in self.named_parameters(recurse=recurse))

    def named_buffers(
        self, prefix: str = "", recurse: bool = True, remove_duplicate: bool = True
    ) -> Iterator[tuple[str, Tensor]]:
        """(dotted name, buffer); the arguments are those of :meth:`named_parameters`."""
        return self._named("_buffers", prefix, recurse, remove_duplicate)

    def buffers(self, recurse: bool = True) -> Iterator[Tensor]:
        """The buffers of this module and, if ``recurse``, all within, each once."""
        return (buffer for _, buffer in self.named_buffers(recurse=recurse))

    def _named(
        self, kind: str, prefix: str, recurse: bool, remove_duplicate: bool
    ) -> Iterator[tuple[str, Any]]:
        modules = self.named_modules(None, prefix, remove_duplicate) if recurse else iter([(prefix, self)])
        seen: set[int] = set()
        for path, module in modules:
            for name, tensor in getattr(module, kind).items():
                if tensor is None or (remove_duplicate and id(tensor) in seen):
                    continue
                seen.add(id(tensor))
                yield _join(path, name), tensor

    def get_submodule(self, target: str) -> Module:
        """The module within at a dotted name; itself for the empty name."""
        module = self
        for name in filter(None, target.split(".")):
            found = module._modules.get(name)
            if found is None:
                raise AttributeError(f"{type(self).__name__}: no module at {target!r}; {name!r} is missing")
            module = found
        return module

    def set_submodule(self, target: str, module: Module, strict: bool = False) -> None:
        """Put a module at a dotted name.

        Args:
            target: the name; all but its last part must be there.
            module: the module.
            strict: whether there must be one at that name before.

        Raises:
            AttributeError: nothing is there, in whose place or within which it is to be.
        """
        path, _, name = target.rpartition(".")
        holder = self.get_submodule(path)
        if not name or (strict and name not in holder._modules):
            raise AttributeError(f"{type(self).__name__}: no module at {target!r} that could be replaced")
        setattr(holder, name, module)

    def get_parameter(self, target: str) -> Parameter:
        """The parameter at a dotted name."""
        return self._get("_parameters", target, "parameter")

    def get_buffer(self, target: str) -> Tensor:
        """The buffer at a dotted name."""
        return self._get("_buffers", target, "buffer")

    def _get(self, kind: str, target: str, what: str) -> Any:
        path, _, name = target.rpartition(".")
        found = getattr(self.get_submodule(path), kind).get(name)
        if found is None:
            raise AttributeError(f"{type(self).__name__}: no {what} at {target!r}")
        return found

    # -- modes, conversion

    def train(self: M, mode: bool = True) -> M:
        """Set training mode (dropout drops, batch norm uses the batch's statistics) here and within."""
        for module in self.modules():
            module.training = mode
        return self

    def eval(self: M) -> M:
        """Set evaluation mode: ``train(False)``."""
        return self.train(False)

    def requires_grad_(self: M, requires_grad: bool = True) -> M:
        """Ask for the gradients of all parameters, or stop asking."""
        for parameter in self.parameters():
            parameter.requires_grad_(requires_grad)
        return self

    def compile(
        self,
        *,
        fullgraph: bool = False,
        dynamic: bool | None = None,
        backend: str | Callable[..., Any] = "inductor",
        mode: str | None = None,
        options: Mapping[str, Any] | None = None,
        disable: bool = False,
    ) -> None:
        """Replay calls of this module that make no graph (``dg.no_grad``), in place: ``dg.capture`` of them.

        Calls that make one are eager, as those of a training step, which is captured as a whole; so are those
        that cannot be captured, with a warning. Hooks are called as ever.

        Args:
            fullgraph: raise the error of what cannot be captured in place of the warning.
            dynamic, backend, mode, options: PyTorch's; there is one way here.
            disable: compute all calls eagerly again.

        Raises:
            OptionError: a mode that is none of PyTorch's, or ``mode`` and ``options`` together.
        """
        compiler = importlib.import_module(_COMPILER)
        self._hooks_of().compiled = compiler.compile_module(
            self, fullgraph=fullgraph, dynamic=dynamic, backend=backend, mode=mode, options=options,
            disable=disable,
        )  # fmt: skip

    def zero_grad(self, set_to_none: bool = True) -> None:
        """Drop the gradients of all parameters, or fill them with zeros."""
        for parameter in self.parameters():
            grad = parameter.grad
            if grad is not None and set_to_none:
                parameter.grad = None
            elif grad is not None:
                if grad.requires_grad:
                    grad = parameter.grad = grad.detach()
                write(grad, 0, "zero_grad")

    def apply(self: M, fn: Callable[[Module], Any]) -> M:
        """Call ``fn`` on every module within and then on this one; returns the module."""
        for module in self.children():
            module.apply(fn)
        fn(self)
        return self

    def to(self: M, *args: Any, **kwargs: Any) -> M:
        """Convert the floating-point parameters and buffers, or move all, in place; returns the module.

        Called as ``to(dtype)``, ``to(device)``, ``to(device, dtype)`` or ``to(tensor)``, whose dtype and
        device are taken.

        Raises:
            DeviceError: a device that is not there.
            DTypeError: a dtype that is not real floating-point.
            GraphError: a parameter whose gradient lies in a flat buffer.
        """
        device, dtype = destination(args, kwargs)
        target = None if device is None else resolve(device)
        kind = None if dtype is None else np.dtype(dtype)
        if kind is not None and kind.char not in FLOATING:
            raise DTypeError(f"to: a module's dtype must be real floating-point, got {kind}")
        self._convert(kind, target)
        return self

    def _convert(self, dtype: np.dtype[Any] | None, device: Device | None) -> None:
        convert([*self.parameters(), *self.buffers()], dtype, device)

    def to_empty(self: M, *, device: Any) -> M:
        """Give parameters and buffers memory on a device that holds anything, in place; returns the module.

        For a module that was built on ``"meta"``: fill it with ``load_state_dict``, or with
        ``reset_parameters()`` of its parts.

        Raises:
            DeviceError: a device that is not there.
            GraphError: a parameter whose gradient lies in a flat buffer.
        """
        make_empty([*self.parameters(), *self.buffers()], resolve(device))
        return self

    def type(self: M, dst_type: Any) -> M:
        """Convert floating-point parameters and buffers to a dtype."""
        return self.to(dst_type)

    def float(self: M) -> M:
        """Convert floating-point parameters and buffers to float32."""
        return self.to(np.float32)

    def double(self: M) -> M:
        """Convert floating-point parameters and buffers to float64."""
        return self.to(np.float64)

    def half(self: M) -> M:
        """Convert floating-point parameters and buffers to float16."""
        return self.to(np.float16)

    def bfloat16(self: M) -> M:
        """Convert floating-point parameters and buffers to bfloat16."""
        return self.to(bfloat16())

    def cpu(self: M) -> M:
        """Move to the CPU."""
        return self.to("cpu")

    def cuda(self: M, device: int | str | Device | None = None) -> M:
        """Move to a GPU: ``device``, a number or name; None means this rank's own."""
        return self.to(f"cuda:{device}" if isinstance(device, int) else device or "cuda")

    # -- text

    def extra_repr(self) -> str:
        """What ``repr`` shows between the brackets; subclasses say their settings."""
        return ""

    _repr_html_ = module_html

    def _get_name(self) -> str:
        return type(self).__name__

    def __repr__(self) -> str:
        lines = [f"({name}): {indented(repr(module))}" for name, module in self._modules.items()]
        return bracketed(self._get_name(), self.extra_repr(), lines)


def _join(prefix: str, name: str) -> str:
    return f"{prefix}.{name}" if prefix else name


holders[Module] = lambda each: (("buffers", b._data, "") for b in each._buffers.values() if b is not None)
