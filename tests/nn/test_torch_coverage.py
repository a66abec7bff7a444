"""Nothing that both have is left out of the comparison with PyTorch; the summary of a run counts it."""

import inspect

import pytest
from nn import (
    test_torch_equality,
    test_torch_layers,
    test_torch_losses,
    test_torch_recurrent,
    test_torch_sequences,
)
from optim import test_optimizers, test_schedulers

import distgrad as dg

torch = pytest.importorskip("torch", reason="compares with PyTorch, which is not installed")

#: Compared in another way than as a case, or without anything to compare.
MODULES_ELSEWHERE = {
    *(
        "Module",
        "Sequential",
        "ModuleList",
        "ModuleDict",
        "ParameterList",
        "ParameterDict",
    ),  # test_containers
    *("FeatureAlphaDropout",),  # random: test_functional
    *("TransformerEncoder", "TransformerDecoder"),  # test_stacks_of_layers_equal_pytorchs
}
CASES = {
    "modules": [
        case
        for suite in (test_torch_equality, test_torch_layers, test_torch_recurrent)
        for case in suite.CASES
    ],
    "losses": [*test_torch_losses.CASES, *test_torch_sequences.CTC, *test_torch_sequences.CASES],
}


def classes_of_both(ours, theirs, base):
    """Public classes of ours, built on ``base``, that PyTorch has too."""
    return {
        name
        for name in ours.__all__
        if inspect.isclass(getattr(ours, name))
        and issubclass(getattr(ours, name), base)
        and hasattr(theirs, name)
    }


def compared():
    """By kind: the classes that PyTorch has too, and the names of those compared, one a case."""
    modules = classes_of_both(dg.nn, torch.nn, dg.nn.Module)
    losses = {name for name in modules if "Loss" in name}
    lazy = {name for name in modules if name.startswith("Lazy")}  # become the layers that are compared
    rules = [rule.__name__ for rule, _ in test_optimizers.RULES]
    schedules = [name for name, _ in test_schedulers.PLAIN]
    optimizers = classes_of_both(dg.optim, torch.optim, dg.optim.Optimizer) - {"Optimizer"}
    room = dg.optim.lr_scheduler
    return {
        "modules": (modules - losses - lazy - MODULES_ELSEWHERE, {case.name for case in CASES["modules"]}),
        "losses": (losses, {case.name for case in CASES["losses"]}),
        "optimizers": (optimizers, {*rules, "LBFGS", "Muon", "SparseAdam"}),  # those by their own tests
        "schedulers": (
            classes_of_both(room, torch.optim.lr_scheduler, room.LRScheduler) - {"LRScheduler"},
            {*schedules, "ReduceLROnPlateau", "SequentialLR", "ChainedScheduler"},
        ),
    }


@pytest.mark.parametrize("kind", ["modules", "losses", "optimizers", "schedulers"])
def test_everything_that_both_have_is_compared(kind):
    both, cases = compared()[kind]
    assert len(both) > 12
    assert both - cases == set()


def test_what_is_not_compared_is_seen():
    both, cases = compared()["losses"]
    assert both - (cases - {"CTCLoss"}) == {"CTCLoss"}
