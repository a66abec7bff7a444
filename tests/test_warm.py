"""Kernels are compiled in advance, found by everybody, and a job that compiles is no hang."""

import importlib
import os
import re
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest

from distgrad import warm
from distgrad.backend.kernels import ahead, cache
from distgrad.backend.kernels.cuda import binaries
from distgrad.backend.kernels.entries import find_entries, missing
from distgrad.backend.kernels.support import Entry
from distgrad.backend.kernels.table import jobs
from distgrad.errors import DeviceError, OptionError

ROOT = Path(__file__).parents[1]
TRAIN = """
import hashlib, sys
import numpy as np
import distgrad as dg
from distgrad.nn import functional as F
comm = dg.comm.init()
dg.manual_seed(0)
net = dg.nn.Sequential(dg.nn.Linear(64, 64), dg.nn.LayerNorm(64), dg.nn.GELU(), dg.nn.Linear(64, 10))
ddp = dg.parallel.DistributedDataParallel(net)
optimizer = dg.optim.AdamW(net.parameters())
for step in range(3):
    print("step", step, flush=True)
    rng = np.random.default_rng([comm.rank, step])
    optimizer.zero_grad()
    x, y = dg.asarray(rng.random((64, 64), "f")), dg.asarray(rng.integers(0, 10, 64))
    F.cross_entropy(ddp(x), y).backward()
    optimizer.step()
bits = b"".join(p.detach().numpy().tobytes() for p in net.parameters())
print("bits " + hashlib.sha256(bits).hexdigest())
"""
SLOW = """
import time
import numpy as np
import distgrad as dg
from distgrad.backend.kernels import cache
comm = dg.comm.init()
comm.barrier()
if comm.rank == 1:
    with cache.compiling("one"):
        time.sleep(12)
print("sum", comm.all_reduce(np.ones(4)).sum())
"""
DEAF = "from distgrad.backend.kernels import cache\ncache._count = lambda change: None\n"
COMPILING = r"distgrad: compiling \d+ kernels?, once on this machine \(about \d+ s\)"


def environment(cache_home, **variables):
    left_out = {"NUMBA_CACHE_DIR", "DISTGRAD_CACHE"}
    return {k: v for k, v in os.environ.items() if k not in left_out} | {
        "XDG_CACHE_HOME": str(cache_home),
        **variables,
    }


def command(*arguments, cache_home, **variables):
    return subprocess.run(
        [sys.executable, "-m", "distgrad", *map(str, arguments)],
        env=environment(cache_home, **variables),
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=400,
        check=False,
    )


@pytest.fixture
def script(tmp_path):
    file = tmp_path / "train.py"
    file.write_text(TRAIN)
    return file


@pytest.mark.timeout(900)
def test_a_script_is_warmed_by_a_step_and_its_job_compiles_nothing_and_has_the_same_bits(script, tmp_path):
    cold = command("run", "-n", 2, script, cache_home=tmp_path / "cold")
    assert cold.returncode == 0, cold.stdout + cold.stderr
    assert len(re.findall(COMPILING, cold.stderr)) >= 1, cold.stderr
    done = command("warm", script, cache_home=tmp_path / "warm")
    assert done.returncode == 0, done.stderr
    assert f"{script} was stopped after its first step; its kernels lie in {tmp_path / 'warm'}" in done.stdout
    assert "step 1" not in done.stdout
    warmed = command("run", "-n", 2, script, cache_home=tmp_path / "warm")
    assert warmed.returncode == 0, warmed.stderr
    assert "compiling" not in warmed.stderr
    assert re.findall(r"bits \w+", warmed.stdout) == re.findall(r"bits \w+", cold.stdout)
    assert warmed.stdout.count("bits ") == 2


@pytest.mark.timeout(200)
@pytest.mark.parametrize(("first", "code"), [("", 0), (DEAF, 1)], ids=["told", "not told"])
def test_a_job_that_compiles_is_no_hang(first, code, script, tmp_path):
    """Rank 1 compiles for 12 s, and rank 0 waits for it, under a limit of 5 s."""
    script.write_text(first + SLOW)
    done = command("run", "-n", 2, "--hang-after", 5, script, cache_home=tmp_path / "cache")
    assert (done.returncode != 0) == bool(code), done.stdout + done.stderr
    assert ("never arrived" in done.stderr) == bool(code), done.stderr  # the planted fault is found


