"""Draws the guide's pictures of recorded runs: ``python docs/traces.py [demo] [hosts] [straggler]``.

Each is a page of ``distgrad report`` as Chromium shows it: the example on two ranks; two hosts of two ranks
in network namespaces (Linux, as root), with clocks that differ; and two ranks, one of which sleeps before
backward.
"""

from __future__ import annotations

import argparse
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path

from PIL import Image

from distgrad.profiler import reporting

ROOT = Path(__file__).parents[1]
LIMIT_S = 300.0
WIDTH = 960
COLOURS = 256
BROWSERS = ("chromium", "chromium-browser", "google-chrome")

STRAGGLER = """
import time

import numpy as np

import distgrad as dg
from distgrad import nn

comm = dg.comm.init()
dg.manual_seed(0)
network = nn.Sequential(nn.Linear(256, 256), nn.ReLU(), nn.Linear(256, 10))
model = dg.parallel.DistributedDataParallel(network)
optimizer = dg.optim.SGD(model.parameters(), lr=0.01)
rng = np.random.default_rng(comm.rank)
x, y = rng.standard_normal((2560, 256), np.float32), rng.integers(0, 10, 2560)
for inputs, targets in dg.data.DataLoader(dg.data.TensorDataset(x, y), batch_size=64):
    optimizer.zero_grad()
    loss = nn.functional.cross_entropy(model(inputs), targets)
    time.sleep(0.1 * comm.rank)
    loss.backward()
    optimizer.step()
"""


def run(*command: str, folder: Path) -> None:
    """Run a command in a folder; what it says is seen only where it fails."""
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True, timeout=LIMIT_S, check=False)
    if done.returncode:
        sys.exit(f"{' '.join(command)}\n{done.stdout}{done.stderr}")


def job(script: str, *options: str, folder: Path) -> Path:
    """Record a job of two ranks, and return its trace."""
    command = (sys.executable, "-m", "distgrad", "run", "-n", "2", "--trace", "out.json.gz", script)
    run(*command, *options, folder=folder)
    return folder / "out.json.gz"


def demo(folder: Path) -> Path:
    """``examples/mnist.py``, one epoch."""
    options = ("--epochs", "1", "--target-accuracy", "0")
    return job(str(ROOT / "examples" / "mnist.py"), *options, folder=folder)


def hosts(folder: Path) -> Path:
    """The trace whose clocks a test has set wrong."""
    run(
        *(sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "tests/hosts/test_tracing.py"),
        f"--basetemp={folder / 'hosts'}",
        folder=ROOT,
    )
    found = sorted((folder / "hosts").rglob("out.json.gz"))
    if not found:
        sys.exit("traces: hosts in network namespaces need Linux, root and what `make machine` installs")
    return found[0]


def straggler(folder: Path) -> Path:
    """A rank that sleeps 0.1 s a step."""
    (folder / "straggler.py").write_text(STRAGGLER)
    return job("straggler.py", folder=folder)


#: What can be drawn, and how much of the page is shown.
PICTURES: dict[str, tuple[Callable[[Path], Path], int]] = {
    "demo": (demo, 1000),
    "hosts": (hosts, 1100),
    "straggler": (straggler, 1000),
}


def reduced(image: Image.Image) -> Image.Image:
    """A picture in its most frequent colours, which takes a third of the bytes."""
    counted = sorted(image.getcolors(image.width * image.height) or [], reverse=True)[:COLOURS]
    palette = Image.new("P", (1, 1))
    palette.putpalette([part for _, colour in counted for part in colour])
    return image.quantize(palette=palette, dither=Image.Dither.NONE)


def draw(name: str, browser: str) -> Path:
    """Record a run, and write ``docs/trace-NAME.png``."""
    record, height = PICTURES[name]
    picture = ROOT / "docs" / f"trace-{name}.png"
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        page = reporting.report(record(folder))
        drawn = folder / "page.png"
        run(
            *(browser, "--headless", "--no-sandbox", "--disable-gpu", "--hide-scrollbars"),
            *(f"--user-data-dir={folder / 'browser'}", "--blink-settings=preferredColorScheme=1"),
            *(f"--window-size={WIDTH},{height}", f"--screenshot={drawn}", page.as_uri()),
            folder=folder,
        )
        with Image.open(drawn) as image:
            reduced(image.convert("RGB")).save(picture, optimize=True)
    return picture


def main() -> None:
    """Draw all pictures, or those that are named."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("names", nargs="*", metavar="NAME", help=f"of {', '.join(PICTURES)}; default: all")
    names = parser.parse_args().names or list(PICTURES)
    unknown = [name for name in names if name not in PICTURES]
    if unknown:
        parser.error(f"no picture is named {unknown[0]}; choose of {', '.join(PICTURES)}")
    browser = next(filter(None, map(shutil.which, BROWSERS)), None)
    if browser is None:
        sys.exit("traces: no Chromium to draw with; make machine installs it")
    for name in names:
        print(draw(name, browser))


if __name__ == "__main__":
    main()
