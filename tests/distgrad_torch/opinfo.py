"""PyTorch's own samples of its operations, run over ``distgrad.torch``: values and gradients compared.

``python tests/distgrad_torch/opinfo.py [name ...] [--write] [--errors]`` prints a line an entry that does not
match; with ``--write`` their rows in ``docs/guide/torch-names.md`` are written anew. It needs ``torch`` and
``expecttest``.
"""

import argparse
import importlib
import itertools
import signal
import sys
import types
import warnings
from pathlib import Path

import numpy as np

PAGE = Path(__file__).parents[2] / "docs" / "guide" / "torch-names.md"
SAMPLES = 40  # of each entry, evenly spread
SECONDS = 20  # of processor time


class Differs(Exception):
    """What the two gave is not the same."""


def load():
    """Both packages and the entries."""
    import torch
    from torch.testing._internal.common_methods_invocations import op_db

    return torch, importlib.import_module("distgrad.torch"), op_db


def translated(value, torch, ours):
    """Arguments for the other package; tensors that require a gradient do so there."""
    if isinstance(value, torch.Tensor):
        if value.layout != torch.strided:
            raise NotImplementedError(f"layout {value.layout}")
        plain = value.detach().resolve_conj().resolve_neg()
        if plain.dtype == torch.bfloat16:
            out = ours.tensor(plain.float().numpy()).to(ours.bfloat16)
        else:
            out = ours.from_numpy(plain.numpy().copy())
        return out.requires_grad_() if value.requires_grad else out
    if isinstance(value, torch.Size):
        return tuple(value)
    if isinstance(value, torch.dtype):
        return getattr(ours, str(value).split(".")[1])
    if isinstance(value, torch.device | torch.layout | torch.memory_format):
        return str(value).removeprefix("torch.")
    if isinstance(value, slice):
        return slice(*(translated(each, torch, ours) for each in (value.start, value.stop, value.step)))
    if isinstance(value, list | tuple):
        made = [translated(each, torch, ours) for each in value]
        return made if isinstance(value, list) else tuple(made)
    if isinstance(value, dict):
        return {key: translated(each, torch, ours) for key, each in value.items()}
    if isinstance(value, torch.nn.PairwiseDistance):
        return ours.nn.PairwiseDistance(value.norm, value.eps, value.keepdim)
    return value


def function_of(name, ours):
    """Our function of an entry; a method where there is no function."""
    found = ours
    try:
        for part in name.split("."):
            found = getattr(found, part)
        if callable(found):  # torch.double is a dtype
            return found
    except AttributeError:
        if "." in name:
            raise
    method = getattr(ours.Tensor, name)
    if callable(method):
        return method
    return lambda x: getattr(x, name)


def called_as(op, ours):
    """Our function with the entry's order of arguments: its own lambda, with our module for PyTorch's."""
    if getattr(op.op, "__name__", "") == "<lambda>":
        scope = {**op.op.__globals__, "torch": ours}
        return types.FunctionType(op.op.__code__, scope, op.name, op.op.__defaults__, op.op.__closure__)
    return function_of(op.name, ours)


def tensors(value, kind):
    """All tensors in a result or in arguments, in order."""
    if isinstance(value, kind):
        return [value]
    if isinstance(value, dict):
        value = value.values()
    if isinstance(value, list | tuple) or (
        hasattr(value, "__iter__") and not isinstance(value, str | np.ndarray)
    ):
        return list(itertools.chain.from_iterable(tensors(each, kind) for each in value))
    return []


def plain(x):
    """The elements on the host."""
    x = x.detach()
    if type(x).__module__.startswith("torch"):
        x = x.to_dense() if x.layout != sys.modules["torch"].strided else x
        x = x.resolve_conj().resolve_neg()
        x = x.float() if x.dtype == sys.modules["torch"].bfloat16 else x
        return x.numpy(force=True)  # PyTorch makes tensors of zeros that have no memory
    return np.asarray((x.float() if x.dtype.char == "E" else x).numpy())


def same(mine, theirs, what):
    """Raise Differs unless two arrays agree."""
    x, y = plain(mine), plain(theirs)
    if x.shape != y.shape:
        raise Differs(f"{what}: shape {list(x.shape)}, PyTorch's {list(y.shape)}")
    if x.dtype != y.dtype:
        raise Differs(f"{what}: {x.dtype}, PyTorch's {y.dtype}")
    wide = x.dtype.char in "dD"
    if not np.allclose(x, y, rtol=1e-6 if wide else 2e-4, atol=1e-7 if wide else 2e-5, equal_nan=True):
        gap = np.abs(np.asarray(x, np.complex128) - np.asarray(y, np.complex128)).max()
        raise Differs(f"{what}: differs by {gap:.3g}")


