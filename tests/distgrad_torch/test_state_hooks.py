"""Hooks of state dicts, of steps and of all modules, and states of a program's own, as PyTorch has them."""

import copy
from collections import OrderedDict
from importlib import import_module

import pytest

import distgrad.torch

torch = pytest.importorskip("torch")

LIBS = {"PyTorch": torch, "distgrad": distgrad.torch}


def compared(case):
    """What a case gives for both."""
    found = []
    for lib in LIBS.values():
        try:
            found.append(case(lib))
        except RuntimeError:
            found.append("an error")
    return found


def network(lib):
    """Modules that save and load in ways of their own."""
    nn = lib.nn

    class Renamed(nn.Module):
        _version = 3

        def __init__(self):
            super().__init__()
            self.w = nn.Parameter(lib.ones(2))
            self.register_buffer("unsaved", lib.zeros(1), persistent=False)
            self.seen = []

        def _load_from_state_dict(self, state_dict, prefix, local_metadata, *rest):
            self.seen.append((prefix, local_metadata.get("version")))
            if prefix + "old" in state_dict:
                state_dict[prefix + "w"] = state_dict.pop(prefix + "old")
            super()._load_from_state_dict(state_dict, prefix, local_metadata, *rest)
            self.seen.append(self.w.tolist())

    class Extra(nn.Module):
        number = 5

        def get_extra_state(self):
            return {"n": self.number}

        def set_extra_state(self, state):
            self.number = state["n"]

        def _save_to_state_dict(self, destination, prefix, keep_vars):
            super()._save_to_state_dict(destination, prefix, keep_vars)
            destination[prefix + "more"] = 1

    class Outer(nn.Module):
        def __init__(self):
            super().__init__()
            self.a, self.b, self.c = Renamed(), Extra(), nn.Linear(2, 3)

        def state_dict(self, *args, **kwargs):
            found = super().state_dict(*args, **kwargs)
            for key in [each for each in found if each.endswith("c.bias")]:
                found[key + "_renamed"] = found.pop(key)
            return found

    return nn.Sequential(Outer())


def names_and_versions(lib):
    state = network(lib).state_dict(OrderedDict(), "x.") if lib is not torch else None
    named = list(network(lib).state_dict(prefix="x."))
    assert state is None or list(state) == named
    found = network(lib).state_dict()
    return type(found), list(found), named, dict(found._metadata)


def old_names(lib):
    net = network(lib)
    state = net.state_dict()
    state["0.a.old"] = state.pop("0.a.w") * 4
    state["0.b._extra_state"] = {"n": 9}
    keys = net.load_state_dict(state, strict=False)
    return net[0].a.seen, net[0].b.number, sorted(keys.missing_keys), sorted(keys.unexpected_keys), len(state)


def strictly(lib):
    return repr(network(lib).load_state_dict({}))


def saving_hooks(lib):
    net, seen = network(lib), []
    layer = net[0].c
    layer.register_state_dict_pre_hook(lambda module, prefix, keep: seen.append((prefix, keep)))
    layer.register_state_dict_post_hook(lambda module, state, prefix, data: state.update({prefix + "z": 1}))
    handle = layer._register_state_dict_hook(lambda module, state, prefix, data: seen.append(data))
    first = list(net.state_dict())
    handle.remove()
    net._register_state_dict_hook(lambda module, state, prefix, data: {"only": 1})
    return first, net.state_dict(), seen


def a_result_refused(lib):
    layer = lib.nn.Linear(1, 1)
    layer.register_state_dict_post_hook(lambda module, state, prefix, data: state)
    return layer.state_dict()


def loading_hooks(lib):
    net, seen = lib.nn.Sequential(lib.nn.Linear(1, 1), lib.nn.BatchNorm1d(1)), []

    def before(module, state, prefix, data, strict, *rest):
        seen.append((prefix, data, strict, sorted(state)))
        state.pop("0.junk", None)

    def behind(module, keys):
        seen.append((sorted(keys.missing_keys), module[0].weight.item()))
        keys.missing_keys.clear()

    net[0].register_load_state_dict_pre_hook(before)
    net[1]._register_load_state_dict_pre_hook(lambda state, prefix, *rest: seen.append(prefix))
    net.register_load_state_dict_post_hook(behind)
    return repr(net.load_state_dict({"0.weight": lib.tensor([[4.0]]), "0.junk": 1})), seen


