"""A tape in words."""

from __future__ import annotations

from collections import Counter

from distgrad.replay.tape import Tape

__all__ = ["describe_tape"]


def describe_tape(tape: Tape) -> list[str]:
    """Lines: what a tape calls, what it asks Python's eager step, and the memory that it needs."""
    counts = Counter(call.name for call in tape.calls)
    kinds = Counter(call.kind for call in tape.calls)
    lines = [
        f"tape of {len(tape.calls)} calls, replayed {tape.num_replays} times: "
        + ", ".join(f"{number} {kind}" for kind, number in sorted(kinds.items())),
        f"  {tape.num_instructions} instructions of the compiled machine",
        f"  memory: {tape.block_bytes} bytes for temporaries of {tape.temporary_bytes} bytes together",
        "  calls: " + ", ".join(f"{name} {number}" for name, number in counts.most_common()),
    ]
    for call in tape.calls:
        if call.kind == "guard":
            lines.append(f"  guard: {call.name} must be {call.value!r}, at {call.where()}")
        elif call.kind == "effect":
            lines.append(f"  done anew: {call.name} of a {type(call.args[0]).__name__}, at {call.where()}")
    return lines
