"""How fast training goes."""

from __future__ import annotations

import time

import numpy as np

from distgrad.comm.base import Communicator
from distgrad.comm.registry import init
from distgrad.errors import OptionError
from distgrad.parallel.watching import measured_flops

__all__ = ["Meter", "Rates", "measured_flops"]


class Rates:
    """What a :class:`Meter` has found, of all ranks together.

    Attributes:
        samples_per_s: samples a second.
        tokens_per_s: tokens a second; 0 if none were counted.
        step_s: seconds a step.
        mfu: the share of ``peak_flops`` that the model's own products reach; None without its FLOPs.
        left_s: seconds until the last step; None if nobody said how many there are.
    """

    def __init__(
        self,
        samples_per_s: float,
        tokens_per_s: float,
        step_s: float,
        mfu: float | None,
        left_s: float | None,
    ) -> None:
        self.samples_per_s, self.tokens_per_s, self.step_s = samples_per_s, tokens_per_s, step_s
        self.mfu, self.left_s = mfu, left_s

    def __repr__(self) -> str:
        parts = [f"{self.samples_per_s:,.0f} samples/s", f"{1e3 * self.step_s:.1f} ms a step"]
        if self.tokens_per_s:
            parts.insert(1, f"{self.tokens_per_s:,.0f} tokens/s")
        if self.mfu is not None:
            parts.append(f"MFU {self.mfu:.0%}")
        if self.left_s is not None:
            minutes, seconds = divmod(round(self.left_s), 60)
            parts.append(f"{minutes // 60}:{minutes % 60:02}:{seconds:02} to go")
        return ", ".join(parts)


class Meter:
    """Counts samples a second, without the steps that warm up.

    ::

        meter = dg.train.Meter(total_steps=len(loader) * epochs)
        for images, labels in loader:
            ...
            meter.step(samples=len(images))
        print(meter.rates())                # 7,210 samples/s, 8.9 ms a step, 0:00:41 to go

    Args:
        warm_up: how many steps at the beginning are not counted.
        total_steps: of the whole run, for the time to go.
        flops_per_sample: of a sample's forward and backward pass, as
            ``3 * dg.train.summary(model, x).flops / len(x)`` says, for the share of the machine's limit (MFU,
            model FLOPs utilization).
        peak_flops: FLOP/s of one rank's device; None measures it on the processor (:func:`measured_flops`),
            when first asked for.

    Source: Chowdhery et al., PaLM, 2022 (MFU).
    """

    def __init__(
        self,
        *,
        warm_up: int = 3,
        total_steps: int | None = None,
        flops_per_sample: float | None = None,
        peak_flops: float | None = None,
    ) -> None:
        if warm_up < 0 or (total_steps is not None and total_steps < 0):
            raise OptionError(
                f"Meter: warm_up and total_steps must be 0 or more, got {warm_up} and {total_steps}"
            )
        if any(each is not None and not each > 0 for each in (flops_per_sample, peak_flops)):
            raise OptionError(
                f"Meter: flops_per_sample and peak_flops must be above 0, got {flops_per_sample} "
                f"and {peak_flops}"
            )
        self.warm_up, self.total_steps = warm_up, total_steps
        self.flops_per_sample, self.peak_flops = flops_per_sample, peak_flops
        self._steps = 0
        self.reset()

    def reset(self) -> None:
        """Count anew, without another warm-up, as after an evaluation, which trains nothing."""
        self._counted, self._samples, self._tokens = 0, 0, 0
        self._start_s = self._end_s = time.perf_counter()

    def step(self, samples: int, tokens: int = 0) -> None:
        """A step has ended, with so many samples and tokens of this rank.

        Collective: no; blocks: no.
        """
        if samples < 0 or tokens < 0:
            raise OptionError(f"Meter.step: samples and tokens must be 0 or more, got {samples} and {tokens}")
        self._steps += 1
        if self._steps <= self.warm_up:
            self.reset()
            return
        self._counted += 1
        self._samples += samples
        self._tokens += tokens
        self._end_s = time.perf_counter()

    def rates(self, comm: Communicator | None = None) -> Rates:
        """How fast all ranks have been together since warm-up; NaN before a step was counted.

        Collective: yes; blocks: yes.

        Args:
            comm: the ranks; None means the world's, ``dg.comm.init()``.
        """
        ranks = (init() if comm is None else comm).host
        if self.flops_per_sample is not None and self.peak_flops is None:
            self.peak_flops = measured_flops()
        own = [self._samples, self._tokens, self.peak_flops or 0.0]
        samples, tokens, peak = map(float, ranks.all_reduce(np.array(own)))
        longest, counted = map(
            float, ranks.all_reduce(np.array([self._end_s - self._start_s, float(self._counted)]), "max")
        )
        if not counted or not longest:
            return Rates(float("nan"), float("nan"), float("nan"), None, None)
        step_s = longest / counted
        work = None if self.flops_per_sample is None else self.flops_per_sample * samples / longest / peak
        left = None if self.total_steps is None else max(0, self.total_steps - self._steps) * step_s
        return Rates(samples / longest, tokens / longest, step_s, work, left)