def compare(op, sample, torch, ours):
    """One sample of an entry, values and gradients."""
    theirs_in = (sample.input, *sample.args), dict(sample.kwargs)
    mine_in = translated(theirs_in, torch, ours)
    theirs = op(*theirs_in[0], **theirs_in[1])
    function = called_as(op, ours)
    mine = function(*mine_in[0], **mine_in[1])
    processed = sample.output_process_fn_grad
    found, expected = tensors(mine, ours.Tensor), tensors(theirs, torch.Tensor)
    if not expected:
        if mine != theirs:
            raise Differs(f"{mine!r}, PyTorch's {theirs!r}")
        return
    if len(found) != len(expected):
        raise Differs(f"{len(found)} results, PyTorch's {len(expected)}")
    unique = op.name not in UP_TO_SIGN
    for place, pair in enumerate(zip(found, expected, strict=True)):
        if unique:
            same(*pair, f"result {place}")
    gradients(mine, theirs, mine_in, theirs_in, processed, torch, ours)


#: Results that are determined up to signs or order; their gradients are compared through what is invariant.
UP_TO_SIGN = {
    "svd",
    "linalg.svd",
    "linalg.eig",
    "linalg.eigh",
    "linalg.qr",
    "qr",
    "svd_lowrank",
    "pca_lowrank",
}


def gradients(mine, theirs, mine_in, theirs_in, processed, torch, ours):
    """Compare the gradients of a random weighting of all results."""
    ends = [[each for each in tensors(processed(value), kind) if each.requires_grad]
            for value, kind in ((mine, ours.Tensor), (theirs, torch.Tensor))]  # fmt: skip
    if len(ends[0]) != len(ends[1]):
        raise Differs(f"{len(ends[0])} results with a gradient, PyTorch's {len(ends[1])}")
    if not ends[1]:
        return
    rng = np.random.default_rng(0)
    weights = []
    for each in ends[1]:
        weight = rng.standard_normal(tuple(each.shape))
        if each.is_complex():
            weight = weight + 1j * rng.standard_normal(tuple(each.shape))
        weights.append(np.asarray(weight).astype(plain(each).dtype))
    leaves = [[each for each in tensors(value, kind) if each.requires_grad]
              for value, kind in ((mine_in, ours.Tensor), (theirs_in, torch.Tensor))]  # fmt: skip
    given = torch.autograd.grad(
        ends[1], leaves[1], [torch.from_numpy(w.copy()) for w in weights], allow_unused=True
    )
    got = ours.autograd.grad(ends[0], leaves[0], [ours.from_numpy(w) for w in weights], allow_unused=True)
    for place, (x, y) in enumerate(zip(got, given, strict=True)):
        if x is None or y is None:
            other = x if y is None else y
            if other is not None and plain(other).any():
                raise Differs(f"gradient {place}: {'none' if x is None else 'one'} where PyTorch has "
                              f"{'one' if x is None else 'none'}")  # fmt: skip
        else:
            same(x, y, f"gradient {place}")


def late(number, frame):
    raise TimeoutError("it takes too long")


def draws(op, sample, torch):
    """Whether PyTorch's own result is another one from another seed."""
    found, seed = [], torch.manual_seed
    try:
        for number in range(20):
            torch.manual_seed = lambda _, number=number: seed(number)  # entries call it with a seed of theirs
            torch.manual_seed(number)
            found.append(tensors(op(sample.input, *sample.args, **sample.kwargs), torch.Tensor))
    finally:
        torch.manual_seed = seed
    pairs = (pair for other in found[1:] for pair in zip(found[0], other, strict=True))
    return any(not np.array_equal(plain(x), plain(y), equal_nan=True) for x, y in pairs)


