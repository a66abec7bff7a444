"""Parameters of which some elements are held at 0: a mask beside what is trained.

A pruned parameter ``weight`` becomes ``weight_orig``, beside it stands the buffer ``weight_mask``, and
``weight`` is their product, computed before each forward pass.
"""

from __future__ import annotations

import abc
import math
from collections.abc import Iterable
from typing import Any

from distgrad.autograd.creation import ones
from distgrad.autograd.dispatch import operations as ops
from distgrad.autograd.modes import no_grad
from distgrad.autograd.random import rand
from distgrad.autograd.tensor import Tensor
from distgrad.errors import OptionError
from distgrad.nn.module import Module
from distgrad.nn.parameter import Parameter

__all__ = [
    "BasePruningMethod", "CustomFromMask", "Identity", "L1Unstructured", "LnStructured", "PruningContainer",
    "RandomStructured", "RandomUnstructured", "custom_from_mask", "global_unstructured", "identity",
    "is_pruned", "l1_unstructured", "ln_structured", "random_structured", "random_unstructured", "remove",
]  # fmt: skip


class BasePruningMethod(abc.ABC):
    """Chooses elements: a subclass writes :meth:`compute_mask`, and :meth:`apply` makes it a module's.

    Attributes:
        PRUNING_TYPE: ``"unstructured"``, of which a further one counts the elements that are left, or
            ``"global"`` or ``"structured"``, which see all.
    """

    PRUNING_TYPE = "unstructured"
    _tensor_name: str

    @abc.abstractmethod
    def compute_mask(self, t: Tensor, default_mask: Tensor) -> Tensor:
        """1 for what stays, 0 for the rest, in the shape of ``t``; within ``default_mask``."""

    def __call__(self, module: Module, inputs: Any) -> None:
        """Compute the parameter before a forward pass."""
        setattr(module, self._tensor_name, self.apply_mask(module))

    def apply_mask(self, module: Module) -> Tensor:
        """The product of what is trained and the mask."""
        name = self._tensor_name
        product: Tensor = getattr(module, f"{name}_orig") * getattr(module, f"{name}_mask")
        return product

    def prune(self, t: Tensor, default_mask: Tensor | None = None, importance_scores: Any = None) -> Tensor:
        """``t`` with its mask applied; scores decide where they are given."""
        scores = t if importance_scores is None else importance_scores
        mask = ones(t.shape, dtype=t.dtype) if default_mask is None else default_mask
        return t * self.compute_mask(scores, mask)

    @classmethod
    def apply(
        cls, module: Module, name: str, *args: Any, importance_scores: Any = None, **options: Any
    ) -> BasePruningMethod:
        """Prune a module's parameter, a second time within what is left.

        Args:
            module: has the parameter.
            name: of the parameter.
            importance_scores: by which elements are chosen, of its shape; None takes its own.
            args, options: of the constructor.
        """
        method = cls(*args, **options)
        method._tensor_name = name
        before = _method_of(module, name)
        if before is None:
            original = getattr(module, name)
            mask = ones(original.shape, dtype=original.dtype, device=original.device)
        else:
            original, mask = getattr(module, f"{name}_orig"), getattr(module, f"{name}_mask")
        scores = original.detach() if importance_scores is None else importance_scores
        if scores.shape != original.shape:
            raise OptionError(
                f"prune: importance_scores must be of the parameter's shape {list(original.shape)}, got "
                f"{list(scores.shape)}"
            )
        with no_grad():
            mask = _combined(method, scores, mask)
        found: BasePruningMethod = method
        if before is None:
            delattr(module, name)
            module.register_parameter(f"{name}_orig", original)
            module.register_buffer(f"{name}_mask", mask)
        else:
            module.register_buffer(f"{name}_mask", mask)
            earlier, handle = before
            handle.remove()
            found = earlier if isinstance(earlier, PruningContainer) else PruningContainer(earlier)
            found.add_pruning_method(method)
        _methods_of(module)[name] = (found, module.register_forward_pre_hook(found))
        setattr(module, name, found.apply_mask(module))
        return found

    def remove(self, module: Module) -> None:
        """Make the product the parameter, for good."""
        name = self._tensor_name
        found = _methods_of(module).pop(name)
        found[1].remove()
        with no_grad():
            product = self.apply_mask(module).detach()
        original: Parameter = getattr(module, f"{name}_orig")
        for each in (name, f"{name}_orig", f"{name}_mask"):
            delattr(module, each)
        original.data = product
        module.register_parameter(name, original)


