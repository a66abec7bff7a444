"""A communicator is added as CONTRIBUTING.md says, and passes the contracts; half of one is an error."""

import importlib.util
import os
import sys
import types
from pathlib import Path

import pytest
from contracts import communicator

from distgrad import comm
from distgrad.comm import registry
from distgrad.errors import CommError

ADDED = Path(__file__).with_name("folder_communicator.py")


@pytest.fixture
def add(monkeypatch):
    """Put a module where a backend's file would be, and its name into BACKENDS."""

    def put(name: str, module: types.ModuleType | None) -> None:
        monkeypatch.setattr(registry, "BACKENDS", (*registry.BACKENDS, name))
        if module is not None:
            monkeypatch.setitem(sys.modules, f"distgrad.comm.{name}", module)

    yield put
    comm.finalize()


def load() -> types.ModuleType:
    spec = importlib.util.spec_from_file_location("folder_communicator", ADDED)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def check_contracts(add, monkeypatch, size: int) -> None:
    add("folder", load())
    folder = Path(os.environ["DISTGRAD_TEST_RANKS"]) / "meeting"  # the marker's own, cleared away with it
    folder.mkdir(exist_ok=True)
    monkeypatch.setenv("MEETING_FOLDER", str(folder))
    world = comm.init("folder", timeout_s=30)
    assert (world.backend, world.size) == ("folder", size)
    ran = communicator.run_all(world)
    assert sum(ran.values()) > 20


@pytest.mark.ranks(1, backend="shm")
def test_a_communicator_that_is_added_passes_the_contracts_alone(add, monkeypatch):
    check_contracts(add, monkeypatch, 1)


@pytest.mark.ranks(3, backend="shm", timeout=110)
def test_a_communicator_that_is_added_passes_the_contracts_at_3_ranks(add, monkeypatch):
    check_contracts(add, monkeypatch, 3)


def test_a_name_without_a_module_is_an_error(add):
    add("ring", None)
    with pytest.raises(
        CommError, match=r"connect\(timeout_s\) of distgrad\.comm\.ring, but there is no such module"
    ):
        comm.init("ring")
    assert not comm.is_initialized()


def test_a_module_that_cannot_connect_is_an_error(add):
    add("ring", types.ModuleType("distgrad.comm.ring"))
    with pytest.raises(CommError, match="but the module has no such function; write it, as CONTRIBUTING"):
        comm.init("ring")


def test_what_a_module_lacks_itself_is_told_as_it_is(add, monkeypatch, tmp_path):
    (tmp_path / "ring.py").write_text("import a_package_that_is_not_there")
    monkeypatch.setattr("distgrad.comm.__path__", [*comm.__path__, str(tmp_path)])
    add("ring", None)
    with pytest.raises(ModuleNotFoundError, match="a_package_that_is_not_there"):
        comm.init("ring")
