"""A few small training steps for NVIDIA's compute-sanitizer to watch: memory from the driver, nothing pooled.

An access beside an array, which in CuPy's pool would hit a neighbour, is outside of any allocation here.
"""

from __future__ import annotations

import cupy
import device_programs as programs

import distgrad as dg

MODULES = ("Embedding", "MaxPool2d", "BatchNorm2d", "GroupNorm", "GRU", "Dropout", "Conv1d")


def main() -> None:
    """Run them, and end when the device has."""
    dg.device("cuda")
    cupy.cuda.set_allocator(None)
    for name in programs.STEPS:
        programs.train(name, "cuda", steps=1)
        print("trained", name, flush=True)
    for name in MODULES:
        programs.run_module(name, "cuda")
        print("ran", name, flush=True)
    dg.cuda.synchronize()


if __name__ == "__main__":
    main()
