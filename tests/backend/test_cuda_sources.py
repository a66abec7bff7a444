"""Every CUDA source of the package goes through NVIDIA's compilers, which takes no GPU."""

import ast
import ctypes
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from distgrad.backend.kernels.cuda.source import TYPES, _text, families, kernel_names, source
from distgrad.backend.kernels.rules import RULES
from distgrad.backend.kernels.table import TABLE

ROOT = Path(__file__).parents[2]
FOLDER = ROOT / "distgrad" / "backend" / "kernels" / "cuda"
ARCHITECTURES = (80, 90, 100, 120)


@pytest.fixture(scope="module")
def nvrtc():
    """``compile(source, architecture)``, which raises with the compiler's words."""
    pytest.importorskip("cupy", reason="CuPy is not installed: NO CUDA SOURCE IS COMPILED")
    from cupy.cuda import compiler

    load_nvrtc()

    def compile_source(text, architecture):
        options = (f"-arch=sm_{architecture}", "-ftz=true")  # as CuPy has it
        program = compiler._NVRTCProgram(text, "kernel.cu", method="cubin")
        return program.compile(options)[0]

    try:
        compile_source(EMPTY, 90)
    except (ImportError, OSError, RuntimeError) as error:
        pytest.skip(f"NVRTC cannot be loaded: NO CUDA SOURCE IS COMPILED ({error})")
    return compile_source


EMPTY = 'extern "C" __global__ void empty() {}\n'


def load_nvrtc():
    """Load the wheel's library where CuPy may not look: in any folder that Python takes packages from."""
    for folder in map(Path, sys.path):
        libraries = sorted(
            folder.glob("nvidia/*/lib/libnvrtc*.so.1[23]*"), key=lambda path: "builtins" not in path.name
        )
        for path in libraries:
            if ".alt." not in path.name:
                ctypes.CDLL(str(path), ctypes.RTLD_GLOBAL)
        if libraries:
            return


@pytest.mark.parametrize("char", TYPES)
@pytest.mark.parametrize("family", families())
def test_nvrtc_takes_every_source_for_every_dtype_and_architecture(family, char, nvrtc):
    for architecture in ARCHITECTURES:
        binary = nvrtc(source(family, char), architecture)
        for name in kernel_names(family):
            assert name.encode() in binary, (architecture, name)


@pytest.mark.slow
@pytest.mark.parametrize("family", families())
def test_nvcc_takes_every_file_as_it_stands(family, tmp_path):
    nvcc = shutil.which("nvcc")
    if nvcc is None:
        pytest.skip("nvcc is not installed: no CUDA source is compiled by it")
    file = FOLDER / f"{family}.cu"
    if not file.exists():  # made of functions of one element
        file = tmp_path / file.name
        file.write_text(_text(file.name))
    for char, name in TYPES.items():
        command = [nvcc, "--cubin", "-arch=sm_90", "-Werror=all-warnings", f"-DSTORAGE={name}"]
        command += ["-I", str(FOLDER)]
        done = subprocess.run(
            [*command, "-o", str(tmp_path / f"{char}.cubin"), str(file)],
            capture_output=True, text=True, timeout=300, check=False,
        )  # fmt: skip
        assert done.returncode == 0, done.stdout + done.stderr


@pytest.mark.parametrize(("planted", "message"), [
    ("store(y + i, &v);", "no instance of overloaded function"),
    ("store(y + i, v;", "expected a"),
    ("sotre(y + i, v);", 'identifier "sotre" is undefined'),
], ids=["type", "syntax", "name"])  # fmt: skip
def test_a_planted_fault_is_caught(planted, message, nvrtc):
    from cupy.cuda.compiler import CompileException

    good = source("linear", "e") + (
        "KERNEL planted(i64 n, const T* x, T* y) { FOR_EACH(i, n) { A v = widen(x[i]); store(y + i, v); } }"
    )
    assert b"planted" in nvrtc(good, 90)
    for char in TYPES:
        text = source("linear", char) + good.split("\n")[-1].replace("store(y + i, v);", planted)
        with pytest.raises(CompileException, match=message):
            nvrtc(text, 90)


def widest_accesses(text):
    """The kernels that load, and those that store, 16 bytes by one instruction."""
    from cupy.cuda import compiler

    program = compiler._NVRTCProgram(text, "kernel.cu", method="ptx")
    ptx = program.compile(("-arch=compute_90", "-ftz=true"))[0]
    ptx = ptx.decode() if isinstance(ptx, bytes) else ptx
    entries = {part.split("(")[0].strip(): part for part in ptx.split(".visible .entry ")[1:]}
    wide = r"\.global\S*\.(v4\.[fbu]32|v2\.[fbu]64)"
    return tuple(
        {name for name, body in entries.items() if re.search(kind + wide, body)} for kind in ("ld", "st")
    )


