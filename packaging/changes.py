"""Whether CHANGELOG.md is ready for a version."""

from __future__ import annotations

import re


def problem(text: str, version: str) -> str | None:
    """What is wrong with the changes of a version, and what to do; None if nothing is.

    Args:
        text: of CHANGELOG.md, with a section ``## 1.2.0 (2026-12-01)`` a release, the newest first, and what
            comes after the last release under ``## Unreleased``.
        version: as ``distgrad.version`` gives it.
    """
    heads = [match[1].strip() for match in re.finditer(r"^## (.+)$", text, flags=re.MULTILINE)]
    bodies = re.split(r"^## .+$", text, flags=re.MULTILINE)[1:]
    if not heads:
        return 'no section; write what has changed under "## Unreleased"'
    twice = [head for head in heads if heads.count(head) > 1]
    if twice:
        return f"two sections are called {twice[0]!r}; make one of them"
    if not re.search(r"^- ", bodies[0], flags=re.MULTILINE):
        return f'nothing stands under "## {heads[0]}"; write what has changed, one line each'
    if ".dev" in version:
        return None
    if re.fullmatch(rf"{re.escape(version)} \(\d{{4}}-\d\d-\d\d\)", heads[0]):
        return None
    wanted = f"## {version} (YYYY-MM-DD)"
    return f'{version} is released, and the first section is "## {heads[0]}"; call it "{wanted}"'
