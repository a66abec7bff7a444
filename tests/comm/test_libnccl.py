"""Real NCCL without a GPU: its library is found, both bindings speak to it, and it fails in words.

Where NCCL, CuPy or pynccl is not installed the tests that call it are skipped, with the reason.
"""

import ctypes
import importlib.util
import subprocess
import sys

import pytest

import distgrad as dg
from distgrad import env
from distgrad.comm import libnccl
from distgrad.errors import CommError, DeviceError, MissingDependencyError

MODULES = {"cupy": "cupy", "pynccl": "pynccl"}


def has_gpu() -> bool:
    try:
        return ctypes.CDLL("libcuda.so.1").cuInit(0) == 0
    except OSError:
        return False


def open_or_skip(name: str) -> libnccl.Provider:
    if importlib.util.find_spec(MODULES[name]) is None:
        pytest.skip(f"rung 7: the binding {name} is not installed, so that nothing was checked")
    try:
        return libnccl.open_provider(name)
    except MissingDependencyError as error:
        pytest.skip(f"rung 7: {error}; so that nothing was checked")


@pytest.mark.parametrize("name", libnccl.PROVIDERS)
def test_the_bindings_agree_with_the_library(name):
    provider = open_or_skip(name)
    found = ctypes.c_int()
    assert ctypes.CDLL(libnccl.find_library()).ncclGetVersion(ctypes.byref(found)) == 0
    assert provider.version() == found.value >= 21801


@pytest.mark.parametrize("name", libnccl.PROVIDERS)
def test_unique_ids_are_whole_and_differ(name):
    provider = open_or_skip(name)
    ids = {provider.make_id() for _ in range(3)}
    assert len(ids) == 3
    assert {len(each) for each in ids} == {128}


@pytest.mark.parametrize("name", libnccl.PROVIDERS)
def test_a_start_without_a_gpu_fails_in_words(name):
    provider = open_or_skip(name)
    if has_gpu():
        pytest.skip("rung 7 is for machines without a GPU; here one answers")
    with pytest.raises(Exception, match="cuda error") as caught:
        provider.connect(1, provider.make_id(), 0)
    assert type(caught.value).__name__ in ("NcclError", "CommError")


def test_errors_of_the_table_are_described():
    provider = open_or_skip("pynccl")
    assert "invalid argument" in provider._functions.describe(4)
    with pytest.raises(CommError, match=r"ncclGetVersion: invalid argument .*NCCL error 4"):
        provider._functions.ncclGetVersion(None)
    with pytest.raises(CommError, match="no ncclCommSplit; use the provider 'cupy'"):
        _ = provider._functions.ncclCommSplit


def test_the_table_is_repaired():
    pytest.importorskip("pynccl", reason="the repairs are of pynccl's own table, which is not installed")
    binding = importlib.import_module("pynccl.binding")
    table = vars(binding.libnccl)
    assert ctypes.sizeof(binding.ncclUniqueId) == 512, "pynccl has changed: is the repair still needed?"
    for name in ("ncclGetUniqueId", "ncclCommInitRank"):
        kinds = [getattr(kind, "_type_", kind) for kind in libnccl._repair(name, table[name].argtypes)]
        assert [ctypes.sizeof(kind) for kind in kinds if getattr(kind, "_fields_", None)] == [128]
    for name, place in libnccl._COUNTS.items():
        assert table[name].argtypes[place] is ctypes.c_int, name
        assert libnccl._repair(name, table[name].argtypes)[place] is ctypes.c_size_t, name


def test_an_unknown_provider_is_refused():
    with pytest.raises(CommError, match="must be one of cupy, pynccl, got 'mscclpp'"):
        libnccl.open_provider("mscclpp")
    assert env.read({"DISTGRAD_NCCL_PROVIDER": "pynccl"}).nccl_provider == "pynccl"


@pytest.mark.parametrize("asked", [{"backend": "nccl"}, {"device": "cuda"}, {"device": "cuda:0"}])
def test_asked_for_without_a_gpu_it_says_what_to_do(asked):
    if has_gpu():
        pytest.skip("this is what a machine without a GPU says; here one answers")
    with pytest.raises(DeviceError, match=r"pip install \"distgrad\[cuda13\]\"|no GPU"):
        dg.comm.init(**asked)
    assert not dg.comm.is_initialized()


def test_a_gpu_needs_the_backend_that_serves_it():
    with pytest.raises(CommError, match="device 'cuda' needs backend 'nccl', got 'single'"):
        dg.comm.init("single", device="cuda")
    assert dg.comm.init(device="cpu").backend == "single"


def test_without_the_library_the_install_command_is_named():
    """In a process of its own, where the loader and Python find no NCCL."""
    code = """
import ctypes, importlib.util
load = ctypes.CDLL
def without(name, *args, **options):
    if "nccl" in str(name):
        raise OSError(name)
    return load(name, *args, **options)
ctypes.CDLL, importlib.util.find_spec = without, lambda name: None
from distgrad.comm.libnccl import find_library
try:
    find_library()
except ImportError as error:
    print(error)
"""
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=True)
    assert (
        'neither the wheel nvidia-nccl nor the system has; run: pip install "distgrad[cuda13]"' in run.stdout
    )
