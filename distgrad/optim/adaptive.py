"""Rules that scale each element's step by its own past gradients, and steps by sign alone."""

from __future__ import annotations

import math
from collections.abc import Iterable
from typing import Any, ClassVar

import numpy as np

from distgrad.backend.kernels.elementwise import Elementwise
from distgrad.backend.kernels.rules import RULES
from distgrad.optim.adam import descent
from distgrad.optim.optimizer import Optimizer

__all__ = ["ASGD", "Adadelta", "Adagrad", "Adamax", "Lion", "NAdam", "RAdam", "RMSprop", "Rprop"]

State = dict[str, np.ndarray]
Group = dict[str, Any]


class RMSprop(Optimizer):
    """Steps divided by a running root mean square: ``v = α v + (1 − α) g²; p = p − lr g / (√v + ε)``.

    Args:
        params: parameters or groups of them.
        lr: learning rate.
        alpha: α.
        eps: ε.
        weight_decay: λ of ``g + λ p``.
        momentum: μ of ``b = μ b + g / (√v + ε); p = p − lr b``.
        centered: take the variance, ``v − m²`` with a running mean m, for v.
        maximize: go up instead of down.

    Source: Tieleman and Hinton, lecture 6.5, 2012; centered: Graves, 2013.
    """

    rule: ClassVar[Elementwise] = RULES["rmsprop"]

    def __init__(
        self,
        params: Iterable[Any],
        lr: float = 1e-2,
        alpha: float = 0.99,
        eps: float = 1e-8,
        weight_decay: float = 0.0,
        momentum: float = 0.0,
        centered: bool = False,
        *,
        maximize: bool = False,
    ) -> None:
        options = {"lr": lr, "alpha": alpha, "eps": eps, "weight_decay": weight_decay}
        super().__init__(
            params, {**options, "momentum": momentum, "centered": centered, "maximize": maximize}
        )

    def names(self, group: Group) -> tuple[str, ...]:
        """The running square, and what momentum and centering ask for."""
        names = ["square_avg"]
        names += ["momentum_buffer"] if group["momentum"] else []
        names += ["grad_avg"] if group["centered"] else []
        return tuple(names)

    def numbers(self, group: Group, step: int) -> dict[str, float]:
        """Those of the rule."""
        alpha = group["alpha"]
        own = {name: group[name] for name in ("eps", "momentum", "lr")}
        return {**descent(group), "alpha": alpha, "rest": 1.0 - alpha, **own}


class Adagrad(Optimizer):
    """Steps divided by the root of all squares so far: ``s = s + g²; p = p − lrₜ g / (√s + ε)``.

    Args:
        params: parameters or groups of them.
        lr: learning rate; ``lrₜ = lr / (1 + (t − 1) lr_decay)``.
        lr_decay: see above.
        weight_decay: λ of ``g + λ p``.
        initial_accumulator_value: s before the first step.
        eps: ε.
        maximize: go up instead of down.

    Source: Duchi et al., JMLR 2011.
    """

    rule: ClassVar[Elementwise] = RULES["adagrad"]

    def __init__(
        self,
        params: Iterable[Any],
        lr: float = 1e-2,
        lr_decay: float = 0.0,
        weight_decay: float = 0.0,
        initial_accumulator_value: float = 0.0,
        eps: float = 1e-10,
        *,
        maximize: bool = False,
    ) -> None:
        options = {"lr": lr, "lr_decay": lr_decay, "weight_decay": weight_decay, "eps": eps}
        start = {"initial_accumulator_value": initial_accumulator_value}
        super().__init__(params, {**options, **start, "maximize": maximize})

    def numbers(self, group: Group, step: int) -> dict[str, float]:
        """Those of the rule."""
        rate = group["lr"] / (1.0 + (step - 1) * group["lr_decay"])
        return {**descent(group), "eps": group["eps"], "rate": rate}

    def begin(self, group: Group, state: State) -> None:
        """The sum starts with a value of the options."""
        state["sum"] += group["initial_accumulator_value"]


