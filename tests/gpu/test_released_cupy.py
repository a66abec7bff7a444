"""Rung 4, training: the CuPy backend on the released CuPy, its kernels run by a test double of a GPU.

Results and gradients of both orders, modules, losses, rules and whole steps are held against the CPU's.
"""

import device_checks as checks
import pytest
from contracts import device as contract
from gpu_double.worlds import num_host_waits

import distgrad as dg
from distgrad.autograd.samples import sample_cases

pytestmark = pytest.mark.gpu_double(timeout=300)

CASES = [case for case in sample_cases() if not checks.is_in_other_libraries(case)]


@pytest.mark.parametrize("case", CASES, ids=str)
def test_operation(case):
    checks.check_same_as_on_the_cpu(case, dg.device("cuda:0"), rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("case", [case for case in CASES if case.record.name not in checks.WAITING], ids=str)
def test_operation_does_not_wait(case):
    """Not even inside CuPy, where a function may look at its result."""
    here, before = checks.Placed(case, dg.device("cuda:0")), num_host_waits()
    here.run()
    assert num_host_waits() == before


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