def assigned(lib):
    net = lib.nn.Sequential(lib.nn.Linear(2, 2), lib.nn.BatchNorm1d(2))
    net[0].weight.requires_grad_(False)
    weight, bias, mean = lib.ones(2, 2, dtype=lib.float64), lib.nn.Parameter(lib.ones(2)), lib.ones(2)
    given = {"0.weight": weight, "0.bias": bias, "1.running_mean": mean}
    net.load_state_dict({**net.state_dict(), **given}, assign=True)
    weight.add_(1)
    own = net[0].weight
    return (
        net[0].bias is bias,
        net[1].running_mean is mean,
        own.tolist(),
        own.requires_grad,
        own.dtype == lib.float64,
    )


def every_module(lib):
    hooks, seen = import_module(f"{lib.__name__}.nn.modules.module"), []
    handles = [
        hooks.register_module_forward_pre_hook(lambda m, a: seen.append(("pre", type(m).__name__))),
        hooks.register_module_forward_hook(lambda m, a, out: seen.append(("post", type(m).__name__))),
        hooks.register_module_full_backward_hook(lambda m, gi, go: seen.append(("back", type(m).__name__))),
        hooks.register_module_parameter_registration_hook(lambda m, name, p: seen.append(name)),
        hooks.register_module_module_registration_hook(lambda m, name, part: seen.append(name)),
        hooks.register_module_buffer_registration_hook(lambda m, name, b: seen.append(name)),
    ]
    net = lib.nn.Sequential(lib.nn.Linear(1, 1), lib.nn.BatchNorm1d(1))
    net[0].register_forward_hook(lambda m, a, out: seen.append("own"))
    net(lib.ones(2, 1, requires_grad=True)).sum().backward()
    for each in handles:
        each.remove()
    lib.nn.ReLU()(lib.ones(1))
    return seen


def steps(lib):
    optimizer, seen = prepared(lib, lib.optim.SGD, momentum=0.9), []
    hooks = import_module(f"{lib.__name__}.optim.optimizer")
    handles = [
        hooks.register_optimizer_step_pre_hook(lambda o, args, kw: seen.append(("all", len(args), kw))),
        optimizer.register_step_pre_hook(lambda o, args, kw: seen.append(("before", o is optimizer))),
        optimizer.register_step_post_hook(lambda o, args, kw: seen.append("behind")),
        hooks.register_optimizer_step_post_hook(lambda o, args, kw: seen.append("all behind")),
    ]
    trained(optimizer)
    for each in handles:
        each.remove()
    trained(optimizer)
    optimizer.register_state_dict_post_hook(lambda o, state: {**state, "last": 1})
    optimizer.register_state_dict_post_hook(lambda o, state: {"first": 1, **state}, prepend=True)
    optimizer.register_load_state_dict_pre_hook(lambda o, state: state["param_groups"][0].update(lr=7))
    optimizer.register_load_state_dict_post_hook(lambda o: seen.append(o.param_groups[0]["lr"]))
    optimizer.load_state_dict(copy.deepcopy(optimizer.state_dict()))
    return seen, sorted(optimizer.state_dict())


def prepared(lib, kind, **options):
    return kind([lib.nn.Parameter(lib.ones(2)), lib.nn.Parameter(lib.ones(3))], lr=0.1, **options)


def trained(optimizer, count=1):
    for _ in range(count):
        optimizer.zero_grad()
        sum((p**2).sum() for p in optimizer.param_groups[0]["params"]).backward()
        optimizer.step()
    return [round(p.sum().item(), 4) for p in optimizer.param_groups[0]["params"]]


