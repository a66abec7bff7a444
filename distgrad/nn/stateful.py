"""The state of a module by name: what it gives, what it takes back, and the hooks around both."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Iterator, Mapping
from typing import Any

from distgrad.autograd.parts import outside
from distgrad.autograd.tensor import RemovableHandle, Tensor
from distgrad.nn.hooks import Hook, Hooked, Hooks
from distgrad.nn.state import EXTRA_STATE, IncompatibleKeys, load, run_pre_hooks, take

__all__ = ["Stateful"]

_ARGUMENTS = ("destination", "prefix", "keep_vars")


class Stateful(Hooked):
    """What has a state dict: the part of a module that makes and loads it."""

    _parameters: dict[str, Any]
    _buffers: dict[str, Any]
    _modules: dict[str, Any]
    _non_persistent: set[str]
    #: Of the layout of the entries; it is saved beside them, and a subclass's own loading may ask for it.
    _version: int = 1

    def get_extra_state(self) -> Any:
        """What a subclass keeps in its ``state_dict`` beside tensors; None means nothing."""
        return None

    def set_extra_state(self, state: Any) -> None:
        """Take back what :meth:`get_extra_state` gave; a subclass that gives something overrides both."""
        raise TypeError(f"{type(self).__name__}: the state dict holds extra state; define set_extra_state")

    def state_dict(
        self, *args: Any, destination: dict[str, Any] | None = None, prefix: str = "", keep_vars: bool = False
    ) -> dict[str, Any]:
        """The parameters and persistent buffers by dotted name.

        Args:
            *args: the others in this order, as they were once given.
            destination: the dict to fill; None makes one.
            prefix: put before the names.
            keep_vars: give the parameters themselves, not tensors outside the graph.

        Returns:
            Tensors that share the module's memory: copy what shall not follow its changes.
        """
        if args:  # as they were once given
            rest = (destination, prefix, keep_vars)[len(args) :]
            return Stateful.state_dict(self, **dict(zip(_ARGUMENTS, (*args, *rest), strict=True)))
        out: Any = destination
        if out is None:
            out = OrderedDict()
            out._metadata = OrderedDict()
        local_metadata = {"version": self._version}
        if hasattr(out, "_metadata"):
            out._metadata[prefix[:-1]] = local_metadata
        hooks = self._hooks
        for hook in () if hooks is None else tuple(hooks.state_pre):
            hook.function(self, prefix, keep_vars)
        self._save_to_state_dict(out, prefix, keep_vars)
        for name, module in self._parts():
            module.state_dict(destination=out, prefix=prefix + name, keep_vars=keep_vars)
        for hook in () if hooks is None else tuple(hooks.state_post):
            changed = hook.function(self, out, prefix, local_metadata)
            if changed is not None and hook.in_place:
                raise RuntimeError("state_dict post-hook must return None; change the dict in place")
            out = out if changed is None else changed
        return out

    def _parts(self) -> Iterator[tuple[str, Any]]:
        """What is put before the names of each module within, and the module."""
        return ((f"{name}.", module) for name, module in self._modules.items() if module is not None)

    def _own_entries(self) -> dict[str, Tensor]:
        """Parameters and persistent buffers of this module alone, by name."""
        kept = {name: each for name, each in self._buffers.items() if name not in self._non_persistent}
        return {name: each for name, each in {**self._parameters, **kept}.items() if each is not None}

    def _save_to_state_dict(self, destination: dict[str, Any], prefix: str, keep_vars: bool) -> None:
        """Put this module's own entries into a state dict; a subclass may have others."""
        for name, each in self._own_entries().items():
            destination[prefix + name] = each if keep_vars else outside(each)
        extra = self.get_extra_state()
        if extra is not None:
            destination[prefix + EXTRA_STATE] = extra

    def load_state_dict(
        self, state_dict: Mapping[str, Any], strict: bool = True, assign: bool = False
    ) -> IncompatibleKeys:
        """Copy values by name into the parameters and buffers; on an error nothing is changed.

        Modules with a ``_load_from_state_dict`` of their own, and hooks that run behind loading, may have
        changed something before an error is found.

        Args:
            state_dict: tensors or arrays by dotted name.
            strict: whether the names must be exactly the module's own.
            assign: take the tensors themselves, their dtype and place, in place of copying; optimizers after.

        Returns:
            The names that were passed over, both empty if ``strict``.

        Raises:
            StateDictError: names that are missing or unexpected (if ``strict``), shapes or dtypes that
                differ; the message holds all of them.
        """
        return load(self, state_dict, strict, assign)

    def _load_from_state_dict(
        self,
        state_dict: dict[str, Any],
        prefix: str,
        local_metadata: dict[str, Any],
        strict: bool,
        missing_keys: list[str],
        unexpected_keys: list[str],
        error_msgs: list[str],
    ) -> None:
        """Take this module's own entries out of a state dict; a subclass may change the dict before.

        Args:
            state_dict: a copy, which may be changed.
            prefix: what stands before this module's names.
            local_metadata: ``version`` of what was saved, empty where unknown.
            strict: whether names are to be compared.
            missing_keys, unexpected_keys, error_msgs: are added to.
        """
        run_pre_hooks(
            self, state_dict, prefix, local_metadata, strict, missing_keys, unexpected_keys, error_msgs
        )
        keys = IncompatibleKeys(missing_keys, unexpected_keys) if strict else IncompatibleKeys([], [])
        assign = bool(local_metadata.get("assign_to_params_buffers", False))
        for write_one in take(self, state_dict, prefix, keys, error_msgs, assign):
            write_one()

    def _upgrade(self, state_dict: dict[str, Any], prefix: str, local_metadata: Mapping[str, Any]) -> None:
        """Add to the entries what files of older versions lack; a subclass says what."""

    def _loads_as_usual(self) -> bool:
        """Whether loading is this class's, so that it may be compared whole before anything is written."""
        method = self._load_from_state_dict
        return getattr(method, "__func__", None) is Stateful._load_from_state_dict

    def _takes_extra_state(self) -> bool:
        return type(self).set_extra_state is not Stateful.set_extra_state

    # -- hooks

    def register_state_dict_pre_hook(self, hook: Callable[..., Any]) -> RemovableHandle:
        """Call ``hook(module, prefix, keep_vars)`` before the module's entries are put into a state dict."""
        return Hooks.add(self._hooks_of().state_pre, Hook(hook), False)

    def register_state_dict_post_hook(self, hook: Callable[..., Any]) -> RemovableHandle:
        """Call ``hook(module, state_dict, prefix, local_metadata)`` behind that; it may change the dict."""
        return Hooks.add(self._hooks_of().state_post, Hook(hook, in_place=True), False)

    def _register_state_dict_hook(self, hook: Callable[..., Any]) -> RemovableHandle:
        """As :meth:`register_state_dict_post_hook`, but what it returns, unless None, is the state dict."""
        return Hooks.add(self._hooks_of().state_post, Hook(hook), False)

    def register_load_state_dict_pre_hook(self, hook: Callable[..., Any]) -> RemovableHandle:
        """Call a hook before the module's entries are taken out of a state dict.

        Args:
            hook: is called with ``(module, state_dict, prefix, local_metadata, strict, missing_keys,
                unexpected_keys, error_msgs)``, all of which it may change.
        """
        return self._register_load_state_dict_pre_hook(hook, with_module=True)

    def _register_load_state_dict_pre_hook(
        self, hook: Callable[..., Any], with_module: bool = False
    ) -> RemovableHandle:
        """As :meth:`register_load_state_dict_pre_hook`; the module is handed over only ``with_module``."""
        return Hooks.add(self._hooks_of().load_pre, Hook(hook, with_module=with_module), False)

    def register_load_state_dict_post_hook(self, hook: Callable[..., Any]) -> RemovableHandle:
        """Call ``hook(module, incompatible_keys)`` once the module and all within are loaded.

        Names that it takes out of ``incompatible_keys`` are no errors.
        """
        return Hooks.add(self._hooks_of().load_post, Hook(hook), False)
