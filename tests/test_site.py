"""The site: a page for every public name, links that lead somewhere, pages that fit a phone and a desk."""

import functools
import http.server
import importlib
import inspect
import json
import re
import shutil
import subprocess
import sys
import threading
import warnings
from html.parser import HTMLParser
from pathlib import Path
from urllib.parse import unquote, urldefrag

import numpy as np
import pytest

import distgrad as dg
from distgrad import cli, errors
from distgrad.autograd.primitive import REGISTRY

ROOT = Path(__file__).parents[1]
sys.path.insert(0, str(ROOT / "docs"))
pytest.importorskip("mkdocs")
api = importlib.import_module("api")
website = importlib.import_module("website")
pictures = importlib.import_module("pictures")
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


def test_every_variable_and_command_is_on_its_page():
    page = api.environment_page()
    code = [*(ROOT / "distgrad").rglob("*.py"), *(ROOT / "launch").rglob("*.py")]
    names = {name for path in code for name in re.findall(r"\bDISTGRAD_[A-Z_]+", path.read_text())}
    assert len(names) > 10
    assert [name for name in sorted(names) if name not in page] == []
    found = set(api.commands(cli.main))
    assert {"", "run", "report", "checkpoint verify"} <= found
    assert {name.partition(" ")[0] for name in found} == {"", *cli.main.commands}


def test_every_package_that_users_reach_has_pages():
    """What ``dg`` names, what that names in turn, and all errors."""
    rooms, waiting = set(), ["distgrad"]
    while waiting:
        room = waiting.pop()
        rooms.add(room)
        module = importlib.import_module(room)
        values = [getattr(module, name) for name in module.__all__]
        waiting += {value.__name__ for value in values if inspect.ismodule(value)} - rooms
    assert rooms <= set(api.ROOMS)
    defined = {
        name
        for name, value in vars(errors).items()
        if inspect.isclass(value) and value.__module__ == errors.__name__ and not name.startswith("_")
    }
    assert defined == set(errors.__all__) & defined
    assert defined <= set(api.room_pages("distgrad.errors"))


def points(svg, kind):
    """The points of a curve in a picture, in the picture's own units."""
    runs = re.findall(rf'<polyline class="{kind}" points="([^"]+)"', svg)
    return np.array([list(map(float, point.split(","))) for run in runs for point in run.split()])


@pytest.mark.parametrize(
    ("function", "slope", "runs"),
    [
        (np.tanh, lambda x: 1 - np.tanh(x) ** 2, (1, 1)),
        (np.square, lambda x: 2 * x, (1, 1)),
        (np.floor, lambda x: 0 * x, (9, 1)),
        (lambda x: 1 / x, lambda x: -1 / x**2, (2, 2)),
    ],
    ids=["tanh", "square", "floor", "reciprocal"],
)
def test_a_picture_shows_a_function_and_its_derivative(function, slope, runs, request):
    name = request.node.callspec.id
    svg = pictures.picture(name, getattr(dg, name), (-4.0, 4.0))
    assert (svg.count('class="value" points'), svg.count('class="slope" points')) == runs
    with np.errstate(divide="ignore"):
        x = np.linspace(-4, 4, pictures.POINTS)
        low, high = pictures.heights(function(x), slope(x))
    width = pictures.WIDTH - pictures.LEFT - pictures.RIGHT
    height = pictures.HEIGHT - pictures.TOP - pictures.BOTTOM
    for kind, expected in (("value", function), ("slope", slope)):
        found = points(svg, kind)
        places = (found[:, 0] - pictures.LEFT) / width * 8 - 4
        inner = np.abs(places - np.round(places)) > 0.05  # away from jumps, as places are rounded
        heights = high - (found[:, 1] - pictures.TOP) / height * (high - low)
        room = 0.01 * (high - low)
        assert inner.sum() > 100
        np.testing.assert_allclose(heights[inner], expected(places[inner]), atol=room)


def test_what_is_no_function_of_one_number_has_no_picture():
    for function in (
        dg.cumsum,
        dg.sum,
        dg.flip,
        dg.rand_like,
        dg.isnan,
        dg.softmax,
        lambda x: x.reshape(-1, 1),
    ):
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            assert pictures.picture("none", function) == ""
    assert "<svg" in api.page("distgrad.nn", "GELU", dg.nn.GELU)
    assert "<svg" not in api.page("distgrad.nn", "Linear", dg.nn.Linear)
    build = importlib.import_module("build")
    drawn = [
        name for name in ("exp", "gelu", "relu", "sin", "dropout", "matmul") if build.picture(REGISTRY[name])
    ]
    assert drawn == ["exp", "gelu", "relu", "sin"]


def test_links_between_files_become_links_between_pages():
    found = {"README.md": "index.md", "docs/guide/a.md": "guide/a.md", "examples/b.py": "examples/b.py.md"}
    text = "[a](docs/guide/a.md#x) [b](examples/b.py) [c](LICENSE) [d](https://e)\n```\n[a](docs/guide/a.md)\n```"
    assert website.linked(text, "README.md", found) == (
        "[a](guide/a.md#x) [b](examples/b.py.md) c [d](https://e)\n```\n[a](docs/guide/a.md)\n```"
    )
    assert website.linked("[b](../../examples/b.py)", "docs/guide/a.md", found) == "[b](../examples/b.py.md)"
