"""What the tests of kernels share: how results compare, and shapes that kernels get wrong."""

import importlib
import inspect

import numpy as np

from distgrad.backend.kernels.table import TABLE

TOLERANCE = {"f": 2e-5, "d": 1e-11, "e": 4e-3, "E": 3e-2}  # E is bfloat16


def agree(fast, plain, char):
    if isinstance(plain, tuple):
        for a, b in zip(fast, plain, strict=True):
            agree(a, b, char) if b is not None else None
        return
    assert fast.shape == plain.shape
    assert fast.dtype == plain.dtype
    scale = max(1.0, float(np.nanmax(np.abs(np.where(np.isfinite(plain), plain, 0)), initial=0)))
    np.testing.assert_allclose(fast, plain, rtol=TOLERANCE[char], atol=TOLERANCE[char] * scale)


def kernel_of(name):
    """The kernel's own function: what it does not take it answers with None."""
    kernel = TABLE[name]
    return getattr(importlib.import_module(f"distgrad.backend.kernels.{kernel.module}"), kernel.function)


def vjp_arguments(record, vjp, inputs, attributes, y):
    known = dict(zip(record.inputs, inputs, strict=False)) | attributes | {"y": y}
    known |= {
        f"{name}_shape": getattr(x, "shape", None) for name, x in zip(record.inputs, inputs, strict=False)
    }
    known["needs"] = tuple(known.get(name) is not None for name in vjp.inputs)
    known["into"] = known["before"] = (None,) * len(vjp.inputs)
    return [known[name] for name in vjp.names]


def defaults(record, attributes):
    """The attributes as the compiled call passes them: all of them."""
    parameters = inspect.signature(record.formula).parameters
    return {name: parameters[name].default for name in record.attributes} | attributes