class Adadelta(Optimizer):
    """Steps in the units of the parameters: ``p = p − lr √(d + ε) / √(v + ε) g``.

    v and d are running means of g² and of the squared steps.

    Args:
        params: parameters or groups of them.
        lr: learning rate.
        rho: weight of the past in both means.
        eps: ε.
        weight_decay: λ of ``g + λ p``.
        maximize: go up instead of down.

    Source: Zeiler, 2012.
    """

    rule: ClassVar[Elementwise] = RULES["adadelta"]

    def __init__(
        self,
        params: Iterable[Any],
        lr: float = 1.0,
        rho: float = 0.9,
        eps: float = 1e-6,
        weight_decay: float = 0.0,
        *,
        maximize: bool = False,
    ) -> None:
        options = {"lr": lr, "rho": rho, "eps": eps, "weight_decay": weight_decay, "maximize": maximize}
        super().__init__(params, options)

    def numbers(self, group: Group, step: int) -> dict[str, float]:
        """Those of the rule."""
        rho = group["rho"]
        return {**descent(group), "rho": rho, "rest": 1.0 - rho, "eps": group["eps"], "lr": group["lr"]}


class Adamax(Optimizer):
    """Adam with the largest size so far: ``u = max(β₂ u, |g| + ε); p = p − lr / (1 − β₁ᵗ) m / u``.

    Args:
        params: parameters or groups of them.
        lr: learning rate.
        betas: (β₁, β₂).
        eps: ε.
        weight_decay: λ of ``g + λ p``.
        maximize: go up instead of down.

    Source: Kingma and Ba, ICLR 2015.
    """

    rule: ClassVar[Elementwise] = RULES["adamax"]

    def __init__(
        self,
        params: Iterable[Any],
        lr: float = 2e-3,
        betas: tuple[float, float] = (0.9, 0.999),
        eps: float = 1e-8,
        weight_decay: float = 0.0,
        *,
        maximize: bool = False,
    ) -> None:
        options = {"lr": lr, "betas": betas, "eps": eps, "weight_decay": weight_decay, "maximize": maximize}
        super().__init__(params, options)

    def numbers(self, group: Group, step: int) -> dict[str, float]:
        """Those of the rule."""
        beta1, beta2 = group["betas"]
        rate = group["lr"] / (1.0 - beta1**step)
        return {**descent(group), "rest1": 1.0 - beta1, "beta2": beta2, "eps": group["eps"], "rate": rate}