@pytest.mark.parametrize("char", TYPES)
def test_functions_of_an_element_move_16_bytes_at_a_time(char, nvrtc):
    kernels = {*kernel_names("activation")}
    single = "KERNEL single(i64 n, const T* x, T* y) { FOR_EACH(i, n) store(y + i, -widen(x[i])); }\n"
    assert widest_accesses(source("activation", char) + single) == (kernels, kernels)


# -- that none is forgotten


def started(text, path):
    """The (family, kernel) pairs of a launcher's calls, as far as they are written out."""
    pairs = set()
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.Call) and re.search(r"^(launch|over_\w+)$", ast.unparse(node.func)):
            family, name = (
                ast.literal_eval(arg) if isinstance(arg, ast.Constant) else None for arg in node.args[:2]
            )
            pairs.add((family or path.stem, name))
    return pairs


def test_every_kernel_is_started_by_a_launcher_and_every_launch_starts_a_kernel():
    defined = {(family, name) for family in families() for name in kernel_names(family)}
    assert len(defined) > 40
    texts = {path: path.read_text() for path in FOLDER.glob("*.py")}
    written = {text for path in texts for text in re.findall(r'"(\w+)"', texts[path])} | RULES.keys()
    assert not {f"{family}.{name}" for family, name in defined if name not in written}
    pairs = {pair for path, text in texts.items() for pair in started(text, path) if pair[1] is not None}
    assert pairs <= defined, pairs - defined


def parameters(path, function):
    """The parameters of a function in a file; None where it has none of that name."""
    for node in ast.parse(path.read_text()).body if path.exists() else ():
        if isinstance(node, ast.FunctionDef) and node.name == function:
            arguments = node.args
            return [each.arg for each in (*arguments.posonlyargs, *arguments.args, *arguments.kwonlyargs)]
    return None


def without_twin(table, folder):
    """Entries of a table of kernels that have no body on a GPU, or one that takes other arguments."""
    found = []
    for name, kernel in table.items():
        if kernel.function in RULES:  # the three forms are made of one function
            continue
        twin = parameters(folder / "cuda" / f"{kernel.module}.py", kernel.function)
        host = parameters(folder / f"{kernel.module}.py", kernel.function)
        if not kernel.cuda:
            found.append(f"{name}: no dtypes on a GPU")
        elif twin is None:
            found.append(f"{name}: cuda/{kernel.module}.py has no {kernel.function}")
        elif kernel.dtypes and twin != host:
            found.append(f"{name}: {kernel.function} takes {twin}, on the host {host}")
    return found


def test_every_kernel_of_the_table_has_a_twin_in_cuda_c():
    assert len(TABLE) > 50
    assert without_twin(TABLE, FOLDER.parent) == []


@pytest.mark.parametrize(("change", "message"), [
    ({"cuda": ""}, "no dtypes on a GPU"),
    ({"function": "_gelu"}, "cuda/activation.py has no _gelu"),
    ({"module": "recurrent"}, "cuda/recurrent.py has no gelu"),
    ({"function": "bits", "module": "random", "dtypes": ""}, None),
], ids=str)  # fmt: skip
def test_an_entry_without_a_twin_is_found(change, message):
    found = without_twin({"gelu": TABLE["gelu"]._replace(**change)}, FOLDER.parent)
    assert found == ([] if message is None else [f"gelu: {message}"])


def test_a_twin_that_takes_other_arguments_is_found(tmp_path):
    (tmp_path / "cuda").mkdir()
    (tmp_path / "activation.py").write_text("def gelu(x, *, approximate): ...")
    (tmp_path / "cuda" / "activation.py").write_text("def gelu(x): ...")
    (message,) = without_twin({"gelu": TABLE["gelu"]}, tmp_path)
    assert message.startswith("gelu: gelu takes ['x'], on the host ['x', 'approximate'")


def test_kernels_are_made_in_one_place():
    """CUDA C elsewhere would not be compiled here."""
    pattern = re.compile(r"\b(raw_kernel|loaded_kernel|(Elementwise|Reduction|Raw)Kernel|RawModule|fuse)\(")
    makers = {
        path.relative_to(ROOT / "distgrad").as_posix()
        for path in (ROOT / "distgrad").rglob("*.py")
        for line in path.read_text().splitlines()
        if pattern.search(line)
    }
    assert makers == {"backend/cupy.py", "backend/kernels/cuda/launch.py"}


def test_sources_include_only_each_other():
    for family in families():
        text = source(family, "f")
        assert "#include" not in text, family
        assert text.count("struct Half {") == 1


def test_sources_travel_with_the_package():
    import tomllib

    settings = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["setuptools"]
    patterns = settings["package-data"]["distgrad.backend.kernels.cuda"]
    files = [path for path in FOLDER.iterdir() if path.suffix not in (".py", "") and path.is_file()]
    assert files
    assert [path for path in files if not any(path.match(pattern) for pattern in patterns)] == []
