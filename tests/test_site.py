"""The site: a page for every public name, links that lead somewhere, pages that fit a phone and a desk."""

import functools
import http.server
import importlib
import json
import re
import shutil
import subprocess
import sys
import threading
from html.parser import HTMLParser
from pathlib import Path
from urllib.parse import unquote, urldefrag

import pytest

ROOT = Path(__file__).parents[1]
sys.path.insert(0, str(ROOT / "docs"))
pytest.importorskip("mkdocs")
api = importlib.import_module("api")
website = importlib.import_module("website")
PAGES = (
    "index.html",
    "guide/metrics.html",
    "reference/dg.parallel/DistributedDataParallel.html",
    "reference/operations/convolution.html",
    "reference/command.html",
    "examples/gpt.py.html",
)
WIDTHS = {"phone": 390, "desk": 1280}


class Page(HTMLParser):
    """The links of a page, the names that links can lead to, and its text."""

    def __init__(self, text):
        super().__init__()
        self.links, self.names = [], set()
        self.feed(text)

    def handle_starttag(self, tag, attrs):
        attributes = dict(attrs)
        self.links += [attributes[key] for key in ("href", "src") if attributes.get(key)]
        self.names |= {attributes[key] for key in ("id", "name") if attributes.get(key)}


def broken(site):
    """Links that lead to no page, or to no place of one."""
    pages = {
        path.resolve(): Page(path.read_text()) for path in site.rglob("*.html") if path.name != "404.html"
    }
    wrong = []
    for path, page in pages.items():
        for link in page.links:
            target, anchor = urldefrag(unquote(link))
            if re.match(r"[a-z]+:|//", target) or (not target and not anchor):
                continue
            there = (path.parent / target).resolve() if target else path
            if not there.is_file():
                wrong.append(f"{path.relative_to(site.resolve())}: {link} leads nowhere")
            elif anchor and there in pages and anchor not in pages[there].names:
                wrong.append(f"{path.relative_to(site.resolve())}: {link} has no such place")
    return wrong


@pytest.fixture(scope="module")
def site(tmp_path_factory):
    folder = tmp_path_factory.mktemp("site") / "built"
    assert website.main(folder) == 0
    assert not [path for path in folder.parent.iterdir() if path != folder]
    return folder


@pytest.mark.slow
@pytest.mark.timeout(300)
def test_every_public_name_has_a_page_and_every_link_leads_somewhere(site):
    assert not broken(site)
    for room in api.ROOMS:
        module = importlib.import_module(room)
        index = (site / f"reference/{room.replace('distgrad', 'dg')}/index.html").read_text()
        for name in module.__all__:
            assert f"<code>{name}</code></a>" in index, f"{room}.{name}"
    assert "DistributedDataParallel" in (site / "search/search_index.json").read_text()


@pytest.mark.slow
@pytest.mark.timeout(300)
def test_a_broken_link_is_found(site, tmp_path):
    copy = shutil.copytree(site, tmp_path / "copy")
    page = copy / "guide/metrics.html"
    page.write_text(
        page.read_text().replace("</body>", '<a href="none.html">a</a><a href="#none">b</a></body>')
    )
    assert broken(copy) == [
        "guide/metrics.html: none.html leads nowhere",
        "guide/metrics.html: #none has no such place",
    ]


FRAME = (
    '<iframe title="{page} {name}" src="{page}" style="width: {width}px; height: 800px; border: 0"></iframe>'
)
MEASURE = """<script>
window.onload = () => {
  const found = {};
  for (const frame of document.querySelectorAll("iframe")) {
    const root = frame.contentDocument.documentElement;
    found[frame.title] = [root.scrollWidth, frame.contentDocument.querySelector("h1").offsetHeight];
  }
  document.body.innerHTML = `<pre id="found">${JSON.stringify(found)}</pre>`;
};
</script>"""


@pytest.mark.slow
@pytest.mark.timeout(300)
def test_pages_fit_a_phone_and_a_desk(site, tmp_path):
    browser = shutil.which("chromium") or shutil.which("google-chrome")
    if browser is None:
        pytest.skip("no Chromium on this machine; make machine installs it")
    frames = [
        FRAME.format(page=page, name=name, width=width) for page in PAGES for name, width in WIDTHS.items()
    ]
    (site / "measure.html").write_text(f"<!doctype html><body>{''.join(frames)}{MEASURE}</body>")
    handler = functools.partial(http.server.SimpleHTTPRequestHandler, directory=site)
    handler.log_message = lambda *args: None
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        try:
            options = ["--headless=new", "--no-sandbox", "--disable-gpu", f"--user-data-dir={tmp_path}"]
            place = f"http://127.0.0.1:{server.server_port}/measure.html"
            command = [browser, *options, "--dump-dom", place]
            done = subprocess.run(command, capture_output=True, text=True, timeout=240, check=True)
        finally:
            server.shutdown()
            thread.join()
    (site / "measure.html").unlink()
    found = json.loads(re.search(r'<pre id="found">(.*?)</pre>', done.stdout, re.DOTALL)[1])
    assert len(found) == len(PAGES) * len(WIDTHS)
    for key, (width, height) in found.items():
        assert width <= WIDTHS[key.rpartition(" ")[2]], key
        assert height > 10, key


@pytest.mark.parametrize(
    ("docstring", "expected"),
    [
        ("One.\n\nArgs:\n    x: a\n        b.\n    y: c.", "One.\n\n\n**Args**\n\n- x: a\n  b.\n- y: c."),
        ("See :class:`Tensor` and :func:`~a.b`.", "See ``Tensor`` and ``a.b``."),
        ("As so::\n\n    x = 1\n\nEnd.", "As so:\n\n    x = 1\n\nEnd."),
    ],
)
def test_docstrings_become_markdown(docstring, expected):
    assert api.prose(docstring) == expected


def test_links_between_files_become_links_between_pages():
    found = {"README.md": "index.md", "docs/guide/a.md": "guide/a.md", "examples/b.py": "examples/b.py.md"}
    text = "[a](docs/guide/a.md#x) [b](examples/b.py) [c](LICENSE) [d](https://e)\n```\n[a](docs/guide/a.md)\n```"
    assert website.linked(text, "README.md", found) == (
        "[a](guide/a.md#x) [b](examples/b.py.md) c [d](https://e)\n```\n[a](docs/guide/a.md)\n```"
    )
    assert website.linked("[b](../../examples/b.py)", "docs/guide/a.md", found) == "[b](../examples/b.py.md)"