def own_rule(lib):
    """A rule of a program's own, which keeps what it needs in ``state``."""

    class Heavy(lib.optim.Optimizer):
        def __init__(self, params, lr):
            super().__init__(params, {"lr": lr})

        def update(self, p, moved):  # no rule's
            p.data.add_(moved, alpha=-self.param_groups[0]["lr"])

        def step(self, closure=None):
            for p in self.param_groups[0]["params"]:
                state = self.state[p]
                if len(state) == 0:
                    state["step"], state["moved"] = 0, lib.zeros_like(p.data)
                state["step"] += 1
                state["moved"].mul_(0.9).add_(p.grad)
                self.update(p, state["moved"])

    optimizer = prepared(lib, Heavy)
    first = trained(optimizer, 3)
    saved = copy.deepcopy(optimizer.state_dict())
    again, second = prepared(lib, Heavy), copy.deepcopy(optimizer)
    again.load_state_dict(saved)
    kept = [each["step"] for each in again.state.values()]
    return first, sorted(saved["state"][1]), kept, trained(optimizer), trained(second), trained(again)


def changed_states(lib):
    """Entries added, assigned, taken out; parameters put in another's place with its state."""
    found = []
    for change in (
        lambda o, p: o.state[p].update(mine=1),
        lambda o, p: o.state[p].__setitem__("exp_avg", lib.zeros(2)),
        lambda o, p: o.state.pop(p),
        lambda o, p: o.state.clear(),
        lambda o, p: setattr(o, "state", type(o.state)(dict)) if lib is torch else setattr(o, "state", {}),
    ):
        optimizer = prepared(lib, lib.optim.Adam)
        trained(optimizer, 3)
        change(optimizer, optimizer.param_groups[0]["params"][0])
        values = trained(optimizer)
        entry = optimizer.state[optimizer.param_groups[0]["params"][0]]
        found.append((values, float(entry["step"]), entry.get("mine"), len(optimizer.state)))
    return found


def a_parameter_exchanged(lib):
    optimizer = prepared(lib, lib.optim.Adam)
    trained(optimizer, 3)
    params = optimizer.param_groups[0]["params"]
    kept, old = optimizer.state.get(params[0]), params[0]
    for name in ("exp_avg", "exp_avg_sq"):
        kept[name] = lib.cat((kept[name], lib.zeros(2)))
    del optimizer.state[old]
    params[0] = lib.nn.Parameter(lib.cat((old.detach(), lib.ones(2))))
    optimizer.state[params[0]] = kept
    return trained(optimizer, 2), float(optimizer.state[params[0]]["step"]), len(optimizer.state)


CASES = [
    names_and_versions,
    old_names,
    strictly,
    saving_hooks,
    a_result_refused,
    loading_hooks,
    assigned,
    every_module,
    steps,
    own_rule,
    changed_states,
    a_parameter_exchanged,
]


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.__name__)
def test_hooks_and_states_are_pytorchs(case):
    theirs, ours = compared(case)
    assert ours == theirs


def test_forward_hooks_that_are_always_called_see_what_there_is():
    def case(lib):
        seen = []
        layer = lib.nn.Identity()
        layer.register_forward_hook(lambda m, args, out: 1 / 0)
        layer.register_forward_hook(lambda m, args, out: seen.append(out.tolist()), always_call=True)
        layer.register_forward_hook(lambda m, args, out: {}[1], always_call=True)
        with pytest.raises(ZeroDivisionError), pytest.warns(UserWarning, match="always_call"):
            layer(lib.ones(1))
        return seen

    theirs, ours = compared(case)
    assert ours == theirs == [[1.0]]


def test_nothing_is_loaded_where_something_does_not_fit():
    net = distgrad.torch.nn.Sequential(distgrad.torch.nn.Linear(1, 1), distgrad.torch.nn.Linear(1, 1))
    before = net[0].weight.item()
    state = {**net.state_dict(), "0.weight": distgrad.torch.ones(1, 1) * 9, "1.bias": distgrad.torch.ones(2)}
    with pytest.raises(RuntimeError, match=r"1\.bias"):
        net.load_state_dict(state)
    assert net[0].weight.item() == before
