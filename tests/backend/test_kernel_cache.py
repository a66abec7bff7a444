"""Where compiled kernels lie, who compiles them, and who waits for whom."""

import ast
import fcntl
import gc
import os
import shutil
import subprocess
import sys
import time
from pathlib import Path

import pytest

from distgrad.backend.kernels import cache
from distgrad.backend.kernels.cache import compiling

ROOT = Path(__file__).parents[2]
PROGRAM = """
import numpy as np
import distgrad as dg
dg.softmax(dg.asarray(np.ones((64, 64), np.float32)))
from distgrad.backend.kernels import cache, softmax
print(sum(softmax._softmax.stats.cache_misses.values()), cache.cache_folder())
"""


def start(first="", cwd=ROOT, **variables):
    environment = {key: value for key, value in os.environ.items() if key != "NUMBA_CACHE_DIR"}
    return subprocess.Popen(
        [sys.executable, "-c", first + PROGRAM],
        env=environment | variables,
        cwd=cwd,
        stdout=subprocess.PIPE,
        text=True,
    )


def answer(process):
    """How many kernels a process compiled, and its folder for them."""
    misses, _, folder = process.communicate(timeout=100)[0].strip().partition(" ")
    assert process.returncode == 0
    return int(misses), folder


def test_a_cache_folder_that_cannot_be_written_costs_no_more_than_compiling():
    program = """
import os
import numpy as np
os.access = lambda path, mode: False   # a read-only home, and no folder for temporary files
import distgrad as dg
from distgrad.backend.kernels.cache import cache_folder
y = dg.softmax(dg.asarray(np.ones((64, 64), np.float32)))
assert cache_folder() is None
assert float(y.sum()) == 64.0
"""
    subprocess.run([sys.executable, "-c", program], check=True, timeout=100)


def test_ranks_of_a_host_compile_a_kernel_once(tmp_path):
    ranks = [start(XDG_CACHE_HOME=str(tmp_path)) for _ in range(3)]
    assert sorted(answer(rank)[0] for rank in ranks) == [0, 0, 1]


def test_without_a_home_that_can_be_written_kernels_are_kept_with_the_temporary_files(tmp_path):
    (tmp_path / "home").write_text("a file is no folder, and root may write in every folder")
    variables = {"XDG_CACHE_HOME": str(tmp_path / "home"), "TMPDIR": str(tmp_path)}
    folder = str(tmp_path / f"distgrad-{os.getuid()}")
    assert [answer(start(**variables)) for _ in range(2)] == [(1, folder), (0, folder)]


def test_a_folder_behind_another_users_link_is_not_used(tmp_path):
    (tmp_path / "mine").mkdir()
    (tmp_path / "link").symlink_to("mine")
    assert cache._own_folder(tmp_path / "link")
    if os.geteuid() != 0:
        pytest.skip("only root can give a link to another user")
    os.lchown(tmp_path / "link", 54321, 54321)
    assert not cache._own_folder(tmp_path / "link")
    assert cache._own_folder(tmp_path / "mine")


def test_hosts_that_share_a_home_share_its_kernels(tmp_path):
    hosts = [tmp_path / "host0", tmp_path / "host1"]  # each with temporary files, and so locks, of its own
    for host in hosts:
        host.mkdir()
    both = [start(XDG_CACHE_HOME=str(tmp_path), TMPDIR=str(host)) for host in hosts]
    assert all(answer(process)[0] <= 1 for process in both)  # they may not see each other in time
    assert answer(start(XDG_CACHE_HOME=str(tmp_path), TMPDIR=str(hosts[1])))[0] == 0


def test_a_kernel_does_not_wait_for_others_that_are_being_compiled(tmp_path, monkeypatch):
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    with compiling("one"), compiling("two"):
        (held,) = (tmp_path / f"distgrad-{os.getuid()}").glob("compiling one *")
        with held.open("w") as file, pytest.raises(BlockingIOError):
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)