def _methods_of(module: Module) -> dict[str, tuple[BasePruningMethod, Any]]:
    found: dict[str, tuple[BasePruningMethod, Any]] = module.__dict__.setdefault("_pruning", {})
    return found


def _method_of(module: Module, name: str) -> tuple[BasePruningMethod, Any] | None:
    return _methods_of(module).get(name)


def _combined(method: BasePruningMethod, scores: Tensor, mask: Tensor) -> Tensor:
    """A mask within one: of what is left, where the method counts elements."""
    if method.PRUNING_TYPE == "unstructured":
        left = ops.reshape(mask, (-1,)) != 0
        flat, inner = ops.reshape(scores, (-1,))[left], ones((int(left.sum()),), dtype=mask.dtype)
        chosen = ops.reshape(mask, (-1,)).clone()
        chosen[left] = method.compute_mask(flat, inner)
        return ops.reshape(chosen, mask.shape)
    return method.compute_mask(scores, mask)


class PruningContainer(BasePruningMethod):
    """Methods that were applied one after another."""

    def __init__(self, *methods: BasePruningMethod) -> None:
        self._methods: list[BasePruningMethod] = []
        for each in methods:
            self.add_pruning_method(each)

    def add_pruning_method(self, method: BasePruningMethod) -> None:
        """One more."""
        self._methods.append(method)
        self._tensor_name = method._tensor_name

    def __len__(self) -> int:
        return len(self._methods)

    def __iter__(self) -> Any:
        return iter(self._methods)

    def __getitem__(self, place: int) -> BasePruningMethod:
        return self._methods[place]

    def compute_mask(self, t: Tensor, default_mask: Tensor) -> Tensor:
        """That of the last one."""
        return _combined(self._methods[-1], t, default_mask)


class Identity(BasePruningMethod):
    """Prunes nothing."""

    def compute_mask(self, t: Tensor, default_mask: Tensor) -> Tensor:
        """The mask as it is."""
        return default_mask.clone()


def _number_of(amount: float, length: int) -> int:
    """How many elements an amount is: a share, or their number.

    Raises:
        OptionError: a share outside [0, 1], or more than there are.
    """
    whole = isinstance(amount, int)
    if not 0 <= amount <= (length if whole else 1.0):
        raise OptionError(
            f"prune: amount must be a share from 0.0 to 1.0 or a whole number up to {length}, got {amount}"
        )
    return int(amount) if whole else round(amount * length)


def _without(mask: Tensor, places: Any) -> Tensor:
    flat = ops.reshape(mask.clone(), (-1,))
    flat[places] = 0
    return ops.reshape(flat, mask.shape)


def _least(scores: Tensor, count: int) -> Any:
    """Places of the smallest elements of a row."""
    return ops.argsort(scores, axis=0)[:count]


class RandomUnstructured(BasePruningMethod):
    """Elements at random; ``amount`` is a share or a number."""

    def __init__(self, amount: float) -> None:
        self.amount = amount

    def compute_mask(self, t: Tensor, default_mask: Tensor) -> Tensor:
        """Without the elements that drew the smallest numbers."""
        return _without(default_mask, _least(rand((t.size,)), _number_of(self.amount, t.size)))


class L1Unstructured(RandomUnstructured):
    """The elements of least size; ``amount`` is a share or a number."""

    def compute_mask(self, t: Tensor, default_mask: Tensor) -> Tensor:
        """Without the smallest elements."""
        sizes = ops.abs(ops.reshape(t, (-1,)))
        return _without(default_mask, _least(sizes, _number_of(self.amount, t.size)))


class LnStructured(BasePruningMethod):
    """The slices of least n-norm along an axis.

    Args:
        amount: a share or a number of slices.
        n: of the norm; ``inf`` and ``"fro"`` too.
        dim: the axis.
    """

    PRUNING_TYPE = "structured"

    def __init__(self, amount: float, n: Any = 2, dim: int = -1) -> None:
        self.amount, self.n, self.dim = amount, n, dim

    def _scores(self, t: Tensor) -> Tensor:
        order = 2 if self.n == "fro" else self.n
        rows = ops.abs(ops.reshape(ops.moveaxis(t, self.dim, 0), (t.shape[self.dim], -1)))
        if order in (math.inf, -math.inf):
            found: Tensor = (ops.max if order > 0 else ops.min)(rows, axis=1)
            return found
        return ops.sum(rows**order, axis=1) ** (1.0 / order)

    def compute_mask(self, t: Tensor, default_mask: Tensor) -> Tensor:
        """Without the slices that were chosen."""
        length = t.shape[self.dim]
        keep = ones((length,), dtype=default_mask.dtype)
        keep[_least(self._scores(t), _number_of(self.amount, length))] = 0
        shape = [1] * t.ndim
        shape[self.dim] = length
        product: Tensor = default_mask * ops.reshape(keep, tuple(shape))
        return product


