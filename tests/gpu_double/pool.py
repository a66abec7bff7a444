"""Memory that goes back to CuPy's pool is poisoned in the order of its stream, as if it were taken at once.

The pool hands a block out again without asking CUDA, and it goes by the stream that was current when the
block was taken: whoever takes it next on that stream may write to it, whatever another stream has to read.
"""

from __future__ import annotations

from cupy.cuda import MemoryHook, get_current_stream
from gpu_double.memory import POISON
from gpu_double.runtime import Runtime


class PoisonFreed(MemoryHook):
    """Queue the poisoning of every block that the pool gets back."""

    name = "PoisonFreed"

    def __init__(self, double: Runtime) -> None:
        self._double = double
        self._streams: dict[int, int] = {}

    def malloc_postprocess(self, **block: int) -> None:
        """Remember whose the block is."""
        self._streams[block["mem_ptr"]] = get_current_stream().ptr

    def free_preprocess(self, **block: int) -> None:
        """Poison it, on its own device; a stream that is gone has nothing left to run."""
        double, pointer = self._double, block["mem_ptr"]
        stream, owner = self._streams.pop(pointer, 0), double.memory.find(pointer)
        if owner is None:
            return
        if stream > 2 and (-1, stream) not in double.scheduler.streams:
            stream = 0
        current = double.get_device()
        double.set_device(owner.device)
        try:
            double.set_async(pointer, POISON, block["mem_size"], stream)
        finally:
            double.set_device(current)
