"""What `make release-check` looks at, and that it finds what is planted."""

import importlib
import re
import subprocess
import sys
import tarfile
import zipfile

import pytest
from checkouts import ROOT, needs_checkout

PACKAGING = ROOT / "packaging"
sys.path.append(str(PACKAGING))
archives = importlib.import_module("archives")
changes = importlib.import_module("changes")
check_release = importlib.import_module("check_release")

CHANGES = "# Changes\n\n## Unreleased\n\n- One.\n\n## 0.1.0 (2026-01-02)\n\n- First.\n"
RELEASED = CHANGES.replace("Unreleased", "0.2.0 (2026-12-01)")


def test_changes_of_this_checkout():
    assert changes.problem((ROOT / "CHANGELOG.md").read_text(), "0.1.dev1+g0") is None


@pytest.mark.parametrize(
    ("text", "version", "found"),
    [
        (CHANGES, "0.1.1.dev3+g0", None),
        (RELEASED, "0.2.0", None),
        ("# Changes\n", "0.1.dev1", "no section"),
        (CHANGES, "0.2.0", r'call it "## 0.2.0 \(YYYY-MM-DD\)"'),
        (RELEASED, "0.2.1", r'first section is "## 0.2.0 \(2026-12-01\)"'),
        (RELEASED.replace(" (2026-12-01)", ""), "0.2.0", "YYYY-MM-DD"),
        (CHANGES.replace("- One.\n", ""), "0.1.1.dev3", "nothing stands under"),
        (CHANGES + "\n## Unreleased\n\n- Two.\n", "0.1.1.dev3", "two sections are called 'Unreleased'"),
    ],
)
def test_a_change_log_that_is_not_ready_is_found(text, version, found):
    problem = changes.problem(text, version)
    assert problem is None if found is None else re.search(found, problem), problem


@pytest.fixture
def built(tmp_path):
    """An sdist and a wheel with the checkout's names, as a build would leave them."""
    files = archives.tracked(ROOT)
    (tmp_path / "empty").write_text("")
    with tarfile.open(tmp_path / "a.tar.gz", "w:gz") as archive:
        for name in [
            *files,
            "PKG-INFO",
            "setup.cfg",
            "distgrad/version.txt",
            "distgrad.egg-info/SOURCES.txt",
        ]:
            archive.add(tmp_path / "empty", f"distgrad-1.0/{name}")
    with zipfile.ZipFile(tmp_path / "a.whl", "w") as archive:
        for name in [*archives.of_wheel(files), "distgrad-1.0.dist-info/METADATA"]:
            archive.writestr(name, "")
    return files, tmp_path


@needs_checkout
def test_whole_archives_pass_and_the_wheel_has_what_users_need(built):
    files, folder = built
    assert archives.sdist_problems(folder / "a.tar.gz", files) == []
    assert archives.wheel_problems(folder / "a.whl", files) == []
    needed = {
        "py.typed",
        "__init__.pyi",
        "launch/templates/pbs.sh",
        "backend/kernels/cuda/conv.cu",
        "launch/rank.py",
    }
    assert {f"distgrad/{name}" for name in needed} <= archives.of_wheel(files)
    assert not [name for name in archives.of_wheel(files) if name.startswith(("tests/", "launch/", "docs/"))]


@needs_checkout
@pytest.mark.parametrize("name", ["tests/__pycache__/a.pyc", "distgrad/old.py", "build/lib/distgrad/amp.py"])
def test_a_file_too_many_and_one_too_few_are_found(name, built):
    files, folder = built
    assert archives.sdist_problems(folder / "a.tar.gz", files - {"README.md"}) == ["has README.md"]
    assert archives.sdist_problems(folder / "a.tar.gz", files | {name}) == [f"lacks {name}"]
    with zipfile.ZipFile(folder / "a.whl", "a") as archive:
        archive.writestr(name, "")
    more = files | {"distgrad/nn/templates.txt", "launch/templates/lsf.sh"}
    assert archives.wheel_problems(folder / "a.whl", more) == [
        "lacks distgrad/launch/templates/lsf.sh",
        "lacks distgrad/nn/templates.txt",
        f"has {name}",
    ]


