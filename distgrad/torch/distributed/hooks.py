"""``torch.distributed.algorithms.ddp_comm_hooks``: functions that sum a bucket's gradients."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

from distgrad.autograd.creation import tensor as make_tensor
from distgrad.autograd.tensor import Tensor
from distgrad.comm.work import Work as CommWork
from distgrad.errors import OptionError
from distgrad.parallel.buckets import Bucket
from distgrad.parallel.buckets import all_reduce as plain_all_reduce
from distgrad.parallel.compress import PowerSGD
from distgrad.torch.distributed.collectives import all_reduce
from distgrad.torch.distributed.groups import member_of
from distgrad.torch.distributed.works import Future

__all__ = [
    "GradBucket", "PowerSGDState", "allreduce_hook", "as_hook", "bf16_compress_hook", "bf16_compress_wrapper",
    "fp16_compress_hook", "fp16_compress_wrapper", "noop_hook", "powerSGD_hook",
]  # fmt: skip

CommHook = Callable[[Any, "GradBucket"], Future]


class GradBucket:
    """A bucket as hooks see it: this rank's own gradients, of which they return the mean over the ranks."""

    def __init__(self, bucket: Bucket, place: int, count: int, values: Tensor) -> None:
        self._bucket, self._place, self._count, self._values = bucket, place, count, values

    def buffer(self) -> Tensor:
        """All gradients, one behind the other."""
        return self._values

    def set_buffer(self, values: Tensor) -> None:
        """Take other gradients for them."""
        self._values = values

    def gradients(self) -> list[Tensor]:
        """Each parameter's, as parts of the buffer."""
        parts = zip(self._bucket.slices, self._bucket.parameters, strict=True)
        return [Tensor(self._values._data[where].reshape(each.shape)) for where, each in parts]

    def parameters(self) -> list[Tensor]:
        """The parameters."""
        return list(self._bucket.parameters)

    def index(self) -> int:
        """The bucket's place in the order of the reductions."""
        return self._place

    def is_last(self) -> bool:
        """Whether it is the last one of a step."""
        return self._place == self._count - 1


class _HookWork(CommWork):
    """A future's value, put into a bucket when it is waited for."""

    def __init__(self, bucket: Bucket, future: Any, gradients: Any) -> None:
        super().__init__(lambda: None, "a hook")
        self._bucket, self._future, self._gradients = bucket, future, gradients
        self.started_s = time.perf_counter()

    def done(self) -> bool:
        """Whether its value has been taken."""
        return self.ended_s is not None

    def wait(self, timeout: float | None = None) -> Any:
        """Take the value: the mean, which the reducer divides by the weights of all ranks."""
        if self.ended_s is None:
            found = self._future.wait()
            found = found[0] if isinstance(found, list | tuple) else found
            gradients = self._gradients
            if found._data is not gradients:
                gradients[...] = found._data.reshape(gradients.shape)
            gradients *= gradients.dtype.type(self._bucket.total)
            self.ended_s = time.perf_counter()
        return None


def as_hook(
    state: Any, hook: CommHook, buckets: Callable[[], list[Bucket]], group: Any = None
) -> Callable[[Bucket], CommWork]:
    """A hook of PyTorch's as one of the engine's; PowerSGD's is the engine's own.

    Args:
        state: the hook's.
        hook: gives the future of a bucket's mean.
        buckets: all of them.
        group: the ranks of the module.

    Raises:
        OptionError: PowerSGD's state names other ranks.
    """
    if hook is powerSGD_hook:
        if state.process_group is not None and state.process_group is not group:
            raise OptionError("PowerSGDState: expected the module's process_group, got another; leave it out")
        engine: Callable[[Bucket], CommWork] = state.engine
        return engine

    def run(bucket: Bucket) -> CommWork:
        every = buckets()
        if bucket.is_narrow and bucket.weight:  # its share in the mean is multiplied in already
            bucket.gradients *= bucket.gradients.dtype.type(1.0 / bucket.weight)
        gradients = bucket.gradients[: bucket.slices[-1].stop]  # behind them lies nothing of the program's
        seen = GradBucket(bucket, every.index(bucket), len(every), Tensor(gradients))
        return _HookWork(bucket, hook(state, seen), gradients)

    return run


def _mean(state: Any, values: Tensor) -> Future:
    """The future of the mean over the ranks of a group, the world if ``state`` is None."""
    group = member_of(state, "allreduce_hook")
    assert group is not None
    values._data[...] /= group.size()
    work = all_reduce(values, group=group, async_op=True)
    found: Future = work.get_future().then(lambda future: future.value()[0])
    return found


def allreduce_hook(process_group: Any, bucket: GradBucket) -> Future:
    """The mean, as without a hook."""
    return _mean(process_group, bucket.buffer())


def noop_hook(state: Any, bucket: GradBucket) -> Future:
    """Each rank's own gradients."""
    future = Future()
    future.set_result(bucket.buffer())
    return future


