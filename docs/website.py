"""Builds the site: ``python docs/website.py build/site``. MkDocs makes the pages, and their search.

The guide, the README and the examples are taken as they are; the reference is made from the package by
``docs/build.py`` (operations) and ``docs/api.py`` (everything else). Links between files of the repository
become links between pages, and what has no page is named without one.
"""

from __future__ import annotations

import json
import os
import posixpath
import re
import shutil
import subprocess
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent))
import api
import build
import pictures

ROOT = Path(__file__).parents[1]
_LINK = re.compile(r"(!?)\[([^\]]*)\]\(([^)#\s]+)(#[^)\s]*)?\)")
_TEXTS = ("CHANGELOG.md", "CONTRIBUTING.md")


def places() -> dict[str, str]:
    """Where each file of the repository that has a page is found on the site."""
    found = {"README.md": "index.md"}
    found |= {name: name.lower() for name in _TEXTS if (ROOT / name).exists()}
    for path in sorted((ROOT / "docs").rglob("*")):
        own = path.relative_to(ROOT / "docs").as_posix()
        if path.suffix in (".md", ".svg", ".png") and not own.startswith("reference/"):
            found[f"docs/{own}"] = own
    for path in sorted((ROOT / "examples").iterdir()):
        if path.suffix in (".py", ".c", ".ipynb"):
            found[f"examples/{path.name}"] = f"examples/{path.name}.md"
    return found


def linked(text: str, source: str, found: dict[str, str]) -> str:
    """A page's text with its links to files turned into links to pages."""
    here = posixpath.dirname(found[source])

    def turn(match: re.Match[str]) -> str:
        mark, label, target, anchor = match.groups()
        if re.match(r"[a-z]+:", target):
            return match[0]
        path = posixpath.normpath(posixpath.join(posixpath.dirname(source), target))
        if path not in found:
            return label
        return f"{mark}[{label}]({posixpath.relpath(found[path], here or '.')}{anchor or ''})"

    parts = re.split(r"(^```.*?^```)", text, flags=re.DOTALL | re.MULTILINE)
    return "".join(part if part.startswith("```") else _LINK.sub(turn, part) for part in parts)


def write(folder: Path, name: str, text: str) -> None:
    """Write one source page."""
    path = folder / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)


def notebook(text: str) -> str:
    """A notebook's cells as Markdown."""
    cells = [(cell["cell_type"], "".join(cell["source"])) for cell in json.loads(text)["cells"]]
    return "\n\n".join(f"```python\n{text}\n```" if kind == "code" else text for kind, text in cells) + "\n"


def write_sources(folder: Path) -> None:
    """Every page of the site as Markdown."""
    found = places()
    for source, place in found.items():
        path = ROOT / source
        if path.suffix == ".md":
            write(folder, place, linked(path.read_text(), source, found))
        elif path.suffix in (".py", ".c"):
            language = "python" if path.suffix == ".py" else "c"
            write(folder, place, f"# {path.name}\n\n```{language}\n{path.read_text()}```\n")
        elif path.suffix == ".ipynb":
            write(folder, place, notebook(path.read_text()))
        else:
            (folder / place).parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(path, folder / place)
    build.main(folder / "reference/operations")
    for room in api.ROOMS:
        for name, text in api.room_pages(room).items():
            write(folder, f"reference/{room.replace('distgrad', 'dg')}/{name}.md", text)
    write(folder, "reference/command.md", api.command_page())
    write(folder, "reference/environment.md", api.environment_page())
    examples = [place for place in found.values() if place.startswith("examples/")]
    rows = [f"- [{posixpath.basename(place)[:-3]}]({posixpath.basename(place)})" for place in examples]
    write(folder, "examples/index.md", "# Examples\n\n" + "\n".join(rows) + "\n")


def titles(folder: Path) -> list[tuple[str, str]]:
    """The guide's pages, in the README's order, with their own headings."""
    order = re.findall(r"docs/(guide/[\w-]+\.md)", (ROOT / "README.md").read_text())
    every = [f"guide/{path.name}" for path in sorted((folder / "guide").glob("*.md"))]
    found = []
    for place in dict.fromkeys([*order, *every]):
        head = re.search(r"^# (.+)$", (folder / place).read_text(), re.MULTILINE)
        found.append((head[1] if head else place, place))
    return found


def settings(folder: Path, site: Path) -> str:
    """What MkDocs is to do, as YAML."""
    guide = "\n".join(f"    - {title!r}: {place}" for title, place in titles(folder))
    rooms = "\n".join(
        f"    - {room.replace('distgrad', 'dg')}: reference/{room.replace('distgrad', 'dg')}/index.md"
        for room in api.ROOMS
    )
    changes = "\n".join(f"  - {name[:-3].capitalize()}: {name.lower()}" for name in _TEXTS)
    return f"""site_name: distgrad
site_description: Data-parallel training of neural networks on NumPy and MPI
docs_dir: {folder}
site_dir: {site}
use_directory_urls: false
theme: {{name: mkdocs, color_mode: auto, user_color_mode_toggle: true, navigation_depth: 3}}
plugins: [search]
extra_css: [site.css]
markdown_extensions: [tables, fenced_code, {{toc: {{permalink: true}}}}]
validation: {{omitted_files: ignore, absolute_links: warn, anchors: warn, unrecognized_links: warn}}
nav:
  - Home: index.md
  - Guide:
{guide}
  - Reference:
    - Operations: reference/operations/index.md
{rooms}
    - The command line: reference/command.md
    - Environment variables: reference/environment.md
  - Examples: examples/index.md
{changes}
"""


STYLE = """\
table, pre { display: block; max-width: 100%; overflow-x: auto; }
img { max-width: 100%; height: auto; }
.col-md-9, .container, .bs-sidebar a { overflow-wrap: anywhere; white-space: normal; }
td, th { overflow-wrap: normal; }
td code { white-space: nowrap; overflow-wrap: normal; }
@media (max-width: 36rem) {
  :is(td, th):first-child:nth-last-child(2), :is(td, th):first-child:nth-last-child(2) + :is(td, th) {
    display: block; border: 0; }
  th:empty { padding: 0; }
  td:nth-child(2):last-child code { white-space: normal; overflow-wrap: anywhere; }
}
"""


def main(target: Path) -> int:
    """Build the site into ``target``, whole or not at all; MkDocs's exit status."""
    work = target.with_name(f"{target.name}.{os.getpid()}")
    sources = work / "sources"
    try:
        write_sources(sources)
        write(sources, "site.css", STYLE + pictures.STYLE)
        (work / "mkdocs.yml").write_text(settings(sources.resolve(), (work / "site").resolve()))
        command = [
            sys.executable,
            "-m",
            "mkdocs",
            "build",
            "--strict",
            "--quiet",
            "-f",
            str(work / "mkdocs.yml"),
        ]
        status = subprocess.run(command, check=False).returncode
        if status == 0:
            shutil.rmtree(target, ignore_errors=True)
            (work / "site").replace(target)
            print(f"{len(list(target.rglob('*.html')))} pages: {target / 'index.html'}")
        return status
    finally:
        shutil.rmtree(work, ignore_errors=True)


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1])))