def test_a_stage_that_fails_says_so_and_the_others_are_run(monkeypatch, capsys):
    def fail(_):
        raise check_release.Failed("do this")

    monkeypatch.setattr(check_release, "STAGES", {"a": fail, "b": lambda _: "well", "c": fail})
    assert check_release.main([]) == 1
    lines = re.sub(r" \[\d+ s\]", "", capsys.readouterr().out).splitlines()
    assert lines[:3] == [
        "release: FAILED a: do this",
        "release: passed b: well",
        "release: FAILED c: do this",
    ]
    assert lines[3] == "release: not ready: a, c"
    assert check_release.main(["b"]) == 0
    with pytest.raises(SystemExit):
        check_release.main(["d"])
    assert "no stage d; there are a, b, c" in capsys.readouterr().err


BUILDERS = """#!/bin/sh
echo "$@" >> {said}
test "$1" != pull || {{ echo no such host >&2; exit 125; }}
"""


def test_an_image_is_built_from_the_base_that_is_named_or_can_be_had(tmp_path, monkeypatch):
    said = tmp_path / "said"
    (tmp_path / "podman").write_text(BUILDERS.format(said=said))
    (tmp_path / "podman").chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:/usr/bin:/bin")
    found = check_release.build_image(None)
    assert re.search(
        r"no image built: docker.io/\S+ cannot be had here; make release-check BASE=IMAGE", found
    )
    assert said.read_text().split()[0] == "pull"
    assert check_release.build_image("mine") == "podman built the image distgrad"
    assert "--build-arg BASE=mine" in said.read_text()
    (tmp_path / "podman").write_text("#!/bin/sh\nexit 1\n")
    with pytest.raises(check_release.Failed, match="the image cannot be built; --base names another"):
        check_release.build_image("mine")


def test_dependencies_are_in_the_table_of_licences():
    import tomllib

    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    listed = set(re.findall(r"^\| ([\w-]+)", (ROOT / "docs/licences.md").read_text(), flags=re.MULTILINE))
    names = {
        re.split(r"[><=]", one)[0]
        for one in project["dependencies"] + project["optional-dependencies"]["mpi"]
    }
    assert names <= listed, f"make release-check RELEASE='build materials' for {names - listed}"


def test_the_recipe_of_conda_asks_for_what_the_package_asks_for(tmp_path):
    recipe = importlib.import_module("recipe")
    pytest.importorskip("rattler_build", reason="rattler-build, which reads the recipe, is missing")
    path, settings = PACKAGING / "conda/recipe.yaml", ROOT / "pyproject.toml"
    assert recipe.problem(path, settings) is None
    for old, new, found in (
        ("numba >=0.62", "numba >=0.50", "run requirements are not"),
        ("    - click >=8.1\n", "", "click >=8.1"),
        ("noarch: python", "noarsch: python", "cannot read it"),
    ):
        text = path.read_text()
        assert old in text
        (tmp_path / "recipe.yaml").write_text(text.replace(old, new))
        assert found in recipe.problem(tmp_path / "recipe.yaml", settings)


@pytest.mark.slow
@pytest.mark.timeout(900)
@needs_checkout
def test_this_checkout_builds_and_works_where_it_alone_is_installed(tmp_path):
    pytest.importorskip("build", reason="the tools of a release are missing: pip install '.[release]'")
    clone = tmp_path / "clone"
    subprocess.run(["git", "clone", "--quiet", ROOT, clone], check=True, timeout=120)
    stages = ["version", "changes", "build", "contents", "metadata", "pythons"]
    command = [sys.executable, "packaging/check_release.py", *stages, "--minor", str(sys.version_info.minor)]
    done = subprocess.run(command, cwd=clone, capture_output=True, text=True, timeout=800, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    assert re.findall(r"release: passed (\w+)", done.stdout) == stages
    (clone / "distgrad" / "stray.py").write_text('"""Not of the package."""\n')
    done = subprocess.run(
        [sys.executable, "packaging/check_release.py", "build", "contents"],
        cwd=clone, capture_output=True, text=True, timeout=400, check=False,
    )  # fmt: skip
    assert done.returncode == 1
    assert "the wheel has distgrad/stray.py" in done.stdout
