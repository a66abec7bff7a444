"""PyTorch's own samples of its modules and optimizers, run over ``distgrad.torch``.

``python tests/distgrad_torch/moduleinfo.py [name ...] [--write]`` prints a line an entry that does not match:
modules by outputs and gradients from the same state dict, in training and evaluation, optimizers by the
parameters after ten steps over a bowl, where LBFGS converges without a line search; PyTorch's Muon without
its rounding to bfloat16. With ``--write`` the table in ``docs/guide/torch-names.md`` is written anew.
"""

import argparse
import contextlib
import copy
import importlib
import signal
import sys
import warnings

import numpy as np
from opinfo import PAGE, Differs, late, same, tensors, translated

STEPS, SECONDS = 10, 60


def load():
    """Both packages, and the entries of modules and of optimizers."""
    import torch
    from torch.testing._internal.common_modules import module_db
    from torch.testing._internal.common_optimizers import optim_db

    return torch, importlib.import_module("distgrad.torch"), module_db, optim_db


def carried(state, torch, ours):
    """A state dict for the other package."""
    return {name: ours.from_numpy(value.detach().numpy().copy()) for name, value in state.items()}


def layer_of(layer, torch, ours):
    """A new layer of a transformer, built as PyTorch's was."""
    return getattr(ours.nn, type(layer).__name__)(
        layer.linear1.in_features, layer.self_attn.num_heads, layer.linear1.out_features, layer.dropout.p,
        mapped(layer.activation, torch, ours), layer.norm1.eps, layer.self_attn.batch_first, layer.norm_first,
        layer.linear1.bias is not None,
    )  # fmt: skip


def mapped(value, torch, ours, made=None):
    """Arguments for the other package, its functions and layers too; what is one tensor twice stays one."""
    made = {} if made is None else made
    if isinstance(value, torch.Tensor):
        return made.setdefault(id(value), translated(value, torch, ours))
    if isinstance(value, torch.nn.TransformerEncoderLayer | torch.nn.TransformerDecoderLayer):
        return layer_of(value, torch, ours)
    if callable(value) and getattr(value, "__module__", "").startswith("torch"):
        found = ours
        for part in f"{value.__module__}.{value.__qualname__}".split(".")[1:]:
            found = getattr(found, part)
        return found
    if isinstance(value, dict):
        return {key: mapped(each, torch, ours, made) for key, each in value.items()}
    if isinstance(value, list | tuple) and not isinstance(value, torch.Size):
        several = [mapped(each, torch, ours, made) for each in value]
        return several if isinstance(value, list) else tuple(several)
    if isinstance(value, torch.nn.utils.rnn.PackedSequence):
        raise NotImplementedError("a packed sequence")
    return translated(value, torch, ours)


def gradients(ends, leaves, torch, ours):
    """Compare the gradients of one weighting of all results."""
    rng = np.random.default_rng(0)
    weights = [rng.standard_normal(tuple(each.shape)).astype(each.detach().numpy().dtype) for each in ends[1]]
    given = torch.autograd.grad(ends[1], leaves[1], [torch.from_numpy(w) for w in weights], allow_unused=True)
    got = ours.autograd.grad(ends[0], leaves[0], [ours.from_numpy(w) for w in weights], allow_unused=True)
    for place, (x, y) in enumerate(zip(got, given, strict=True)):
        if (x is None) != (y is None) and np.any((y if x is None else x).numpy()):
            raise Differs(f"gradient {place}: {'none' if x is None else 'one'} where PyTorch has another")
        if x is not None and y is not None:
            same(x, y, f"gradient {place}")


def compare_module(info, sample, training, torch, ours):
    """One sample of a module: outputs and gradients of inputs and parameters."""
    constructor, forward = sample.constructor_input, sample.forward_input
    torch.manual_seed(0)
    theirs = info.module_cls(*constructor.args, **constructor.kwargs).double().train(training)
    args, options = mapped((constructor.args, constructor.kwargs), torch, ours)
    mine = getattr(ours.nn, info.module_cls.__name__)(*args, **options).double().train(training)
    theirs_in = (forward.args, forward.kwargs)
    mine_in = mapped(theirs_in, torch, ours)
    lazy = any(isinstance(p, torch.nn.UninitializedParameter) for p in theirs.parameters())
    if lazy:
        theirs(*forward.args, **forward.kwargs), mine(*mine_in[0], **mine_in[1])
    mine.load_state_dict(carried(theirs.state_dict(), torch, ours))
    expected, found = theirs(*forward.args, **forward.kwargs), mine(*mine_in[0], **mine_in[1])
    outs = tensors(found, ours.Tensor), tensors(expected, torch.Tensor)
    if len(outs[0]) != len(outs[1]):
        raise Differs(f"{len(outs[0])} results, PyTorch's {len(outs[1])}")
    for place, pair in enumerate(zip(*outs, strict=True)):
        same(*pair, f"result {place}")
    after = carried(theirs.state_dict(), torch, ours)
    for name, value in mine.state_dict().items():
        same(value, after[name], f"state {name}")
    ends = [[each for each in several if each.requires_grad] for several in outs]
    if len(ends[0]) != len(ends[1]):
        raise Differs(f"{len(ends[0])} results with a gradient, PyTorch's {len(ends[1])}")
    if ends[1]:
        leaves = [
            [*(each for each in tensors(given, kind) if each.requires_grad), *net.parameters()]
            for given, kind, net in ((mine_in, ours.Tensor, mine), (theirs_in, torch.Tensor, theirs))
        ]
        gradients(ends, leaves, torch, ours)


