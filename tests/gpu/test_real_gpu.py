"""Rung 8, one GPU: every operation, module, loss, rule and whole step on real hardware, against the CPU.

``tests/gpu/device.sh`` runs these and whatever else is marked ``gpu``; the likeliest to fail come first.
"""

import device_checks as checks
import pytest
from contracts import device as contract
from real_gpus import num_real_gpus

import distgrad as dg
from distgrad.autograd.samples import sample_cases

pytestmark = pytest.mark.gpu

CASES = list(sample_cases())
FIRST_RUN_HERE = [case for case in CASES if checks.is_in_other_libraries(case)]
SEEN_ON_THE_DOUBLE = [case for case in CASES if not checks.is_in_other_libraries(case)]
NEAR = {"rtol": 1e-7, "atol": 1e-8}


@pytest.mark.parametrize("name", contract.CHECKS)
def test_check(name):
    contract.CHECKS[name]()


@pytest.mark.parametrize("name", contract.PARAMETERS["steps"])
def test_steps(name):
    contract.steps(name)


@pytest.mark.parametrize("case", FIRST_RUN_HERE, ids=str)
def test_operation_of_other_libraries(case):
    if not num_real_gpus():
        pytest.skip("the double of a GPU has no cuFFT and no cuSOLVER")
    checks.check_same_as_on_the_cpu(case, dg.device("cuda"), **NEAR)


@pytest.mark.parametrize("name", contract.PARAMETERS["module"])
def test_module(name):
    contract.module(name)


@pytest.mark.parametrize("name", contract.PARAMETERS["loss"])
def test_loss(name):
    contract.loss(name)


@pytest.mark.parametrize("place", contract.PARAMETERS["optimizer"])
def test_optimizer(place):
    contract.optimizer(place)


@pytest.mark.parametrize("case", SEEN_ON_THE_DOUBLE, ids=str)
def test_operation(case):
    checks.check_same_as_on_the_cpu(case, dg.device("cuda"), **NEAR)
