"""What is wrong with a run, and what to do about it, as far as its numbers tell."""

from __future__ import annotations

from collections.abc import Iterator

from distgrad.profiler.summary import Summary

__all__ = ["advise"]

_WORTH = 0.1  # a share of the step that is worth a word

_DO = {
    "data": "Give its DataLoader more num_workers, or put its files on a faster disk.",
    "compute": "Look whether its batches or sequences are longer, or its machine slower, than the others'.",
    "optimizer": "Look whether its machine is slower; shard='optimizer' spreads the update.",
    "checkpoint": "Save less often, or by dg.checkpoint.CheckpointManager, which writes in the background.",
    "program": "Put spans around what it does there: with distgrad.trace.span('…').",
    "no core": "Start fewer ranks, give --bind, or set OMP_NUM_THREADS: all threads must fit the cores.",
    "page faults": "Its machine has too little memory: take a smaller batch, or shard='parameters'.",
    "steal": "The virtual machine shares its cores with others; ask for ones of its own.",
    "host": "Ranks of a host take its cores and memory from each other: give --bind, or each fewer threads.",
    "network": "Look at its links: distgrad bench network.",
}


def advise(found: Summary) -> list[tuple[str, str]]:
    """What is wrong, and what to do, in pairs of sentences; the worst first."""
    return [(what, do) for _, what, do in sorted(_find(found), reverse=True)]


def _find(found: Summary) -> Iterator[tuple[float, str, str]]:
    """With the share of the step that is lost."""
    step_s = sum(sum(parts.values()) for parts in found.parts.values()) / len(found.parts)
    mean = {
        name: sum(parts[name] for parts in found.parts.values()) / len(found.parts)
        for name in next(iter(found.parts.values()))
    }
    late = found.stragglers[0] if found.stragglers else None
    if late is not None and late.waited_s > _WORTH * step_s:
        share = late.waited_s / step_s
        yield (
            share,
            f"The others wait for rank {late.rank} for {share:.0%} of a step. {late.text}",
            _DO[late.cause],
        )
    exposed_s = mean["exposed communication"]
    if exposed_s > _WORTH * step_s:
        share = exposed_s / step_s
        yield (
            share,
            f"Communication that nothing hides takes {share:.0%} of a step.",
            "Take a larger batch a rank, accumulate with no_sync(), or compress: distgrad.parallel.compress.",
        )
    if mean["data"] > _WORTH * step_s:
        share = mean["data"] / step_s
        yield share, f"Waiting for batches takes {share:.0%} of a step.", "Give DataLoader more num_workers."
    if mean["optimizer"] > 2 * _WORTH * step_s:
        share = mean["optimizer"] / step_s
        yield (
            share,
            f"The update takes {share:.0%} of a step.",
            "Take larger batches; on several ranks shard='optimizer' spreads the update.",
        )
    if mean["other"] > 2 * _WORTH * step_s:
        share = mean["other"] / step_s
        yield share, f"{share:.0%} of a step lie in no span.", _DO["program"]
    ready = sum(each.get("ready_s", 0.0) for each in found.usage.values()) / max(1, len(found.usage))
    if ready > _WORTH:
        yield ready, f"For {ready:.0%} of the time ranks were ready to run and had no core.", _DO["no core"]
    steal = sum(each.get("steal_s", 0.0) for each in found.usage.values()) / max(1, len(found.usage))
    if steal > _WORTH:
        yield steal, f"For {steal:.0%} of a core's time the machine's host ran others.", _DO["steal"]