class NAdam(Optimizer):
    """Adam that looks ahead along its momentum.

    ``p = p − lr ((1 − μₜ) g / (1 − Πμ) + μₜ₊₁ m / (1 − Πμ μₜ₊₁)) / (√v̂ + ε)`` with
    ``μₜ = β₁ (1 − 0.96^(t ψ) / 2)``

    Args:
        params: parameters or groups of them.
        lr: learning rate.
        betas: (β₁, β₂).
        eps: ε.
        weight_decay: λ of ``g + λ p``.
        momentum_decay: ψ.
        decoupled_weight_decay: shrink the parameters instead, ``p = p − lr λ p``.
        maximize: go up instead of down.

    Source: Dozat, ICLR workshop 2016.
    """

    rule: ClassVar[Elementwise] = RULES["nadam"]

    def __init__(
        self,
        params: Iterable[Any],
        lr: float = 2e-3,
        betas: tuple[float, float] = (0.9, 0.999),
        eps: float = 1e-8,
        weight_decay: float = 0.0,
        momentum_decay: float = 4e-3,
        decoupled_weight_decay: bool = False,
        *,
        maximize: bool = False,
    ) -> None:
        options = {"lr": lr, "betas": betas, "eps": eps, "weight_decay": weight_decay}
        options |= {"momentum_decay": momentum_decay, "decoupled_weight_decay": decoupled_weight_decay}
        self._products: dict[int, tuple[int, int, float]] = {}  # by group: the last step, the next, Πμ
        super().__init__(params, {**options, "maximize": maximize})

    def _momentum(self, group: Group, step: int) -> tuple[float, float, float]:
        """μₜ, μₜ₊₁ and the product of all up to μₜ, each with the β₁ of its step.

        Of parameters that were left out of steps the product is that of today's β₁.
        """
        beta, decay, following = group["betas"][0], group["momentum_decay"], step + 1

        def mu(t: int) -> float:
            return float(beta * (1.0 - 0.5 * 0.96 ** (t * decay)))

        number = [each is group for each in self.param_groups].index(True)
        last, coming, product = self._products.get(number, (0, 1, 1.0))
        if step == coming:
            product *= mu(step)
            self._products[number] = step, following, product
        elif step != last:
            product = math.prod(mu(t) for t in range(1, following))
        return mu(step), mu(following), product

    def state_dict(self, *, rank0_only: bool = False, sharded: bool = False) -> dict[str, Any]:
        """As of any optimizer, with the product of the momenta so far as ``mu_product``, as PyTorch has it.

        Args:
            rank0_only, sharded: of :meth:`Optimizer.state_dict`.
        """
        saved = super().state_dict(rank0_only=rank0_only, sharded=sharded)
        for number, group in enumerate(saved["param_groups"]):
            last, _, product = self._products.get(number, (0, 1, 1.0))
            for entry in (saved["state"].get(each, {}) for each in group["params"]):
                if entry.get("step") == last:
                    entry["mu_product"] = product
        return saved

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """As of any optimizer."""
        super().load_state_dict(state_dict)
        self._products.clear()
        if [len(each["params"]) for each in state_dict["param_groups"]] != [
            len(each["params"]) for each in self.param_groups
        ]:
            return
        for number, group in enumerate(state_dict["param_groups"]):
            entries = [state_dict["state"].get(each, {}) for each in group["params"]]
            for entry in entries:
                if "mu_product" in entry:
                    step = int(entry["step"])
                    self._products[number] = step, step + 1, float(entry["mu_product"])

    def _step(self, group: Group) -> None:
        """As of any optimizer; the product goes on once a step, also where other ranks own the parameters."""
        for step in sorted({self._steps[each] + 1 for each in group["params"] if each.grad is not None}):
            self._momentum(group, step)
        super()._step(group)

    def numbers(self, group: Group, step: int) -> dict[str, float]:
        """Those of the rule."""
        (beta1, beta2), lr = group["betas"], group["lr"]
        now, coming, product = self._momentum(group, step)
        return {
            **descent(group),
            "rest1": 1.0 - beta1,
            "beta2": beta2,
            "rest2": 1.0 - beta2,
            "root": 1.0 / math.sqrt(1.0 - beta2**step),
            "eps": group["eps"],
            "rate_g": lr * (1.0 - now) / (1.0 - product),
            "rate_m": lr * coming / (1.0 - product * coming),
        }


class RAdam(Optimizer):
    """Adam that goes by the mean alone until its variance can be trusted.

    Args:
        params: parameters or groups of them.
        lr: learning rate.
        betas: (β₁, β₂).
        eps: ε.
        weight_decay: λ of ``g + λ p``.
        decoupled_weight_decay: shrink the parameters instead, ``p = p − lr λ p``.
        maximize: go up instead of down.

    Source: Liu et al., ICLR 2020.
    """

    rule: ClassVar[Elementwise] = RULES["radam"]

    def __init__(
        self,
        params: Iterable[Any],
        lr: float = 1e-3,
        betas: tuple[float, float] = (0.9, 0.999),
        eps: float = 1e-8,
        weight_decay: float = 0.0,
        decoupled_weight_decay: bool = False,
        *,
        maximize: bool = False,
    ) -> None:
        options = {"lr": lr, "betas": betas, "eps": eps, "weight_decay": weight_decay}
        options |= {"decoupled_weight_decay": decoupled_weight_decay, "maximize": maximize}
        super().__init__(params, options)

    def numbers(self, group: Group, step: int) -> dict[str, float]:
        """Those of the rule."""
        beta1, beta2 = group["betas"]
        correction = 1.0 - beta2**step
        longest = 2.0 / (1.0 - beta2) - 1.0
        length = longest - 2.0 * step * beta2**step / correction
        trust = 0.0
        if length > 5.0:
            trust = (length - 4.0) * (length - 2.0) * longest
            trust /= (longest - 4.0) * (longest - 2.0) * length
        return {
            **descent(group),
            "rest1": 1.0 - beta1,
            "beta2": beta2,
            "rest2": 1.0 - beta2,
            "eps": group["eps"],
            "rate": group["lr"] / (1.0 - beta1**step),
            "trust": math.sqrt(trust * correction),
        }