class RandomStructured(LnStructured):
    """Slices along an axis at random."""

    def __init__(self, amount: float, dim: int = -1) -> None:
        super().__init__(amount, dim=dim)

    def _scores(self, t: Tensor) -> Tensor:
        return rand((t.shape[self.dim],))


class CustomFromMask(BasePruningMethod):
    """What a given mask says."""

    PRUNING_TYPE = "global"

    def __init__(self, mask: Tensor) -> None:
        self.mask = mask

    def compute_mask(self, t: Tensor, default_mask: Tensor) -> Tensor:
        """Both masks."""
        product: Tensor = default_mask * ops.astype(self.mask, default_mask.dtype)
        return product


def identity(module: Module, name: str) -> Module:
    """Make a parameter a pruned one of which nothing is missing; the module."""
    Identity.apply(module, name)
    return module


def random_unstructured(module: Module, name: str, amount: float) -> Module:
    """Prune elements of a parameter at random; the module."""
    RandomUnstructured.apply(module, name, amount)
    return module


def l1_unstructured(module: Module, name: str, amount: float, importance_scores: Any = None) -> Module:
    """Prune a parameter's elements of least size; the module."""
    L1Unstructured.apply(module, name, amount, importance_scores=importance_scores)
    return module


def random_structured(module: Module, name: str, amount: float, dim: int) -> Module:
    """Prune slices of a parameter along an axis at random; the module."""
    RandomStructured.apply(module, name, amount, dim)
    return module


def ln_structured(
    module: Module, name: str, amount: float, n: Any, dim: int, importance_scores: Any = None
) -> Module:
    """Prune a parameter's slices of least n-norm along an axis; the module."""
    LnStructured.apply(module, name, amount, n, dim, importance_scores=importance_scores)
    return module


def custom_from_mask(module: Module, name: str, mask: Tensor) -> Module:
    """Prune where a mask is 0; the module."""
    CustomFromMask.apply(module, name, mask)
    return module


def global_unstructured(
    parameters: Iterable[tuple[Module, str]],
    pruning_method: Any,
    importance_scores: Any = None,
    **options: Any,
) -> None:
    """Prune several parameters as if they were one.

    Args:
        parameters: (module, name) pairs.
        pruning_method: an unstructured one.
        importance_scores: by pair; where there are none, the parameters' own elements.
        **options: of the method.

    Raises:
        OptionError: a method that is not unstructured.
    """
    if pruning_method.PRUNING_TYPE != "unstructured":
        raise OptionError('global_unstructured: only "unstructured" pruning methods can be applied globally')
    pairs, given = list(parameters), importance_scores or {}
    scores, masks = [], []
    for module, name in pairs:
        pruned = _method_of(module, name) is not None
        original = getattr(module, f"{name}_orig" if pruned else name)
        mask = getattr(module, f"{name}_mask") if pruned else ones(original.shape, dtype=original.dtype)
        scores.append(ops.reshape(given.get((module, name), original).detach(), (-1,)))
        masks.append(ops.reshape(mask, (-1,)))
    method = pruning_method(**options)
    with no_grad():
        whole = _combined(method, ops.concat(scores), ops.concat(masks))
    start = 0
    for (module, name), each in zip(pairs, scores, strict=True):
        part = whole[start : start + each.size]
        CustomFromMask.apply(module, name, ops.reshape(part, getattr(module, name).shape))
        start += each.size


def remove(module: Module, name: str) -> Module:
    """Make a pruned parameter an ordinary one again, with its zeros; the module.

    Raises:
        ValueError: it is not pruned.
    """
    found = _method_of(module, name)
    if found is None:
        raise ValueError(
            f"Parameter '{name}' of module {module} has to be pruned before pruning can be removed"
        )
    found[0].remove(module)
    return module


def is_pruned(module: Module) -> bool:
    """Whether a parameter in it is pruned."""
    return any(each.__dict__.get("_pruning") for each in module.modules())
