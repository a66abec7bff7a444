"""Plan what networks need of cuDNN for an H200, without one: ``python cudnn_plans.py LIBCUDA FOLDER NAME...``

LIBCUDA is a driver without a device, compiled from libcuda.c. FOLDER gets the plans. Printed is, as JSON, for
each setting its bytes of workspace, None for a refusal, and whether its plan was then loaded from the folder.
"""

from __future__ import annotations

import ctypes
import json
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from distgrad.backend import cudnn
from distgrad.backend.cudnn_attention import AttentionSetting
from distgrad.backend.cudnn_conv import ConvolutionSetting

#: What the driver would say of the device.
H200 = {
    "deviceName": "NVIDIA H200", "cudaDeviceId": 0, "deviceVer": 900, "multiProcessorCount": 132,
    "driverVer": 13000, "maxSharedMemoryPerBlockOptin": 232448, "totalGlobalMem": 150754820096,
    "maxGridSize": [2147483647, 65535, 65535], "maxBlockSize": [1024, 1024, 64], "regsPerBlock": 65536,
    "warpSize": 32, "maxSharedMemoryPerBlock": 49152, "reservedSharedMemoryPerBlock": 1024,
    "maxRegistersPerSM": 65536, "maxCtasPerSM": 32, "maxThreadsPerBlock": 1024, "maxThreadsPerSM": 2048,
    "pciDeviceId": 9013, "isTccDriver": 0, "supportCoopLaunch": 1, "smClockRateKHz": 1980000,
    "memClockRateKHz": 3201000, "memoryBusWidth": 6144, "l2CacheSize": 62914560,
}  # fmt: skip

#: x, weight, y, stride, padding, dilation: groups, and one axis, which the library is given as two.
ODD = (
    ((2, 4, 9, 8), (6, 2, 3, 2), (2, 6, 5, 10), (2, 1), (1, 2), (1, 2)),
    ((2, 3, 1, 9), (5, 3, 1, 3), (2, 5, 1, 9), (1, 1), (0, 1), (1, 1)),
    ((2, 8, 7, 7), (8, 1, 3, 3), (2, 8, 7, 7), (1, 1), (1, 1), (1, 1)),
    ((1, 2, 4, 5, 6), (3, 2, 3, 2, 2), (1, 3, 4, 6, 7), (1, 1, 1), (1, 1, 1), (1, 1, 1)),
)


def resnet50() -> list[tuple[int, int, int, int, int]]:
    """Channels, outputs, kernel, stride and length of ResNet-50's different convolutions.

    Source: He et al., CVPR 2016.
    """
    found, channels, length = [(3, 64, 7, 2, 224)], 64, 56
    for width, stride in ((64, 1), (128, 2), (256, 2), (512, 2)):
        found += [(channels, width, 1, 1, length), (width, width, 3, stride, length)]
        found += [(channels, 4 * width, 1, stride, length)]
        channels, length = 4 * width, length // stride
        found += [
            (width, channels, 1, 1, length),
            (channels, width, 1, 1, length),
            (width, width, 3, 1, length),
        ]
    return list(dict.fromkeys(found))


def convolution(
    result: str, char: str, batch: int, case: tuple[int, ...], exact: bool, has_bias: bool = False
) -> Any:
    """A square one that keeps the length, but for its stride."""
    channels, outputs, kernel, stride, length = case
    out = (length + 2 * (kernel // 2) - kernel) // stride + 1
    shapes = (
        (batch, channels, length, length),
        (outputs, channels, kernel, kernel),
        (batch, outputs, out, out),
    )
    moves = (stride,) * 2, (kernel // 2,) * 2, (1, 1)
    return ConvolutionSetting(result, char, exact, has_bias, *shapes, *moves)


def attention(
    char: str, sizes: Any, shared: int = 1, causal: bool = True, bias: Any = (), kept: bool = False
) -> Any:
    """Forward and backward, of heads within a row, each of the keys' for some of the queries'."""
    batch, heads, rows, columns, features = sizes

    def layout(heads: int, rows: int) -> Any:
        return (batch, heads, rows, features), (rows * heads * features, features, heads * features, 1)

    query, key = layout(heads, rows), layout(heads // shared, columns)
    rest = (bias, kept, features**-0.5, causal)
    yield AttentionSetting(char, (query, key, key), (query,), (), *rest)
    yield AttentionSetting(char, (query, key, key), (query, key, key), (query, query), *rest)


def settings(name: str) -> Iterator[Any]:
    """What a network needs in each type, and a few odd ones."""
    kinds = [("f", True), ("f", False), ("e", False), ("E", False)]
    if name == "resnet50":
        for case in resnet50():
            for char, exact in kinds:
                for result in ("forward", "input", "weight"):
                    yield convolution(result, char, 64, case, exact)
    elif name == "odd":
        for char, exact in kinds:
            yield convolution("forward", char, 8, (64, 128, 3, 2, 28), exact, has_bias=True)
            for result in ("forward", "input", "weight"):
                for case in ODD:
                    yield ConvolutionSetting(result, char, exact, False, *case)
    elif name == "gpt":
        small = (8, 12, 1024, 1024, 64)
        for char in "eE":
            yield from attention(char, small)
        yield from attention("E", (32, 4, 128, 128, 32))
        yield from attention("E", (4, 32, 512, 512, 128), shared=4)
        yield from attention("E", (8, 12, 77, 200, 64), causal=False)
        yield from attention("E", small, causal=False, bias=(8, 1, 1024, 1024))
        yield from attention("E", small, causal=False, bias=(1, 12, 1024, 1024))
        yield from attention("E", small, kept=True)
    elif name == "few":
        yield convolution("forward", "f", 8, (64, 64, 3, 1, 28), True, has_bias=True)
        yield convolution("input", "E", 8, (64, 64, 3, 1, 28), False)
        yield convolution("weight", "e", 8, (64, 64, 3, 1, 28), False)


def main(libcuda: str, folder: str, *names: str) -> None:
    """Plan, and load again."""
    ctypes.CDLL(libcuda, ctypes.RTLD_GLOBAL)  # before the library looks for it
    library = cudnn._library()
    assert library is not None, "cuDNN's frontend is not installed, or older than 1.23"
    device = library.create_device_properties(json.dumps(H200))
    options = {"device_property": device, "sm_version": 90, "sm_count": H200["multiProcessorCount"]}
    place = cudnn._Place(None, options, [Path(folder) / "cudnn-0000000000000000"], threading.Lock())
    found = []
    for setting in (each for name in names for each in settings(name)):
        start_s = time.perf_counter()
        graph = cudnn._planned(place, setting, "a.plan")
        seconds = time.perf_counter() - start_s
        again = graph and cudnn._loaded(place, setting, "a.plan")
        size = graph and int(graph.get_workspace_size())
        found.append(
            {
                "setting": f"{setting}",
                "workspace": size,
                "most": setting.most_bytes,
                "loaded": bool(again) and int(again.get_workspace_size()) == size,
                "seconds": round(seconds, 3),
            }
        )
    print(json.dumps({"version": library.__version__, "library": library.backend_version(), "plans": found}))


if __name__ == "__main__":
    main(*sys.argv[1:])
