"""cuDNN plans for an H200 what networks need, on a machine that has none, within a bar of workspace."""

import inspect
import json
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

HERE = Path(__file__).parent


def missing():
    """Why nothing can be planned here; None if it can."""
    import importlib.metadata as metadata

    for package in ("nvidia-cudnn-frontend", "nvidia-cudnn-cu13"):
        try:
            metadata.version(package)
        except metadata.PackageNotFoundError:
            return f'{package} is not installed; pip install "distgrad[cuda13,cudnn]"'
    return None if shutil.which("gcc") else "gcc is not installed, which compiles a driver without a device"


pytestmark = pytest.mark.skipif(missing() is not None, reason=missing() or "")


def plans(folder, *names):
    """What is planned for networks, in a process that has the driver without a device."""
    libcuda = folder / "libcuda.so.1"
    source = str(HERE / "libcuda.c")
    command = ["gcc", "-shared", "-fPIC", "-w", "-Wl,-soname,libcuda.so.1", "-o", str(libcuda), source]
    subprocess.run(command, check=True, timeout=60)
    command = [sys.executable, str(HERE / "cudnn_plans.py"), str(libcuda), str(folder), *names]
    done = subprocess.run(command, capture_output=True, text=True, timeout=600, check=False)
    assert done.returncode == 0, done.stderr[-2000:]
    return json.loads(done.stdout.splitlines()[-1])["plans"]


def check(found):
    for plan in found:
        assert plan["workspace"] is not None, f"no engine: {plan}"
        assert plan["workspace"] <= plan["most"], plan
        assert plan["loaded"], plan


def test_a_few_convolutions_are_planned_and_loaded_again(tmp_path):
    check(plans(tmp_path, "few"))


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_all_of_resnet_50_is_planned(tmp_path):
    found = plans(tmp_path, "resnet50", "odd")
    check(found)
    assert len(found) > 250


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_attention_of_gpts_is_planned(tmp_path):
    found = plans(tmp_path, "gpt")
    check(found)
    assert len(found) == 16


def test_the_frontend_has_the_calls_that_are_made_and_the_double_has_no_others():
    cudnn = pytest.importorskip("cudnn")
    from gpu_double import cudnn_double

    for library in (cudnn, cudnn_double):
        graph = library.pygraph
        inspect.signature(graph.execute).bind(None, {1: 2}, 0, handle=None)
        inspect.signature(graph.tensor).bind(None, dim=[1], stride=[1], data_type=None, uid=1)
        inspect.signature(library.set_stream).bind(handle=None, stream=0)
        inspect.signature(library.create_handle).bind()
        for name in (
            "conv_fprop",
            "conv_dgrad",
            "conv_wgrad",
            "bias",
            "sdpa",
            "sdpa_backward",
            "deserialize",
            "serialize",
        ):
            assert callable(getattr(graph, name))
    for enumeration in ("data_type", "heur_mode", "build_plan_policy", "numerical_note"):
        known = getattr(cudnn, enumeration).__members__
        assert {*getattr(cudnn_double, enumeration).__members__} <= {*known}
    ours = {name for name in vars(cudnn_double.pygraph) if not name.startswith("_")}
    assert all(hasattr(cudnn.pygraph, name) for name in ours)