def test_another_installation_is_not_waited_for(tmp_path, monkeypatch):
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    with compiling("one"):
        monkeypatch.setattr(cache, "_HERE", "elsewhere")
        began_s = time.monotonic()
        with compiling("one"):
            assert time.monotonic() - began_s < cache.LOCK_TIMEOUT_S / 2


def test_nobody_waits_for_ever_for_whoever_holds_the_lock(tmp_path, monkeypatch):
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    monkeypatch.setattr(cache, "LOCK_TIMEOUT_S", 0.3)
    with compiling("one"):  # another job's rank, stopped in a debugger
        began_s = time.monotonic()
        with compiling("one"):
            assert 0.3 <= time.monotonic() - began_s < 5


def test_a_full_disk_costs_no_more_than_compiling(tmp_path):
    full = "import resource; resource.setrlimit(resource.RLIMIT_FSIZE, (512, 512))"  # EFBIG for ENOSPC
    assert answer(start(full, XDG_CACHE_HOME=str(tmp_path)))[0] == 1
    assert answer(start(XDG_CACHE_HOME=str(tmp_path)))[0] == 1  # nothing half-written is taken for a kernel


def test_a_damaged_cache_costs_no_more_than_compiling(tmp_path):
    assert answer(start(XDG_CACHE_HOME=str(tmp_path)))[0] == 1
    damaged = [path for path in tmp_path.rglob("softmax._softmax.*") if path.is_file()]
    assert damaged
    for path in damaged:
        path.write_bytes(path.read_bytes()[:100])
    assert answer(start(XDG_CACHE_HOME=str(tmp_path)))[0] == 1


def test_the_collector_rests_while_a_kernel_is_compiled_and_no_longer():
    with compiling("one"):
        assert not gc.isenabled()
        with compiling("two"):
            pass
        assert not gc.isenabled()
    assert gc.isenabled()


ATTENTION = """
x = [dg.asarray(rng.standard_normal((2, 2, 128, 32), dtype=np.float32)).requires_grad_() for _ in "qkv"]
y = dg.scaled_dot_product_attention(*x, is_causal=True)
y.sum().backward()
show(y.detach(), *(each.grad for each in x))
"""
STEPS = """
from distgrad.scale.bench.peers import distgrad_step
for name in ("cnn", "gpt", "lstm", "resnet20"):
    step = distgrad_step(name, 1)
    step()
    show(step().detach())
"""


@pytest.mark.parametrize(
    "program", [ATTENTION, pytest.param(STEPS, marks=(pytest.mark.slow, pytest.mark.timeout(600)))]
)
def test_kernels_that_were_just_compiled_and_kernels_of_the_cache_give_the_same_bits(program, tmp_path):
    head = """
import hashlib
import numpy as np
import distgrad as dg
dg.set_num_threads(1)
rng = np.random.default_rng(0)
def show(*tensors):
    print([hashlib.sha256(np.ascontiguousarray(each.numpy()).tobytes()).hexdigest() for each in tensors])
"""
    environment = os.environ | {"NUMBA_CACHE_DIR": str(tmp_path)}
    command = [sys.executable, "-c", head + program]
    cold, warm = (
        subprocess.run(
            command, env=environment, cwd=ROOT, check=True, stdout=subprocess.PIPE, text=True
        ).stdout
        for _ in range(2)
    )
    assert cold == warm
    assert cold.count("[")


def test_a_folder_that_others_have_filled_is_only_read(tmp_path):
    shared, own = tmp_path / "shared", tmp_path / "own"
    assert answer(start(DISTGRAD_CACHE=str(shared), XDG_CACHE_HOME=str(own))) == (1, str(shared))
    assert not own.exists()
    filled = sorted(shared.rglob("*"))
    read_only = "import os; access = os.access\n"
    read_only += f"os.access = lambda path, mode: {str(shared)!r} not in str(path) and access(path, mode)"
    misses, folder = answer(start(read_only, DISTGRAD_CACHE=str(shared), XDG_CACHE_HOME=str(own)))
    assert misses == 0
    assert folder == str(own / "distgrad" / "kernels")
    assert sorted(shared.rglob("*")) == filled


