"""Whether conda's recipe can be read, and asks for what pyproject.toml asks for."""

from __future__ import annotations

import re
import tomllib
from pathlib import Path

#: Names that conda-forge has for packages of other names.
NAMES = {"xxhash": "python-xxhash"}


def wanted(settings: Path) -> set[str]:
    """The requirements of a pyproject.toml, as conda writes them."""
    project = tomllib.loads(settings.read_text())["project"]
    found = {f"python {project['requires-python']}"}
    for requirement in project["dependencies"]:
        name, version = re.fullmatch(r"([\w-]+)(.*)", requirement).groups()  # type: ignore[union-attr]
        found.add(f"{NAMES.get(name, name)} {version}")
    return found


def problem(path: Path, settings: Path) -> str | None:
    """What is wrong with a recipe, and what to do; None if nothing is.

    Args:
        path: ``recipe.yaml``.
        settings: ``pyproject.toml``.
    """
    from rattler_build import RattlerBuildError, Stage0Recipe

    try:
        (rendered,) = Stage0Recipe.from_file(path).render()
    except RattlerBuildError as error:
        return f"rattler-build cannot read it: {error}"
    asked = {str(one) for one in rendered.recipe.requirements.run}
    if asked != wanted(settings):
        differing = ", ".join(sorted(asked ^ wanted(settings)))
        return f"its run requirements are not those of pyproject.toml: {differing}"
    return None
