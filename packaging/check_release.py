"""Whether this checkout can be released: ``make release-check``, a line a stage.

``python packaging/check_release.py [STAGE ...] [--minor 13] [--base IMAGE]`` runs the stages in their order,
all unless some are named. Archives, the list of materials (SBOM) and the licences of dependencies are left in
``dist/``.
"""

from __future__ import annotations

import argparse
import json
import re
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path

sys.path.append(str(Path(__file__).parents[1] / "tests"))
import archives
import changes
import matrix
import recipe

from distgrad.version import UNKNOWN, find_version

ROOT = Path(__file__).parents[1]
DIST = ROOT / "dist"
LICENCES = ROOT / "docs" / "licences.md"
#: Parts of the names of licences under which a dependency may come.
ALLOWED = ("MIT", "BSD", "Apache", "ISC", "PSF", "Zlib", "MPICH", "Python Software Foundation")
_TIMEOUT_S = 1200


class Failed(Exception):
    """A stage did not hold; the message says what to do."""


def run(*command: str | Path, cwd: Path = ROOT, advice: str) -> str:
    """What a command prints; where it fails, its last lines and the advice."""
    done = subprocess.run(
        [*map(str, command)], cwd=cwd, capture_output=True, text=True, timeout=_TIMEOUT_S, check=False
    )
    if done.returncode != 0:
        last = "\n".join(f"{done.stdout}\n{done.stderr}".strip().splitlines()[-15:])
        raise Failed(f"{advice}\n{last}")
    return done.stdout


def tool(name: str) -> Path:
    """A tool of this environment."""
    path = Path(sys.executable).with_name(name)
    if not path.exists():
        raise Failed(f"{name} is missing: pip install '.[release]'")
    return path


def archive(kind: str) -> Path:
    """The one sdist or wheel in dist."""
    found = sorted(DIST.glob({"wheel": "*.whl", "sdist": "*.tar.gz"}[kind]))
    if len(found) != 1:
        raise Failed(f"dist holds {len(found)} of the kind {kind}: run the stage build first")
    return found[0]


def built_version() -> str:
    """The version of the archives, whatever has become of the checkout since."""
    return archive("wheel").name.split("-")[1]


class Environment:
    """A fresh environment with one archive installed, and an empty folder beside it."""

    def __init__(self, python: Path, path: Path) -> None:
        self.folder = Path(tempfile.mkdtemp(prefix="distgrad-release-"))
        self.python = self.folder / "env" / "bin" / "python"
        self.empty = self.folder / "empty"
        self.empty.mkdir()
        try:
            run(python, "-m", "venv", self.folder / "env", advice=f"{python} makes no environment")
            install = [self.python, "-m", "pip", "--disable-pip-version-check", "--quiet", "install"]
            run(*install, f"{path}[mpi]", advice=f"{path.name} cannot be installed")
        except BaseException:
            self.close()
            raise

    def close(self) -> None:
        """Remove it."""
        shutil.rmtree(self.folder, ignore_errors=True)


# -- stages: each returns what is said of it


def check_version(_: argparse.Namespace) -> str:
    """A version that comes from Git, of a checkout without changes that are in no commit."""
    version = find_version()
    if version == UNKNOWN:
        raise Failed("no version: work in a clone, with its tags (git fetch --tags)")
    if "+" in version and version.rpartition(".")[2].startswith("d2"):
        raise Failed(f"{version}: files are changed; commit them, since the tag will not have them otherwise")
    kind = "at no tag: git tag v1.2.0 makes it a release" if ".dev" in version else "the tag's"
    return f"{version}, {kind}"


def check_changes(_: argparse.Namespace) -> str:
    """CHANGELOG.md speaks of the version."""
    problem = changes.problem((ROOT / "CHANGELOG.md").read_text(), find_version())
    if problem:
        raise Failed(f"CHANGELOG.md: {problem}")
    return "CHANGELOG.md is ready"


def build(_: argparse.Namespace) -> str:
    """The sdist, and the wheel out of the sdist."""
    shutil.rmtree(DIST, ignore_errors=True)
    shutil.rmtree(ROOT / "build" / "lib", ignore_errors=True)
    run(sys.executable, "-m", "build", "--outdir", DIST, ROOT, advice="mend pyproject.toml")
    kinds = [archive("sdist"), archive("wheel")]
    version = find_version()
    for path in kinds:
        if f"-{version}" not in path.name:
            raise Failed(f"{path.name} is not {version}, as distgrad/version.py has it; mend either")
    return ", ".join(f"{path.name} ({path.stat().st_size / 1e6:.1f} MB)" for path in kinds)


def check_contents(_: argparse.Namespace) -> str:
    """Every file has its place in the archives, and nothing else has."""
    files = archives.tracked(ROOT)
    wrong = [f"the wheel {one}" for one in archives.wheel_problems(archive("wheel"), files)]
    wrong += [f"the sdist {one}" for one in archives.sdist_problems(archive("sdist"), files)]
    if wrong:
        advice = "mend packages and package-data in pyproject.toml, or commit or remove the files"
        raise Failed("\n".join([advice, *wrong[:20]]))
    return f"{len(files)} files in the sdist, {len(archives.of_wheel(files))} in the wheel"


def check_metadata(_: argparse.Namespace) -> str:
    """Twine takes the archives."""
    run(tool("twine"), "check", "--strict", archive("sdist"), archive("wheel"), advice="mend README.md")
    return "twine takes both"