def _narrow(state: Any, bucket: GradBucket, name: str) -> Future:
    wide = bucket.buffer()
    narrow = wide.to(make_tensor(0.0, dtype=name).dtype)

    def widen(future: Future) -> Tensor:
        wide._data[...] = future.value().to(wide.dtype)._data
        return wide

    return _mean(state, narrow).then(widen)


def fp16_compress_hook(process_group: Any, bucket: GradBucket) -> Future:
    """The mean, sent as float16."""
    return _narrow(process_group, bucket, "float16")


def bf16_compress_hook(process_group: Any, bucket: GradBucket) -> Future:
    """The mean, sent as bfloat16."""
    return _narrow(process_group, bucket, "bfloat16")


def _wrapper(name: str, hook: CommHook) -> CommHook:
    def wrapped(state: Any, bucket: GradBucket) -> Future:
        wide = bucket.buffer()
        bucket.set_buffer(wide.to(make_tensor(0.0, dtype=name).dtype))

        def widen(future: Future) -> Tensor:
            wide._data[...] = future.value().to(wide.dtype)._data
            return wide

        return hook(state, bucket).then(widen)

    return wrapped


def fp16_compress_wrapper(hook: CommHook) -> CommHook:
    """``hook``, on gradients in float16."""
    return _wrapper("float16", hook)


def bf16_compress_wrapper(hook: CommHook) -> CommHook:
    """``hook``, on gradients in bfloat16."""
    return _wrapper("bfloat16", hook)


class _LatePowerSGD(PowerSGD):
    """PowerSGD that leaves its first steps to a plain all-reduce."""

    def __init__(self, rank: int, seed: int, start: int) -> None:
        super().__init__(rank, seed)
        self._start = start
        self._steps: dict[str, int] = {}  # by parameter, as buckets may be cut anew

    def __call__(self, bucket: Bucket) -> CommWork:
        """Sum a bucket's gradients.

        Collective: yes; blocks: no.
        """
        step = self._steps.get(bucket.names[0], 0)
        self._steps.update(dict.fromkeys(bucket.names, step + 1))
        return plain_all_reduce(bucket) if step < self._start else super().__call__(bucket)

    def state_dict(self) -> dict[str, Any]:
        """This rank's own state, by name."""
        return {**super().state_dict(), **{f"step.{k}": np.array(v) for k, v in self._steps.items()}}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Take back what :meth:`state_dict` gave."""
        super().load_state_dict(state)
        self._steps = {k.removeprefix("step."): int(v) for k, v in state.items() if k.startswith("step.")}


class PowerSGDState:
    """What :func:`powerSGD_hook` remembers.

    Args:
        process_group: None, or the ranks of the module that it is registered with.
        matrix_approximation_rank: columns of the factors.
        start_powerSGD_iter: steps at first whose gradients are summed as they are; at least 2.
        min_compression_rate: only 2: what shrinks less is sent as it is.
        use_error_feedback, warm_start: only True.
        orthogonalization_epsilon: only 0.
        random_seed: of the first factor.
        compression_stats_logging_frequency, batch_tensors_with_same_shape: taken for PyTorch's sake: nothing
            is logged, and matrices always travel together.

    Raises:
        ValueError: ``start_powerSGD_iter`` below 2.
        OptionError: another value for one that has only one.
    """

    def __init__(
        self, process_group: Any = None, matrix_approximation_rank: int = 1, start_powerSGD_iter: int = 1000,
        min_compression_rate: float = 2, use_error_feedback: bool = True, warm_start: bool = True,
        orthogonalization_epsilon: float = 0, random_seed: int = 0,
        compression_stats_logging_frequency: int = 10_000, batch_tensors_with_same_shape: bool = False,
    ) -> None:  # fmt: skip
        only = {
            "min_compression_rate": (min_compression_rate, 2),
            "use_error_feedback": (use_error_feedback, True),
            "warm_start": (warm_start, True),
            "orthogonalization_epsilon": (orthogonalization_epsilon, 0),
        }
        for name, (value, expected) in only.items():
            if value != expected:
                raise OptionError(f"PowerSGDState: expected {name}={expected}, got {value}; leave it out")
        if start_powerSGD_iter <= 1:
            raise ValueError(
                "PowerSGDState: expected start_powerSGD_iter > 1, as error feedback and warm start are on, "
                f"got {start_powerSGD_iter}"
            )
        self.process_group = process_group
        self.start_powerSGD_iter = start_powerSGD_iter
        self.engine = _LatePowerSGD(matrix_approximation_rank, random_seed, start_powerSGD_iter)


def powerSGD_hook(state: PowerSGDState, bucket: GradBucket) -> Future:
    """The mean by factors of a low rank: ``dg.parallel.PowerSGD``, which ``register_comm_hook`` takes."""
    raise TypeError("powerSGD_hook: give it to register_comm_hook itself, not to a hook of your own")