def run(op, torch, ours):
    """None if all samples of an entry match, else the first that does not and why.

    Where PyTorch's own result is another one from another seed, a sample cannot match; the others must.
    """
    kinds = (torch.float64, torch.complex128, torch.float32, torch.int64)
    dtype = next((each for each in kinds if each in op.dtypes), None)
    if dtype is None:
        return "PyTorch has no samples of it for the CPU"
    drawn = 0
    torch.manual_seed(0)
    np.random.seed(0)  # noqa: NPY002 (what PyTorch's samples draw from)
    samples = list(itertools.islice(op.sample_inputs("cpu", dtype, requires_grad=dtype != torch.int64), 400))
    step = max(1, len(samples) // SAMPLES)
    signal.setitimer(signal.ITIMER_PROF, SECONDS)
    try:
        for place, sample in enumerate(samples[::step]):
            try:
                compare(op, sample, torch, ours)
            except TimeoutError:
                raise
            except Exception as error:
                if isinstance(error, Differs) and draws(op, sample, torch):
                    drawn += 1
                    continue
                shown = f"{type(error).__name__}: {error}".split("\n")[0][:150]
                return f"sample {place} of {len(samples[::step])}: {shown}"
    finally:
        signal.setitimer(signal.ITIMER_PROF, 0)
    if drawn:
        return f"{drawn} of {len(samples[::step])} samples draw random numbers; the others match"
    return None


def errors(op, torch, ours):
    """How many of an entry's wrong inputs raise PyTorch's class of error here, raise any, and there are."""
    of_class = raised = total = 0
    for each in op.error_inputs("cpu"):
        sample = each.sample_input
        total += 1
        try:
            args, options = translated(((sample.input, *sample.args), dict(sample.kwargs)), torch, ours)
            function_of(op.name, ours)(*args, **options)
        except Exception as error:
            raised += 1
            of_class += isinstance(error, each.error_type)
    return of_class, raised, total


def errors_in_all(torch, ours, op_db):
    """The sums of :func:`errors` over all entries."""
    counts = [errors(op, torch, ours) for op in op_db if op.error_inputs_func is not None]
    return [sum(each) for each in zip(*counts, strict=True)]


def label(op):
    """The entry's name."""
    return op.name + (f" ({op.variant_test_name})" if op.variant_test_name else "")


def is_internal(op):
    """Whether programs do not call it: internals of the dispatcher."""
    return op.name.startswith(("_", "torch.ops.", "masked.")) and not op.name.startswith("__")


def main(arguments):
    """Run entries and print what differs."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("names", nargs="*")
    parser.add_argument("--write", action="store_true")
    parser.add_argument("--errors", action="store_true")
    options = parser.parse_args(arguments)
    torch, ours, op_db = load()
    signal.signal(signal.SIGPROF, late)
    warnings.simplefilter("ignore")
    np.seterr(all="ignore")
    chosen = [op for op in op_db if op.supports_autograd and (not options.names or op.name in options.names)]
    if options.errors:
        of_class, raised, total = errors_in_all(torch, ours, op_db)
        print(f"{raised} of {total} wrong inputs raise, {of_class} of them an error of PyTorch's class")
        return
    failed = {}
    for op in chosen:
        try:
            reason = run(op, torch, ours)
        except Exception as error:
            reason = f"{type(error).__name__}: {error}".split("\n")[0][:150]
        if reason is not None:
            failed[label(op)] = reason
            print(f"{label(op)}: {reason}", flush=True)
    print(f"{len(chosen) - len(failed)} of {len(chosen)} match")
    if options.write:
        write({label(op) for op in chosen}, sum(op.supports_autograd for op in op_db), failed)


_INTERNAL = "internal of PyTorch's dispatcher, which programs do not call"
_SPARSE = "its samples lie in the layout `sparse_csr`; sparse tensors have their elements dense here"
#: Why entries do not match that stay as they are, in words.
REASONS = {
    "as_strided (partial_views)": "PyTorch reads the memory around a view; here a view ends where it ends",
    "as_strided_scatter": "PyTorch hands the gradient to the elements overwritten and none to those kept",
    "chalf": "there is no complex number of half precision",
    "cholesky_inverse": "PyTorch's gradient reaches beyond the triangle read, and fails its gradcheck",
    "cholesky_solve": "as `cholesky_inverse`: the factor's gradient is that of the triangle read",
    "cov": "PyTorch sums float32 weights of float64 observations in float32; here they are summed in float64",
    "istft": "PyTorch gives the window no gradient in two of ten samples; here it has one",
    "linalg.pinv (hermitian)": "its samples are not Hermitian; of those that are, the gradient is PyTorch's",
    "max_pool2d_with_indices_backward": _INTERNAL,
    "native_batch_norm": _INTERNAL,
    "native_group_norm": _INTERNAL,
    "native_layer_norm": _INTERNAL,
    "nn.functional.batch_norm": "it takes one axis without elements, which is refused here",
    "sparse.mm (reduce)": _SPARSE,
    "sparse.sampled_addmm": _SPARSE,
}


def write(tried, total, failed):
    """The table of what does not match: the rows of what was tried anew, the others as they stand."""
    text = PAGE.read_text()
    start = text.index("<!-- opinfo -->")
    rows = {line.split("`")[1]: line for line in text[start:].splitlines() if line.startswith("| `")}
    rows = {name: row for name, row in rows.items() if name not in tried}
    for name, reason in failed.items():
        reason = _INTERNAL if name.startswith(("_", "torch.ops.")) else reason.replace("|", "/")
        rows[name] = f"| `{name}` | {REASONS.get(name, reason)} |"
    table = [
        f"{total - len(rows)} of {total} entries match.",
        "",
        "| entry | why not |",
        "|---|---|",
        *(rows[name] for name in sorted(rows)),
    ]
    PAGE.write_text(text[:start] + "<!-- opinfo -->\n" + "\n".join(table) + "\n")


if __name__ == "__main__":
    main(sys.argv[1:])
