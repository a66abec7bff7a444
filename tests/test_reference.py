"""The reference is built from the registry, and its examples run."""

import importlib.util
import json
import re
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner

from distgrad.autograd.primitive import REGISTRY, Sample
from distgrad.autograd.samples import Case
from distgrad.cli import main

BUILD = Path(__file__).parents[1] / "docs" / "build.py"


@pytest.fixture(scope="module")
def build():
    spec = importlib.util.spec_from_file_location("build", BUILD)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="module")
def folder(build, tmp_path_factory):
    folder = tmp_path_factory.mktemp("reference") / "pages"
    build.main(folder)
    return folder


def test_every_operation_has_a_page_and_the_index_names_it(folder):
    assert {path.stem for path in folder.iterdir()} == {"index", *REGISTRY}
    links = re.findall(r"\[(\w+)\]\((\w+)\.md\)", (folder / "index.md").read_text())
    assert sorted(links) == sorted((name, name) for name in REGISTRY)


def test_a_page_holds_what_the_record_holds(folder):
    for record in REGISTRY.values():
        text = (folder / f"{record.name}.md").read_text()
        assert text.startswith(f"# {record.name}\n")
        assert record.math in text
        assert re.search(
            rf"^(dg|dg.linalg|dg.fft|dg.special|dg.nn.functional|operations)\.{record.name}\(",
            text,
            re.MULTILINE,
        )
        assert record.source in text
        assert inspectable(record.formula.__doc__) in text
        for reject in record.rejects:
            assert reject.message in text
        example = re.search(r"## Example\n\n```python\n(.+?)\n```\n\n```\n(.+?)\n```\n", text, re.DOTALL)
        assert example.group(1).startswith("import distgrad as dg\n")
        assert example.group(2).strip()


def test_operations_go_by_their_public_names(build):
    names = {name: build.public_name(REGISTRY[name]) for name in ("add", "inv", "put_zeros")}
    assert names == {"add": "dg.add", "inv": "dg.linalg.inv", "put_zeros": "operations.put_zeros"}


def inspectable(docstring):
    """The docstring's first line."""
    return docstring.strip().splitlines()[0]


def test_the_printed_result_is_what_the_example_prints(build):
    case = Case(REGISTRY["add"], Sample((np.array([1.0, 2.0]), np.array([10, 20])), {}), 0)
    program = build.example(case)
    assert program.splitlines()[3:] == [
        "x1 = dg.tensor([1.0, 2.0])",
        "x2 = dg.tensor([10, 20])",
        "y = dg.add(x1, x2)",
        "print(y)",
    ]
    assert build.run(program) == "tensor([11., 22.])\n"


def test_an_example_that_fails_stops_the_build(build, monkeypatch):
    monkeypatch.setattr(build, "example", lambda case: "import distgrad as dg\ndg.exp('text')")
    with pytest.raises(TypeError, match="must be a Tensor"):
        build.page(REGISTRY["add"])


def test_nothing_is_written_if_a_page_fails(build, monkeypatch, tmp_path):
    monkeypatch.setattr(build, "run", lambda program: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        build.main(tmp_path / "pages")
    assert not (tmp_path / "pages").exists()


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (np.dtype("float64"), "dg.float64"),
        (np.array([1, 2]), "dg.tensor([1, 2])"),
        ((slice(1, None), ...), "(slice(1, None, None), ...)"),
        ((3,), "(3,)"),
        ([float("-inf"), True, None], '[float("-inf"), True, None]'),
    ],
)
def test_attributes_are_written_as_source(build, value, text):
    assert build.literal(value) == text


# -- distgrad ops


def test_ops_lists_every_operation():
    result = CliRunner().invoke(main, ["ops"])
    assert result.exit_code == 0
    lines = result.output.splitlines()
    assert [line.split()[0] for line in lines[1:]] == sorted(REGISTRY)
    (line,) = [line for line in lines if line.startswith("exp ")]
    assert line.split() == ["exp", "yes", "floating-point", "y", "=", "e^x"]


def test_ops_as_json():
    result = CliRunner().invoke(main, ["ops", "--json"])
    listed = {entry["name"]: entry for entry in json.loads(result.output)}
    assert listed.keys() == REGISTRY.keys()
    convolution = REGISTRY["convolution"]
    assert listed["convolution"] == {
        "name": "convolution",
        "math": convolution.math,
        "dtypes": convolution.dtypes,
        "differentiable": True,
        "source": convolution.source,
    }
    assert not listed["isfinite"]["differentiable"]


def test_ops_of_some_names():
    result = CliRunner().invoke(main, ["ops", "add", "exp"])
    assert [line.split()[0] for line in result.output.splitlines()[1:]] == ["add", "exp"]
    result = CliRunner().invoke(main, ["ops", "softplush"])
    assert result.exit_code == 2
    assert "ops: no operation 'softplush'" in result.output
