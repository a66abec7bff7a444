"""Data-parallel training: the same module on every rank, each with its own samples."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, Generic, TypeVar

import numpy as np

from distgrad.autograd.flat import FlatBuffer, gradient_arrays
from distgrad.autograd.graph import next_number
from distgrad.autograd.modes import is_grad_enabled
from distgrad.autograd.tensor import FLOATING, Tensor
from distgrad.backend.device import CPU
from distgrad.backend.rng import default_generator
from distgrad.backend.whole import all_finite
from distgrad.comm.base import Communicator
from distgrad.errors import GraphError
from distgrad.names.lacking import unexpected
from distgrad.nn.hooks import P, R_co, Wraps
from distgrad.nn.module import Module
from distgrad.nn.utils.gradients import clip_grad_norm_
from distgrad.parallel.buckets import Hook, find_cap, store
from distgrad.parallel.checks import ShardOptions, check_devices, check_options, check_same_module
from distgrad.parallel.compress import Payoff
from distgrad.parallel.exact import Shards
from distgrad.parallel.filling import Filling
from distgrad.parallel.gathering import collect
from distgrad.parallel.ranks import find_ranks, refuse_copy
from distgrad.parallel.reducer import Reducer
from distgrad.parallel.replicas import average, compare, held_alike, join_buffers
from distgrad.parallel.sharded import ShardedStorage
from distgrad.parallel.statistics import Statistics
from distgrad.parallel.tuning import Tuned, make_tuner, refuse_while_tuning
from distgrad.parallel.watching import held_buffers, num_samples
from distgrad.profiler import owners
from distgrad.trace import span

__all__ = ["DistributedDataParallel"]

M = TypeVar("M", bound=Module)


class DistributedDataParallel(Module, Generic[M]):
    """Wraps a module so that ``backward`` leaves the same gradients on every rank: the mean over all samples.

    Each rank calls it on its own batch and takes the mean loss over that batch. Gradients are weighted by the
    number of samples in each rank's batch, so that batches of unequal size, also empty ones, give what one
    process would compute from all samples; parameters that a rank does not use need no flag. A backward pass
    counts as much as the forward passes together that it goes back through. Until it has reduced, ``grad``
    holds a weighted sum.

    With ``exact=True`` the same parameters come out, bit for bit, on any number of ranks: see :meth:`shards`.

    An exception in one rank's backward pass ends that of all ranks, with their gradients gone and their order
    kept (but not with SyncBatchNorm). A rank whose loss reaches no parameter calls :meth:`reduce_gradients`.

    Collective: yes, the constructor, every backward pass and every forward pass in training mode; blocks:
    backward, until the gradients are in.

    Args:
        module: the same on every rank; its parameters are moved into flat buffers and set to rank 0's. One
            on ``"meta"`` is filled block by block, by ``reset_parameters``, with the numbers that are due.
        comm: the ranks, also an intracommunicator of mpi4py, as ``dg.comm.init(comm=...)`` takes it; None
            takes all that were started together, by ``nccl`` where the module lies on a GPU. The parameters
            must lie where it exchanges arrays; buffers may also lie on the host.
        bucket_cap_mb: MiB at which a bucket is full; None measures what suits the network, or, with a hook,
            takes an eighth of all gradients, between 1/8 and 25 MiB. Not with ``exact``.
        broadcast_buffers: set buffers (running statistics) to rank 0's before each training step.
        average_buffers: set those of floating dtype to the mean of the ranks' instead, weighted as the ranks'
            last forward passes are.
        check_replicas_every: training steps between comparisons of the ranks' parameters; 0 never compares.
        weigh_by: ``"samples"``, as said above, or ``"ranks"``: the mean over the ranks of what each has
            gathered, as PyTorch has it: every rank counts once, and passes inside ``no_sync`` add up.
        hook: sums a bucket's gradients over the ranks; None sends them as they are. Compressors are hooks
            (:mod:`distgrad.parallel.compress`), and so is any function of a
            :class:`~distgrad.parallel.buckets.Bucket` that returns a Work.
        exact: give the same bits on any number of ranks. The process then computes with one thread, and
            floating buffers become the mean of the shards'.
        shards: with ``exact``, how many parts the batch of all ranks is cut into; it decides the bits, and is
            the most ranks that can be of use.
        shard: what each rank keeps a part of instead of all: ``"optimizer"`` its state, ``"gradients"`` those
            too, ``"parameters"`` all; None nothing. Each rank then updates what it owns, which the others get
            behind the next forward pass, or with ``"parameters"`` block by block, and lets it go after.
            ``grad`` is the mean in this rank's part alone: clip with :meth:`clip_grad_norm_` or ``nn.utils``.
        shard_group: with ``shard``, the ranks that share, those of a host, say, as ``comm.split`` gives them:
            groups of one size, each of which holds everything, and sums with the others; None for all.
        shard_blocks: with ``shard="parameters"``, names of the modules whose parameters come and go together;
            None takes the members of every ``ModuleList`` and ``Sequential``.
        offload: with ``shard``, on a GPU: ``"host"`` keeps what a rank owns and its state there.
        offload_dir: with ``shard``, an existing folder, in whose nameless files the optimizer's state lies.
        param_dtype: with ``shard``, float16 or bfloat16, in which float32 parameters are gathered, and the
            module computes, on inputs that are cast too. Owners keep, update and save theirs in float32.
        reduce_dtype: with ``shard``, in which gradients are reduced: float32 keeps all digits of the mean of
            16-bit ones, 16 bits are what float32 ones travel in; None is theirs.
        tune: in the first hundred steps try bucket sizes and numbers of threads, keep what is fastest on all
            ranks (:class:`~distgrad.parallel.tuning.Tuner`), and say so (``tuned``). In exact mode none.
        **unknown: none; PyTorch's other arguments are met by an error that says what stands for them.

    Attributes:
        module: the wrapped module.
        batch_weight: how much the last forward pass counts: the length of the first axis of its first tensor.
            Set it after forward, to a number or a tensor of one element, to count by something else:
            ``model.batch_weight = (target != -100).sum()`` where the loss is the mean over counted targets.

    Raises:
        CommMismatchError: modules, or later parameters, that differ between ranks, with the first that does.

    Source: Li et al., VLDB 2020 (buckets and overlap); the weights and the flat buffers are not theirs.
    """

    __deepcopy__, is_wrapper = refuse_copy, True
    _counted = ("_num_joined", "_agreed_step")
    _num_joined = _agreed_step = 0
    _reducer: Reducer | None = None

    def __init__(
        self,
        module: M,
        comm: Any = None,
        *,
        bucket_cap_mb: float | None = None,
        broadcast_buffers: bool = True,
        average_buffers: bool = False,
        check_replicas_every: int = 100,
        weigh_by: str = "samples",
        hook: Hook | None = None,
        exact: bool = False,
        shards: int | None = None,
        shard: str | None = None,
        shard_group: Communicator | None = None,
        shard_blocks: Sequence[str] | None = None,
        offload: str | None = None,
        offload_dir: str | None = None,
        param_dtype: Any = None,
        reduce_dtype: Any = None,
        tune: bool = False,
        **unknown: Any,
    ) -> None:
        super().__init__()
        if unknown:
            raise unexpected("DistributedDataParallel", next(iter(unknown)))
        others = {"bucket_cap_mb": bucket_cap_mb, "hook": hook, "average_buffers": average_buffers}
        check_options(exact, shards, others, weigh_by)
        spread = shard, shard_group, shard_blocks, offload_dir, param_dtype, reduce_dtype, offload
        options = ShardOptions.make(*spread)
        hook = options.check(exact, hook)
        self.module, self.weigh_by, self.shard = module, weigh_by, shard
        self.comm = comm if isinstance(comm, Communicator) else find_ranks(module, comm)
        self.broadcast_buffers, self.average_buffers = broadcast_buffers, average_buffers
        self.check_replicas_every, self.hook = check_replicas_every, hook
        seed = self.comm.broadcast_object(default_generator.seed) if exact else 0
        self._shards = None if shards is None else Shards(module, self.comm, shards, seed, self.shard)
        self._sharded = ShardedStorage.make(options, self.comm, self._lay_out_anew, module)
        self._parameters_by_name = named = list(module.named_parameters())
        check_same_module(named, self.comm)
        filling = Filling(module, self.comm, shard_blocks)
        self._device = check_devices(named, self.comm, exact)
        self._cap_bytes = find_cap(bucket_cap_mb, named, self.comm, self._device, hook, exact)
        self._planned: list[bool] = []
        self._move_and_plan()
        filling.run(self.reducer.storage)
        self._payoff = Payoff.watch(self.hook, self.comm, self.reducer.buckets, self._device)
        tuner = self.comm, self._cap_bytes, self.plan_buckets, not (shard or hook), self._device == CPU
        self._tuner = make_tuner(exact, *tuner) if tune else None
        owners.register(module, held_buffers)

    @property
    def reducer(self) -> Reducer:
        """What reduces the gradients."""
        assert self._reducer is not None
        return self._reducer

    @property
    def batch_weight(self) -> float:
        """How much the last forward pass counts."""
        return self.reducer.passes.last().weight

    @batch_weight.setter
    def batch_weight(self, weight: Any) -> None:
        self.reducer.passes.weigh_last(weight)

    def _move_and_plan(self) -> None:
        """Move parameters that want gradients into the communicator's memory, the last first, and plan."""
        self._planned = self._wanting()
        wanting = [pair for pair in reversed(self._parameters_by_name) if pair[1].requires_grad]
        parameters = [parameter for _, parameter in wanting]
        if self._sharded is None:
            self._plan(wanting, store(parameters, self.comm, self.hook))
            return
        previous = self._reducer
        for shares in filter(None, [each.shares for each in (previous.storage if previous else [])]):
            shares.settle()
            if any(parameter.grad is not None for parameter in parameters):
                shares.gather_gradients()  # of which each rank may own others than before
        self._plan(wanting, self._sharded.store(parameters, self._cap_bytes))

    @property
    def tuned(self) -> Tuned | None:
        """What ``tune=True`` has found; None before that, and in exact mode."""
        return None if self._tuner is None else self._tuner.found

    def plan_buckets(self, cap_bytes: float) -> int:
        """Plan buckets anew, between steps and on all ranks at once, full at so many bytes; their number."""
        self._cap_bytes = cap_bytes
        self._plan(self._ordered, self.reducer.storage)
        return len(self.reducer.buckets)

    def _lay_out_anew(self) -> None:
        if not self.reducer.idle:
            raise GraphError(
                "DistributedDataParallel: gradients wait for their reduction, and an optimizer that needs "
                "parameters whole was made; make it before the first backward pass"
            )
        self._move_and_plan()

    def _plan(self, ordered: Sequence[tuple[str, Tensor]], storage: Sequence[FlatBuffer]) -> None:
        """Divide storage into buckets, for parameters whose gradients become ready in the order given."""
        previous = self._reducer
        if previous is not None:
            previous.detach()
        self._ordered = ordered
        by_rank = self.weigh_by == "ranks"
        self._reducer = Reducer(ordered, storage, self.comm, self._cap_bytes, self.hook, by_rank)
        if previous is not None:
            self._reducer.succeed(previous)

    def _wanting(self) -> list[bool]:
        return [parameter.requires_grad for _, parameter in self._parameters_by_name]

    if TYPE_CHECKING:  # a call has the module's signature

        def __call__(self: Wraps[P, R_co], *args: P.args, **kwargs: P.kwargs) -> R_co: ...

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        """Run the module on this rank's batch."""
        if self._sharded is not None:
            args, kwargs = self._sharded.cast(args, kwargs)
        if not is_grad_enabled() or self.reducer.active:  # active: a checkpoint calls it once more
            return self.module(*args, **kwargs)
        if self._shards is not None and self.training and not self._shards.active:
            raise GraphError(
                "DistributedDataParallel: with exact=True, train inside its loop: for x, y in "
                "ddp.shards(x, y): loss(ddp(x), y).backward()"
            )
        self._prepare()
        first, issued = next_number(), self.comm.family.num_issued
        self.comm.family.step = self.reducer.num_steps
        samples = num_samples(args, kwargs)
        with span("forward", rank=self.comm.rank, step=self.reducer.num_steps, samples=samples):
            out = self.module(*args, **kwargs)
        self.reducer.forward_ended(self.comm.family.num_issued - issued, (*args, *kwargs.values()))
        self.reducer.passes.add(first, samples)
        return out

    def shards(self, *arrays: Any) -> Iterator[Any]:
        """Cut a batch into the shards of exact mode, and go over those that this rank computes.

        Every rank gives the same batch, that of all ranks together, or numbers by which to find its samples::

            for x, y in ddp.shards(x, y):
                loss_function(ddp(x), y).backward()
            optimizer.step()

        Behind the loop, gradients are the mean over the whole batch: each shard's is multiplied by its weight
        (its samples; see ``batch_weight``), and these are added along one fixed binary tree over the shards.
        Random functions draw, inside the loop, what (seed, step, shard) decide, the seed being that of
        ``manual_seed`` when the constructor ran. The step and the seed are in the state dict, so that
        training goes on with the same bits on another number of ranks. The bits hold on one kind of machine,
        with the same versions of the libraries.

        Collective: yes, up to the end of the loop; blocks: there.

        Args:
            arrays: of one first axis, which is cut into parts as equal as can be.

        Returns:
            An iterator over tuples of parts, or over the parts of a single array.

        Raises:
            RankFailedError: another rank left its loop before the end; the gradients are gone on all ranks.
            CommMismatchError: the ranks' batches have different lengths.
        """
        if self._shards is None:
            raise GraphError("shards: made for DistributedDataParallel(module, exact=True, shards=8)")
        if self._planned != self._wanting():
            self._move_and_plan()
        every = self.check_replicas_every
        if every and self._shards.step % every == every - 1:
            self.check_replicas()
        return self._shards.loop(self.reducer, arrays)

    def shard_optimizer(self) -> None:
        """Be as with ``shard="optimizer"`` from here on. Collective: yes, between steps; blocks: yes."""
        self._refuse_sharded("shard_optimizer")
        refuse_while_tuning(self._tuner, "shard_optimizer")
        self.shard, options = "optimizer", ShardOptions("optimizer")
        self._sharded = ShardedStorage(options, self.comm, self._lay_out_anew, self.module)
        self._lay_out_anew()

    def _refuse_sharded(self, where: str) -> None:
        if self._sharded is not None:
            raise GraphError(
                f"{where}: not with shard={self._sharded.shard!r}, where ranks own parts and cannot go apart"
            )

    def _refuse_exact(self, where: str) -> None:
        if self._shards is not None:
            raise GraphError(f"{where}: not with exact=True, whose gradients the loop of shards() reduces")

    def _prepare(self) -> None:
        """Begin a step: follow what was frozen or thawed, take the better order, compare replicas."""
        reducer = self.reducer
        if reducer.idle and self._planned != self._wanting():
            self._move_and_plan()
        elif self.training and reducer.idle and reducer.better_order is not None:
            self._plan(reducer.better_order, reducer.storage)
        if self.training and self._tuner is not None and not self.reducer.begun:
            self._tuner.step_begins()
        self._join(self.module.buffers)

    def _join(self, buffers: Callable[[], Iterable[Tensor]]) -> None:
        """Begin a step with the other ranks, unless one has begun: compare replicas, join buffers."""
        reducer = self.reducer
        reducer.begun = True
        if not self.training or not reducer.enabled or reducer.joined:
            return
        reducer.joined = True
        if self._payoff is not None and reducer.statistics.buckets:
            self._payoff.judge(sum(bucket["busy_s"] for bucket in reducer.statistics.buckets))
        if self.check_replicas_every:
            self._num_joined += 1
            if self._num_joined % self.check_replicas_every == 0:
                self.check_replicas()
        if self.comm.size > 1:
            weight = sum(each.weight for each in list(reducer.passes)[-1:]) if self.average_buffers else None
            join_buffers(list(buffers()), self.comm, weight, self.broadcast_buffers)

    def reduce_gradients(self, weight: float = 0.0) -> None:
        """Take part in a step without a backward pass: no samples are left, or the loss reaches no parameter.

        Also ends an accumulation: what backward passes inside ``no_sync`` have gathered becomes the mean.

        Collective: yes, with the other ranks' forward and backward passes; blocks: yes.

        Args:
            weight: how much this rank's gradients of 0 count in the mean.
        """
        self._refuse_exact("reduce_gradients")
        self._prepare()
        self.reducer.reduce(weight)

    def use_hook(self, hook: Hook | None) -> None:
        """Sum the gradients by another hook from here on; None sends them as they are.

        Collective: yes; blocks: yes.

        Raises:
            GraphError: between a backward pass inside ``no_sync`` and the one that reduces.
        """
        self._refuse_exact("use_hook")
        if not self.reducer.idle:
            raise GraphError("use_hook: gradients wait for their reduction; call it before the first pass")
        refuse_while_tuning(self._tuner, "use_hook")
        self.hook = hook if self._sharded is None else self._sharded.options.check(hook=hook)
        self._move_and_plan()

    def state_dict(
        self,
        *args: Any,
        destination: dict[str, Any] | None = None,
        prefix: str = "",
        keep_vars: bool = False,
        rank0_only: bool = False,
    ) -> dict[str, Any]:
        """The parameters and persistent buffers by dotted name.

        Collective: with ``shard="parameters"``, where it is made of copies; blocks: then.

        Args:
            *args, destination, prefix, keep_vars: as for every module.
            rank0_only: rank 0 alone gets it; the others get what they were given, or an empty dict.
        """
        if not rank0_only:
            return super().state_dict(*args, destination=destination, prefix=prefix, keep_vars=keep_vars)
        entries = super().state_dict(prefix=prefix, keep_vars=True).items()
        return collect(entries, self.comm.rank == 0, {} if destination is None else destination)

    def get_extra_state(self) -> Any:
        """What the hook remembers, or where exact mode stands."""
        if self._shards is not None:
            return {"seed": self._shards.seed, "step": self._shards.step}
        state_dict = getattr(self.hook, "state_dict", None)
        return None if state_dict is None else state_dict()

    def set_extra_state(self, state: Any) -> None:
        """Take back what :meth:`get_extra_state` gave."""
        if self._shards is not None:
            self._shards.seed, self._shards.step = int(state["seed"]), int(state["step"])
            return
        self.hook.load_state_dict(state)  # type: ignore[union-attr]

    def reduce_within(self, comm: Communicator) -> None:
        """Reduce gradients, and compare replicas, among the ranks of ``comm`` alone from the next step on.

        Collective: no, but called by all ranks between the same steps; blocks: no.
        """
        self._refuse_exact("reduce_within")
        self._refuse_sharded("reduce_within")
        self.comm = comm
        self.reducer.reduce_within(comm)

    def average_parameters(self, comm: Communicator) -> None:
        """Set the parameters, and buffers of floating dtype, to their means over the ranks of ``comm``.

        Collective: yes, among those ranks; blocks: yes.
        """
        self._refuse_sharded("average_parameters")
        for buffer in self.reducer.storage:
            comm.all_reduce(buffer.data, "mean")
            for parameter in buffer.parameters:
                parameter.changed("average_parameters")
        buffers = [buffer for buffer in self.module.buffers() if buffer.dtype.char in FLOATING]
        if buffers:
            average(buffers, comm, 1.0)

    def clip_grad_norm_(
        self, max_norm: float, norm_type: float = 2.0, error_if_nonfinite: bool = False
    ) -> Tensor:
        """Scale the gradients down in place if their norm, as one vector, is above ``max_norm``.

        Every rank comes to the same norm: it holds the same gradients or, with ``shard``, hears of them.

        Collective: with ``shard``; blocks: then.

        Args:
            max_norm: what the norm may be at most.
            norm_type: p of the p-norm; ``inf`` for the largest size.
            error_if_nonfinite: raise, and change nothing, where the norm is not finite.

        Returns:
            The norm before.
        """
        return clip_grad_norm_(self.module.parameters(), max_norm, norm_type, error_if_nonfinite)

    def all_finite(self) -> bool:
        """Whether the gradients of all ranks are free of infinities and NaN; all ranks get the same answer.

        Collective: yes; blocks: yes.
        """
        finite = bool(all_finite(tuple(gradient_arrays(self.module.parameters()))))
        return bool(self.comm.host.all_reduce(np.array([finite]), "min")[0])

    def check_replicas(self) -> None:
        """Compare the parameters of all ranks, by a checksum each, which a GPU computes of its own.

        Collective: yes; blocks: yes, on a GPU until it is there.

        Raises:
            CommMismatchError: parameters that differ: the first, the ranks, the last step they agreed at.
        """
        start_s = time.perf_counter()
        statistics = self.stats()
        own, sharded = self._parameters_by_name, self._sharded
        counted_ns = int(statistics.computing_s * 1e9)
        held = held_alike(own) if sharded is None else sharded.held(own)
        statistics.slowest_rank = compare(held, self.comm, counted_ns, self._agreed_step)
        statistics.comparing_s += time.perf_counter() - start_s
        self._agreed_step = self.reducer.num_steps

    @contextmanager
    def no_sync(self) -> Iterator[None]:
        """Add gradients up without reducing them; the first backward pass outside reduces them all.

        The result is the mean over all their samples: losses are not to be divided by their number.

        Collective: no; blocks: no.
        """
        self._refuse_exact("no_sync")
        before = self.reducer.enabled
        self.reducer.enabled = False
        try:
            yield
        finally:
            self.reducer.enabled = before

    def stats(self, reset: bool = False) -> Statistics:
        """Time and bytes of the communication so far; ``reset`` starts counting anew.

        Collective: no; blocks: no.
        """
        self.reducer.settle()
        statistics = self.reducer.statistics
        if reset:
            self.reducer.statistics = Statistics()
        return statistics