class Rprop(Optimizer):
    """Steps of sizes that grow while a gradient keeps its sign and shrink where it turns.

    Args:
        params: parameters or groups of them.
        lr: first size of the steps.
        etas: factors of shrinking and growing.
        step_sizes: smallest and largest size.
        maximize: go up instead of down.

    Source: Riedmiller and Braun, ICNN 1993.
    """

    rule: ClassVar[Elementwise] = RULES["rprop"]

    def __init__(
        self,
        params: Iterable[Any],
        lr: float = 1e-2,
        etas: tuple[float, float] = (0.5, 1.2),
        step_sizes: tuple[float, float] = (1e-6, 50.0),
        *,
        maximize: bool = False,
    ) -> None:
        if not 0.0 < etas[0] < 1.0 < etas[1]:
            raise ValueError(f"Rprop: etas must be (below 1, above 1), got {etas}")
        super().__init__(params, {"lr": lr, "etas": etas, "step_sizes": step_sizes, "maximize": maximize})

    def numbers(self, group: Group, step: int) -> dict[str, float]:
        """Those of the rule."""
        (shrink, grow), (smallest, largest) = group["etas"], group["step_sizes"]
        sizes = {"shrink": shrink, "grow": grow, "smallest": smallest, "largest": largest}
        return {**descent(group), **sizes}

    def begin(self, group: Group, state: State) -> None:
        """The first size is the learning rate."""
        state["step_size"] += group["lr"]


class ASGD(Optimizer):
    """Gradient descent that also keeps an average of the parameters, in its state as ``ax``.

    Args:
        params: parameters or groups of them.
        lr: learning rate; it decays as ``lr / (1 + λ lr t)^alpha``.
        lambd: λ, also a decay of the parameters.
        alpha: power of the decay.
        t0: step at which averaging starts.
        weight_decay: of ``g + weight_decay p``.
        maximize: go up instead of down.

    Source: Polyak and Juditsky, SIAM J. Control Optim. 1992.
    """

    rule: ClassVar[Elementwise] = RULES["asgd"]

    def __init__(
        self,
        params: Iterable[Any],
        lr: float = 1e-2,
        lambd: float = 1e-4,
        alpha: float = 0.75,
        t0: float = 1e6,
        weight_decay: float = 0.0,
        *,
        maximize: bool = False,
    ) -> None:
        options = {"lr": lr, "lambd": lambd, "alpha": alpha, "t0": t0, "weight_decay": weight_decay}
        super().__init__(params, {**options, "maximize": maximize})

    def numbers(self, group: Group, step: int) -> dict[str, float]:
        """Those of the rule."""
        lr, lambd = group["lr"], group["lambd"]
        rate = lr / (1.0 + lambd * lr * (step - 1)) ** group["alpha"]
        share = 1.0 / max(1.0, step - 1 - group["t0"])
        return {**descent(group), "shrink": 1.0 - lambd * rate, "rate": rate, "share": share}


class Lion(Optimizer):
    """Steps by the sign of a momentum: ``p = p − lr (sign(β₁ m + (1 − β₁) g) + λ p); m = β₂ m + (1 − β₂) g``.

    Args:
        params: parameters or groups of them.
        lr: learning rate.
        betas: (β₁, β₂).
        weight_decay: λ.
        maximize: go up instead of down.

    Source: Chen et al., NeurIPS 2023.
    """

    rule: ClassVar[Elementwise] = RULES["lion"]

    def __init__(
        self,
        params: Iterable[Any],
        lr: float = 1e-4,
        betas: tuple[float, float] = (0.9, 0.99),
        weight_decay: float = 0.0,
        *,
        maximize: bool = False,
    ) -> None:
        super().__init__(
            params, {"lr": lr, "betas": betas, "weight_decay": weight_decay, "maximize": maximize}
        )

    def numbers(self, group: Group, step: int) -> dict[str, float]:
        """Those of the rule."""
        (beta1, beta2), lr = group["betas"], group["lr"]
        weights = {"beta1": beta1, "rest1": 1.0 - beta1, "beta2": beta2, "rest2": 1.0 - beta2}
        return {**descent({**group, "decoupled_weight_decay": True}), "lr": lr, **weights}
