"""Rung 8, one GPU: every operation, module, loss, rule and whole step on real hardware, against the CPU.

``make gpu-check`` runs these and whatever else is marked ``gpu``.
"""

import device_checks as checks
import pytest
from contracts import device as contract

import distgrad as dg
from distgrad.autograd.samples import sample_cases

pytestmark = pytest.mark.gpu


@pytest.mark.parametrize("case", list(sample_cases()), ids=str)
def test_operation(case):
    checks.check_same_as_on_the_cpu(case, dg.device("cuda"), rtol=1e-7, atol=1e-8)


@pytest.mark.parametrize("name", contract.PARAMETERS["module"])
def test_module(name):
    contract.module(name)


@pytest.mark.parametrize("name", contract.PARAMETERS["loss"])
def test_loss(name):
    contract.loss(name)


@pytest.mark.parametrize("place", contract.PARAMETERS["optimizer"])
def test_optimizer(place):
    contract.optimizer(place)


@pytest.mark.parametrize("name", contract.PARAMETERS["steps"])
def test_steps(name):
    contract.steps(name)


@pytest.mark.parametrize("name", contract.CHECKS)
def test_check(name):
    contract.CHECKS[name]()
