"""A save that is killed at any system call leaves a whole checkpoint, old or new."""

import json
import platform
import subprocess
import sys
from pathlib import Path

import pytest

CAN_TRACE = sys.platform == "linux" and platform.machine() == "x86_64"
pytestmark = pytest.mark.skipif(not CAN_TRACE, reason="calls are told apart on Linux on x86-64 only")

HERE = Path(__file__).parent


def kill_all(folder, *arguments):
    command = [sys.executable, str(HERE / "kills.py"), *map(str, arguments), str(folder)]
    ended = subprocess.run(command, capture_output=True, text=True, timeout=900, check=False)
    assert ended.stdout, ended.stderr
    assert ended.returncode in (0, 1), (ended.returncode, ended.stdout, ended.stderr[-3000:])
    assert ended.stdout.endswith("}\n"), (ended.stdout, ended.stderr[-3000:])
    return ended.returncode, json.loads(ended.stdout.splitlines()[-1])


@pytest.mark.timeout(300)
def test_kills_at_some_calls(tmp_path):
    code, found = kill_all(tmp_path, "--each", 8)
    assert code == 0, found
    assert found["kills"] > 50
    assert len(found["calls"]) >= 3  # which of them an eighth meets changes from run to run


@pytest.mark.slow
@pytest.mark.timeout(1000)
def test_kills_at_every_call(tmp_path):
    code, found = kill_all(tmp_path)
    assert code == 0, found
    assert found["kills"] >= 500
    assert found["left"].keys() == {"old", "new"}
    assert {"write", "write torn", "fsync", "rename", "mkdir"} <= found["calls"].keys()