def check_pythons(options: argparse.Namespace) -> str:
    """Wheel and sdist work in fresh environments on every Python that is found."""
    found, lacking = [], []
    for minor in options.minor or matrix.MINORS:
        python = matrix.find(minor)
        if python is None:
            lacking.append(f"3.{minor}")
            continue
        for kind in ("wheel", "sdist"):
            place = Environment(python, archive(kind))
            try:
                smoke = (place.python, Path(__file__).with_name("smoke.py"), built_version())
                run(*smoke, cwd=place.empty, advice=f"the {kind} does not work on Python 3.{minor}")
            finally:
                place.close()
        found.append(f"3.{minor}")
    if not found:
        raise Failed(f"no Python of {', '.join(lacking)} is here; install one, or name another by --minor")
    return f"wheel and sdist work on {', '.join(found)}" + (
        f"; not found here: {', '.join(lacking)}" if lacking else ""
    )


def list_materials(_: argparse.Namespace) -> str:
    """The licences of what is installed with the wheel, and its list of materials."""
    place = Environment(Path(sys.executable), archive("wheel"))
    try:
        ask = [tool("pip-licenses"), "--python", place.python, "--ignore-packages", "distgrad"]
        allowed = ["--partial-match", "--allow-only", ";".join(ALLOWED)]
        run(
            *ask,
            *allowed,
            advice="a dependency has another licence; drop it, or read it and add it to ALLOWED",
        )
        shape = ["--format=markdown", "--order=name", "--no-version", "--with-urls"]
        table = run(*ask, *shape, advice="pip-licenses lists nothing")
        sbom = DIST / f"distgrad-{built_version()}.cdx.json"
        describe = [tool("cyclonedx-py"), "environment", "--pyproject", ROOT / "pyproject.toml"]
        kind = ["--mc-type", "library", "--output-reproducible", "--validate", "-o", sbom]
        run(*describe, *kind, place.python, advice="cyclonedx-py lists nothing")
    finally:
        place.close()
    names = {part["name"] for part in json.loads(sbom.read_text())["components"]}
    text = HEAD + table
    (DIST / "licences.md").write_text(text)
    if not LICENCES.exists() or LICENCES.read_text() != text:
        raise Failed(f"{LICENCES.relative_to(ROOT)} is old: cp dist/licences.md docs/ and commit it")
    num_licences = len(table.splitlines()) - 2
    return f"{num_licences} licences as docs/licences.md has them, {len(names)} parts in {sbom.name}"


HEAD = """\
# Licences of what distgrad needs

distgrad itself is Apache-2.0. This is what `pip install "distgrad[mpi]"` brings with it, on Linux;
`make release-check` writes the table and refuses licences that it does not know. Nothing of these packages is
in distgrad's wheel.

"""


def check_recipes(options: argparse.Namespace) -> str:
    """The containers' files and conda's recipe are sound; they are built where a builder is at hand."""
    files = sorted((ROOT / "packaging").glob("Containerfile*"))
    run(tool("hadolint"), *files, advice="mend the container's file")
    problem = recipe.problem(ROOT / "packaging/conda/recipe.yaml", ROOT / "pyproject.toml")
    if problem:
        raise Failed(f"packaging/conda/recipe.yaml: {problem}")
    said = f"hadolint takes {len(files)} files, rattler-build reads the recipe"
    return f"{said}; {build_image(options.base)}"


def named_base(text: str) -> str:
    """The image that a container's file starts from."""
    found = re.search(r"^ARG BASE=(\S+)$", text, re.MULTILINE)
    if found is None:
        raise Failed("packaging/Containerfile: expected a line ARG BASE=IMAGE")
    return found[1]


def build_image(base: str | None) -> str:
    """Build the CPU's image by what is at hand, from the base that was asked for or its own."""
    builder = next(filter(None, map(shutil.which, ("podman", "buildah", "docker"))), None)
    if builder is None:
        return "no image built: neither podman, buildah nor docker is here"
    if base is None:
        own = named_base((ROOT / "packaging/Containerfile").read_text())
        try:
            run(builder, "pull", own, advice="")
        except Failed:
            return (
                f"no image built: {own} cannot be had here; make release-check BASE=IMAGE starts from another"
            )
    command = [builder, "build", "-f", "packaging/Containerfile", "-t", "distgrad"]
    command += [] if base is None else ["--build-arg", f"BASE={base}"]
    run(*command, DIST, advice="the image cannot be built; --base names another image to start from")
    return f"{Path(builder).name} built the image distgrad"


STAGES: dict[str, Callable[[argparse.Namespace], str]] = {
    "version": check_version,
    "changes": check_changes,
    "build": build,
    "contents": check_contents,
    "metadata": check_metadata,
    "pythons": check_pythons,
    "materials": list_materials,
    "recipes": check_recipes,
}


def main(arguments: Sequence[str]) -> int:
    """Run the stages; 1 if one failed."""
    parser = argparse.ArgumentParser(description="Check that this checkout can be released.")
    parser.add_argument("stages", nargs="*", metavar="STAGE", help=f"{', '.join(STAGES)}; all by default")
    parser.add_argument("--minor", type=int, action="append", help="only this Python: 13 is 3.13")
    parser.add_argument("--base", help="the image that packaging/Containerfile starts from")
    options = parser.parse_args(arguments)
    unknown = set(options.stages) - STAGES.keys()
    if unknown:
        parser.error(f"no stage {', '.join(sorted(unknown))}; there are {', '.join(STAGES)}")
    failed = []
    for name in [name for name in STAGES if name in (options.stages or STAGES)]:
        began_s = time.monotonic()
        try:
            said, kind = STAGES[name](options), "passed"
        except Failed as error:
            said, kind = str(error), "FAILED"
            failed.append(name)
        print(f"release: {kind} {name}: {said} [{time.monotonic() - began_s:.0f} s]", flush=True)
    if failed:
        print(f"release: not ready: {', '.join(failed)}")
    return bool(failed)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