def test_all_kernels_are_compiled_for_a_level_or_for_this_processor(tmp_path, monkeypatch):
    few = [("softmax.softmax", "f"), ("activation.sigmoid", "f")]
    monkeypatch.setattr(warm, "jobs", lambda: few)
    monkeypatch.setattr(cache, "SHARED", "activation.sigmoid")
    monkeypatch.setenv("DISTGRAD_CACHE", str(tmp_path))
    for function in (cache.cache_folder, cache._folders):
        function.cache_clear()
    try:
        for levels in (cache.levels()[:1], ()):
            assert "all kernels of 3 operations" in warm.warm_all(levels)
            assert missing(few, rare=True) == set()
            assert all(cache.is_compiled(*each) for each in few)
        assert "x86-64" in warm.warm_all(("x86-64-v3",))
    finally:
        for function in (cache.cache_folder, cache._folders):
            function.cache_clear()


def test_all_kernels_that_there_are_belong_to_what_is_warmed():
    jobs_ = [*jobs(), (cache.SHARED, "f")]
    warmed = {
        (entry.function._cache.name, types) for job in jobs_ for entry, types in find_entries(*job, True)
    }
    files = [file.stem for file in Path(cache.__file__).parent.glob("*.py") if file.stem != "service"]
    modules = [importlib.import_module(f"distgrad.backend.kernels.{stem}") for stem in files]
    there = {v.entry for module in modules for v in vars(module).values() if isinstance(_entry(v), Entry)}
    missing_ = {
        (each.function._cache.name, char)
        for each in there
        for char in each.dtypes
        if (each.function._cache.name, each.types(char)) not in warmed
    }
    assert len(there) > 60
    assert missing_ == set()


def _entry(value):
    return getattr(value, "entry", None)


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_warm_all_leaves_nothing_to_be_compiled(tmp_path):
    done = subprocess.run(
        [sys.executable, "-m", "distgrad", "warm", "--all"],
        env=environment(tmp_path),
        capture_output=True,
        text=True,
        check=True,
    )
    assert str(tmp_path) in done.stdout
    look = "from distgrad.backend.kernels import entries, table; "
    look += "print(len(entries.missing(table.jobs(), rare=True)))"
    found = subprocess.run(
        [sys.executable, "-c", look], env=environment(tmp_path), capture_output=True, text=True, check=True
    )
    assert found.stdout.strip() == "0"
    assert len(jobs()) > 50


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ([], "give --all or a script"),
        (["--all", __file__], "give --all or a script"),
        (["--level", "x86-64-v3", __file__], "--level goes with --all"),
        (["--all", "--level", "x86-64-v9"], "'x86-64-v9' is not one of"),
        (["--all", "--level", "sm_90"], "--level sm_90 does not go with --device cpu"),
        (["--device", "cuda", "--level", "x86-64-v3"], "--level x86-64-v3 does not go with --device cuda"),
        (["--device", "cuda", __file__], "leave the script out"),
    ],
)
def test_a_wrong_command_is_one_line(arguments, said, tmp_path):
    done = command("warm", *arguments, cache_home=tmp_path)
    assert done.returncode == 2
    assert said in done.stderr
    assert "Traceback" not in done.stderr


USER = """
import os, sys
import numpy as np
import distgrad as dg
from distgrad.backend.kernels import cache, softmax
user = int(sys.argv[1])
if user:  # who may perhaps not read this Python, all of which must be loaded by now
    dg.softmax(dg.asarray(np.ones((64, 64))))
    dg.silu(dg.asarray(np.ones((64, 64), np.float32)))
    for function in (cache.cache_folder, cache._folders):
        function.cache_clear()
    os.setresgid(user, user, user)
    os.setresuid(user, user, user)
dg.softmax(dg.asarray(np.ones((64, 64), np.float32)))
print(sum(softmax._softmax.stats.cache_misses.values()), cache.cache_folder())
"""