def test_every_function_that_python_calls_says_what_it_is_compiled_for():
    """One that kernels call has no way in from Python; and what is compiled ahead is what is called."""
    import importlib
    import types

    from distgrad.backend.kernels.entries import find_entries
    from distgrad.backend.kernels.table import jobs

    for name, char in jobs():
        module = importlib.import_module(f"distgrad.backend.kernels.{name.partition('.')[0]}")
        compiled = [getattr(value, "py_func", None) for value in vars(module).values()]
        for value in vars(module).values():
            if isinstance(value, types.FunctionType) and value.__module__ == module.__name__:
                if value in compiled:  # Python calls what is made of it
                    continue
                called = [getattr(module, each, None) for each in value.__code__.co_names]
                assert all(hasattr(each, "entry") for each in called if hasattr(each, "targetoptions")), value
        for entry, arguments in find_entries(name, char, rare=True):
            assert len(arguments) == entry.function.py_func.__code__.co_argcount, entry


def test_what_the_host_has_no_kernel_for_is_not_asked_for(monkeypatch):
    from distgrad.backend.kernels import ahead, table
    from distgrad.backend.kernels.entries import find_entries

    asked = []
    monkeypatch.setattr(
        table, "request", lambda kernels, char: asked.extend((name, char) for name in kernels)
    )
    for char in "fd":
        table.expect(table.TABLE, char)
    assert ("linear.linear", "f") in asked
    assert not any(name.startswith("linear.linear_gradient") for name, _ in asked)
    assert all(isinstance(find_entries(name, char), list) for name, char in [*asked, *ahead.requested()])


# -- which code an edit makes void


def imported(module):
    """The modules of kernels that a module imports, by its syntax tree."""
    tree = ast.parse((cache._SOURCES / f"{module}.py").read_text())
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom):
            assert not node.level, "imports are written in full, as the cache reads them"
            if node.module == "distgrad.backend.kernels":
                yield from (name.name for name in node.names)
            elif node.module.startswith("distgrad.backend.kernels."):
                yield node.module.split(".")[3]
        elif isinstance(node, ast.Import):
            assert not any(name.name.startswith("distgrad") for name in node.names)


def test_the_cache_finds_what_a_module_imports():
    for path in cache._SOURCES.glob("*.py"):
        assert cache._imports(path.stem) == set(imported(path.stem)) - {"cache"}, path
    assert cache.closure("linear") == ["linear", "product", "support"]


def test_imports_in_parentheses_and_functions_are_found(tmp_path, monkeypatch):
    monkeypatch.setattr(cache, "_SOURCES", tmp_path)
    (tmp_path / "one.py").write_text(
        "from distgrad.backend.kernels import (\n    two,\n    three,\n)\n"
        "from distgrad.backend.threads import x\n"
        "def f():\n    from distgrad.backend.kernels.four import five\n"
    )
    assert cache._imports.__wrapped__("one") == {"two", "three", "four"}


def test_compiled_code_takes_nothing_of_the_package_from_outside_the_folder():
    """Its source is in no digest: a change there would go on running as it was compiled before."""
    import importlib

    for path in cache._SOURCES.glob("*.py"):
        outside = {
            name.asname or name.name
            for node in ast.walk(ast.parse(path.read_text()))
            if isinstance(node, ast.ImportFrom) and f"{node.module}.".startswith("distgrad.")
            if not f"{node.module}.".startswith("distgrad.backend.kernels.")
            for name in node.names
        }
        for value in vars(importlib.import_module(f"distgrad.backend.kernels.{path.stem}")).values():
            if hasattr(value, "targetoptions"):
                assert not outside & set(value.py_func.__code__.co_names), (path.stem, value)