NORM = {"normalized_shape": (7,), "eps": 1e-5}
FLAT = [(1,), (17,), (3, 1, 5), (1000003,)]
LAST = [(1, 1), (1, 7), (5, 1), (65, 7), (3, 5, 33), (3, 20011), (20011, 3)]
NORMS = [(1, 7), (5, 7), (64, 7), (65, 7), (2, 3, 129, 7)]
GROUPS = [((1, 1, 2), 1), ((301, 6), 2), ((3, 6, 5, 7), 3), ((2, 4, 1, 33), 4), ((1, 2, 301, 301), 1)]
TWO = {"stride": (1, 1), "padding": (0, 0), "dilation": (1, 1), "groups": 1}
POOL = {"kernel_size": (2, 2), "stride": (2, 2), "padding": (0, 0), "dilation": (1, 1), "ceil_mode": False}
WINDOWS = [
    ((1, 1, 1, 1), ((1, 1), (1, 1), (0, 0), (1, 1), False)),
    ((2, 3, 9, 35), ((3, 3), (2, 2), (1, 1), (1, 1), False)),
    ((2, 3, 30, 9), ((2, 3), (1, 1), (0, 1), (1, 1), False)),
    ((3, 2, 14, 47), ((3, 2), (2, 4), (1, 1), (2, 3), True)),
    ((5, 4, 7, 7), ((7, 7), (7, 7), (0, 0), (1, 1), False)),
    ((2, 3, 12, 38), ((2, 2), (2, 2), (0, 0), (1, 1), False)),
    ((2, 3, 12, 35), ((3, 5), (3, 5), (0, 0), (1, 1), False)),
    ((1, 1, 300, 402), ((4, 2), (4, 2), (0, 0), (1, 1), False)),
    ((1, 1, 300, 401), ((3, 3), (1, 1), (1, 1), (1, 1), False)),
    ((2, 5, 301), ((4,), (3,), (2,), (1,), True)),
    ((3, 1, 64), ((2,), (2,), (0,), (1,), False)),
]
SHAPES = [
    *(("gelu", [s], {"approximate": a}) for s in FLAT for a in ("none", "tanh")),
    *((name, [s], {}) for name in ("silu", "relu", "tanh", "sigmoid") for s in FLAT),
    *(("random_mask", [s], {"state": (3, 1, 7), "p": p}) for s in FLAT for p in (0.1, 1.0)),
    *((name, [s], {"axis": -1}) for name in ("softmax", "log_softmax") for s in LAST),
    *(("layer_norm", [s, (7,), (7,)], NORM) for s in NORMS),
    *(("layer_norm", [s], NORM) for s in NORMS[:2]),
    *(("rms_norm", [s, (7,)], NORM) for s in NORMS),
    *(
        ("group_norm", [s, s[1:2], s[1:2]][:count], {"num_groups": groups, "eps": 1e-5})
        for s, groups in GROUPS
        for count in (1, 3)
    ),
    *(("batch_norm_with_statistics", [s, s[1:2], s[1:2]], {"eps": 1e-5}) for s, _ in GROUPS),
    *(("instance_norm", [s, s[1:2], s[1:2]], {"eps": 1e-5}) for s, _ in GROUPS[2:]),
    *(
        ("linear", [(m, k), (n, k), (n,)], {})
        for m, n, k in ((2, 1, 1), (2, 300, 5), (257, 3, 1), (33, 65, 129))
    ),
    *(
        ("attention", [(2, 3, q, 5), (2, 3, k, 5), (2, 3, k, 4)], {"scale": 0.3, "is_causal": causal})
        for q, k in ((1, 1), (1, 9), (9, 1), (65, 65), (130, 70), (70, 130), (40, 3000))
        for causal in (False, True)
    ),
    *(
        ("attention", [(1, 2, 33, 40), (1, 2, 70, 40), (1, 2, 70, 67)], {"scale": -0.3, "is_causal": causal})
        for causal in (False, True)
    ),
    *(
        ("lstm_steps", [(steps, n, 4 * h), (4 * h, h), (n, h), (n, h)], {})
        for steps, n, h in ((1, 1, 1), (7, 5, 33), (3, 1, 130), (2, 301, 8))
    ),
    *(("lstm_cell", [(n, 4 * h), (n, 4 * h), (n, h)], {}) for n, h in ((1, 1), (5, 33), (301, 8))),
    *(("gru_cell", [(n, 3 * h), (n, 3 * h), (n, h)], {}) for n, h in ((1, 1), (5, 33), (301, 8))),
    *(("max_pool", [s], POOL) for s in ((1, 1, 2, 2), (3, 5, 34, 62), (1, 1, 2, 1000))),
    *(("max_pool", [s], dict(zip(POOL, geometry, strict=True))) for s, geometry in WINDOWS),
    *(
        ("convolution", [x, w, w[:1]], TWO | options)
        for x, w, options in (
            ((1, 1, 1, 1), (1, 1, 1, 1), {}),
            ((3, 5, 7, 9), (2, 5, 1, 1), {}),
            ((2, 33, 9, 130), (5, 33, 3, 3), {"padding": (1, 1)}),
            ((2, 33, 90, 11), (5, 33, 3, 2), {"padding": (0, 1), "dilation": (2, 1)}),
            ((2, 6, 13, 11), (9, 2, 3, 3), {"stride": (2, 3), "padding": (2, 1), "groups": 3}),
            ((2, 8, 12, 12), (8, 1, 5, 5), {"padding": (2, 2), "groups": 8}),
            ((2, 4, 5, 5), (4, 4, 3, 3), {"padding": (6, 6), "stride": (4, 4)}),
            ((9, 3, 30, 23), (50, 3, 7, 7), {"padding": (3, 3), "stride": (2, 2)}),
            ((2, 130, 6, 7), (7, 130, 3, 3), {"padding": (1, 1)}),
            ((2, 6, 9, 8), (4, 3, 1, 1), {"stride": (3, 2), "groups": 2}),
            ((1, 2, 9, 8), (3, 2, 4, 3), {"stride": (5, 4), "dilation": (2, 3)}),
            ((1, 3, 200, 301), (5, 3, 3, 3), {"padding": (1, 1)}),
        )
    ),
    (
        "convolution",
        [(2, 3, 40), (4, 3, 5), (4,)],
        {"stride": (2,), "padding": (3,), "dilation": (1,), "groups": 1},
    ),
]


class Watched:
    """A kernel whose calls may change no array but those that it says it writes."""

    def __init__(self, kernel):
        self.kernel, self.writes = kernel, kernel.entry.writes

    def __getattr__(self, name):
        return getattr(self.kernel, name)

    def __call__(self, *args):
        names = inspect.signature(self.kernel.py_func).parameters
        read = {
            name: (array, array.tobytes())
            for name, array in zip(names, args, strict=True)
            if isinstance(array, np.ndarray) and name not in self.writes
        }
        result = self.kernel(*args)
        own = [array for name, array in zip(names, args, strict=True) if name in self.writes]
        for name, (array, before) in read.items():
            shared = any(np.may_share_memory(array, other) for other in own if other is not None)
            assert shared or array.tobytes() == before, f"{self.kernel._cache.name} changes {name}"
        return result