@pytest.fixture
def public():
    """A folder that all users may look into, as they may not into pytest's own."""
    with tempfile.TemporaryDirectory() as folder:
        os.chmod(folder, 0o755)
        yield Path(folder)


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can be several users")
def test_a_folder_that_can_only_be_read_serves_several_users(public):
    folder = public
    shared, found = folder / "shared", []
    for user in (0, 54321, 54322):
        home = folder / f"home{user}"
        home.mkdir()
        os.chown(home, user, user)
        done = subprocess.run(
            [sys.executable, "-c", USER, str(user)],
            env=environment(home, DISTGRAD_CACHE=str(shared)),
            cwd=ROOT,
            capture_output=True,
            text=True,
            timeout=100,
            check=False,
        )
        assert done.returncode == 0, done.stderr
        misses, _, own = done.stdout.strip().partition(" ")
        found.append((int(misses), own == str(shared)))
    assert found == [(1, True), (0, False), (0, False)]  # root fills it, and the others only read
    assert {path.stat().st_uid for path in shared.rglob("*")} == {0}


def test_compiling_nothing_is_done_at_once():
    ahead.compile_now([])


@pytest.mark.parametrize(
    ("gpus", "level"),
    [
        ([(8, 0)], "sm_80"),
        ([(8, 9), (8, 6)], "sm_80"),
        ([(9, 0)], "sm_90"),
        ([(10, 3)], "sm_100"),
        ([(12, 1)], "sm_120"),
        ([(7, 5)], None),
        ([(11, 0)], None),
        ([(8, 0), (9, 0)], None),
        ([], None),
    ],
)
def test_what_all_gpus_run_is_taken(gpus, level):
    assert binaries.level_of(gpus) == level


@pytest.mark.timeout(120)
def test_kernels_of_gpus_are_compiled_without_one_and_stay(tmp_path, monkeypatch):
    pytest.importorskip("cupy", reason="CuPy, whose NVRTC compiles, is not installed")
    real = binaries.source
    monkeypatch.setattr(binaries, "families", lambda: ["linear"])
    monkeypatch.setattr(binaries, "TYPES", "f")
    monkeypatch.setenv("DISTGRAD_CACHE", str(tmp_path))
    cached = (cache.cache_folder, cache._folders, binaries._folders)
    for function in cached:
        function.cache_clear()
    try:
        assert f"GPUs of sm_80 lie in {tmp_path}, 1 sources compiled" in warm.warm_gpus(("sm_80",))
        assert ", 3 sources compiled" in warm.warm_gpus()  # the other three levels
        files = sorted(path.name.rsplit(".", 2)[0] for path in tmp_path.glob("cuda-*/*"))
        assert files == ["linear-f.sm_100", "linear-f.sm_120", "linear-f.sm_80", "linear-f.sm_90"]
        for path in tmp_path.glob("cuda-*/*"):
            assert path.read_bytes().startswith(b"\x7fELF")
        (folder,) = tmp_path.iterdir()
        (folder / "linear-f.sm_80.0.cubin").mkdir()  # named by no digest: passed over
        monkeypatch.setattr(binaries, "source", lambda family, char: "no CUDA C")
        binaries._folders.cache_clear()
        with pytest.raises(DeviceError, match=r"NVRTC does not compile linear for sm_90(?s:.*)error"):
            warm.warm_gpus(("sm_90",))
        monkeypatch.setattr(cache, "make", lambda folder: (tmp_path / "full" / "x").write_text(""))
        monkeypatch.setattr(binaries, "source", real)
        for path in folder.glob("*.sm_90.*"):
            path.unlink()
        binaries._folders.cache_clear()
        with pytest.raises(OptionError, match=r"cuda-.*No such file.*set DISTGRAD_CACHE"):
            warm.warm_gpus(("sm_90",))
    except DeviceError as error:
        if "does not load" in str(error):
            pytest.skip(str(error))
        raise
    finally:
        for function in cached:
            function.cache_clear()