def test_an_edit_compiles_anew_what_it_may_change_and_nothing_else(tmp_path):
    shutil.copytree(ROOT / "distgrad", tmp_path / "distgrad", ignore=shutil.ignore_patterns("__pycache__"))
    folder = tmp_path / "distgrad" / "backend" / "kernels"
    misses = []
    for name in ("softmax", "conv", "cache", "support", "softmax"):
        misses.append(answer(start(cwd=tmp_path, XDG_CACHE_HOME=str(tmp_path), PYTHONPATH=str(tmp_path)))[0])
        with (folder / f"{name}.py").open("a") as file:
            file.write("# edited\n")
    assert misses == [1, 1, 0, 0, 1]
    versions = [path.name for path in (tmp_path / "distgrad" / "kernels").glob("softmax-*")]
    assert len(versions) == 3


@pytest.mark.parametrize("named", [False, True])
def test_versions_that_nobody_used_for_a_month_go_where_the_user_named_no_folder(
    named, tmp_path, monkeypatch
):
    monkeypatch.setattr(cache, "_named_folders", lambda: [tmp_path] if named else [])
    old, new, foreign = (tmp_path / name for name in ("conv-" + "0" * 16, "conv-" + "1" * 16, "conv-mine"))
    for each in (old, new, foreign):
        each.mkdir()
        (each / "file").write_bytes(b"")
        os.utime(each, times=(0, 0) if each is not new else None)
    cache.make(tmp_path / ("conv-" + "2" * 16))
    assert old.exists() == named
    assert new.exists()
    assert foreign.exists()


def test_the_use_of_a_version_is_noted(tmp_path, monkeypatch):
    monkeypatch.setattr(cache, "cache_folder", lambda: tmp_path)
    folder = cache._folders.__wrapped__("conv")[-1]
    folder.mkdir()
    os.utime(folder, times=(0, 0))
    assert cache._folders.__wrapped__("conv")[-1] == folder
    assert time.time() - folder.stat().st_mtime < 100


def test_kernels_that_were_compiled_ahead_for_a_level_of_processors_are_taken(tmp_path):
    if not cache.levels():
        pytest.skip("this processor is of no level of x86-64 from v3 on")
    shared, own = tmp_path / "shared", tmp_path / "own"
    ahead = f"""
from distgrad.backend.kernels import ahead
ahead.compile_now([("softmax.softmax", "f")], level={cache.levels()[0]!r})
"""
    variables = os.environ | {"DISTGRAD_CACHE": str(shared), "XDG_CACHE_HOME": str(own)}
    subprocess.run([sys.executable, "-c", ahead], env=variables, check=True, timeout=100)
    made = {path.name.rpartition(".")[0] for path in shared.rglob("softmax.*") if path.is_file()}
    assert any("x86-64" in name for name in made), made
    assert answer(start(DISTGRAD_CACHE=str(shared), XDG_CACHE_HOME=str(own)))[0] == 0
    named = {"NUMBA_CPU_NAME": "x86-64", "NUMBA_CPU_FEATURES": ""}  # whoever names a processor gets its code
    assert answer(start(DISTGRAD_CACHE=str(shared), XDG_CACHE_HOME=str(own), **named))[0] == 1


def test_kernels_that_came_with_the_package_come_before_those_compiled_here(tmp_path, monkeypatch):
    monkeypatch.setenv("DISTGRAD_CACHE", str(tmp_path / "shared"))
    monkeypatch.setattr(cache, "SHIPPED", tmp_path / "shipped")
    (tmp_path / "shared").mkdir()
    (tmp_path / "shipped").mkdir()
    for function in (cache.cache_folder, cache._folders):
        function.cache_clear()
    try:
        assert [path.parent.name for path in cache._folders("softmax")] == ["shipped", "shared"]
    finally:
        for function in (cache.cache_folder, cache._folders):
            function.cache_clear()