def run_module(info, torch, ours):
    """None if all samples of a module match, else the first that does not and why."""
    count = 0
    for training in (True, False):
        samples = info.module_inputs_func(
            info, device="cpu", dtype=torch.float64, requires_grad=True, training=training
        )
        for sample in samples:
            if sample.forward_input is None:
                continue
            try:
                compare_module(info, sample, training, torch, ours)
            except TimeoutError:
                raise
            except Exception as error:
                shown = f"{type(error).__name__}: {error}".split("\n")[0][:150]
                return f"{sample.desc or f'sample {count}'}: {shown}"
            count += 1
    return None


@contextlib.contextmanager
def without_bfloat16(torch):
    """``Tensor.bfloat16`` is the identity, which only Muon calls."""
    rounded = torch.Tensor.bfloat16
    torch.Tensor.bfloat16 = lambda self: self.clone()
    try:
        yield
    finally:
        torch.Tensor.bfloat16 = rounded


def run_optimizer(info, torch, ours):
    """None if all samples of an optimizer match, else the first that does not and why."""
    for sample in info.optim_inputs_func(device="cpu"):
        options = dict(sample.kwargs)
        try:
            pair = []
            for package in (ours, torch):
                rng = np.random.default_rng(0)
                weights = [rng.standard_normal(shape) for shape in ((5, 3), (3,), (4, 4))]
                if info.optim_cls.__name__ == "Muon":
                    weights = [each for each in weights if each.ndim == 2]
                parameters = [package.nn.Parameter(package.tensor(each)) for each in weights]
                given = options if package is torch else mapped(copy.deepcopy(options), torch, ours)
                given = {**given, "lr": given["lr"].clone()} if hasattr(given.get("lr"), "clone") else given
                optimizer = getattr(package.optim, info.optim_cls.__name__)(parameters, **given)

                def closure(parameters=parameters, optimizer=optimizer):
                    optimizer.zero_grad()
                    loss = sum(
                        ((each**2 + 0.5 * each.sin()) * (n + 1)).sum() for n, each in enumerate(parameters)
                    )
                    loss.backward()
                    if isinstance(loss, torch.Tensor) and info.only_supports_sparse_grads:
                        for each in parameters:
                            each.grad = each.grad.to_sparse()
                    return loss

                with without_bfloat16(torch):
                    for _ in range(STEPS):
                        optimizer.step(closure)
                pair.append(parameters)
            for place, (mine, theirs) in enumerate(zip(*pair, strict=True)):
                same(mine, theirs, f"parameter {place}")
        except Exception as error:
            shown = f"{type(error).__name__}: {error}".split("\n")[0][:150]
            return f"{sample.desc}: {shown}"
    return None


def main(arguments):
    """Run entries and print what differs."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("names", nargs="*")
    parser.add_argument("--write", action="store_true")
    chosen = parser.parse_args(arguments)
    torch, ours, module_db, optim_db = load()
    signal.signal(signal.SIGPROF, late)
    warnings.simplefilter("ignore")
    np.seterr(all="ignore")
    entries = [(f"nn.{info.module_cls.__name__}", info, run_module) for info in module_db]
    entries += [(f"optim.{info.optim_cls.__name__}", info, run_optimizer) for info in optim_db]
    failed, total = {}, 0
    for name, info, run in entries:
        if chosen.names and name.split(".")[-1] not in chosen.names:
            continue
        total += 1
        signal.setitimer(signal.ITIMER_PROF, SECONDS)
        try:
            reason = run(info, torch, ours)
        except Exception as error:
            reason = f"{type(error).__name__}: {error}".split("\n")[0][:150]
        signal.setitimer(signal.ITIMER_PROF, 0)
        if reason is not None:
            failed[name] = reason
            print(f"{name}: {reason}", flush=True)
    print(f"{total - len(failed)} of {total} match")
    if chosen.write:
        write(total, failed)


def write(total, failed):
    """The table of what does not match, between its mark and that of the operations."""
    text = PAGE.read_text()
    start, end = text.index("<!-- modules -->"), text.index("<!-- opinfo -->")
    rows = [f"| `{name}` | {reason.replace('|', '/')} |" for name, reason in sorted(failed.items())]
    table = ["<!-- modules -->", f"{total - len(failed)} of {total} modules and optimizers match.", "",
             "| entry | why not |", "|---|---|", *rows, "", ""]  # fmt: skip
    PAGE.write_text(text[:start] + "\n".join(table) + text[end:])


if __name__ == "__main__":
    main(sys.argv[1:])
