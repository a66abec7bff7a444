"""The tables of docs/guide/failures.md and mistakes.md, against which the tests hold what real jobs print.

A row names a fault and quotes what is printed for it. In a quotation, ``…`` stands for anything on a line,
``node1`` for the name of this host, and times may differ; all else is meant as it stands.
"""

import re
from pathlib import Path

GUIDE = Path(__file__).parents[1] / "docs" / "guide" / "failures.md"
MISTAKES = GUIDE.with_name("mistakes.md")
_FREE = re.compile(r"(…|node1|\d+(?:\.\d+)? (?=s\b|times\b))")


def quotations(section: str, page: Path | None = None) -> dict[str, list[str]]:
    """What the table of a section quotes for each of its faults."""
    text = (page or GUIDE).read_text().partition(f"## {section}\n")[2].partition("\n## ")[0]
    rows = re.findall(r"^\| (.+?) \| (.+) \|$", text, re.MULTILINE)[1:]  # without the head
    return {fault: re.findall(r"`([^`]+)`", printed) for fault, printed in rows}


def pattern(quotation: str) -> str:
    """The regular expression of a quotation."""
    kinds = {"…": ".*", "node1": r"\S+"}
    pieces = _FREE.split(quotation)
    free = [kinds.get(piece, r"\d+(\.\d+)? ") for piece in pieces[1::2]]
    fixed = [re.escape(piece) for piece in pieces[::2]]
    return "".join(a + b for a, b in zip(fixed, [*free, ""], strict=True))


def check(section: str, fault: str, printed: str, page: Path | None = None) -> None:
    """See that everything the guide quotes for a fault was printed, in that order."""
    found = quotations(section, page)[fault]
    assert found, f"the guide quotes nothing for {fault}"
    for quotation in found:
        match = re.search(pattern(quotation), printed)
        assert match, f"the guide says of {fault}: {quotation}\nwhat was printed is:\n{printed}"
        printed = printed[match.end() :]
