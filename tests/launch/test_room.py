"""What a job leaves behind is seen, where this machine lets a job have a room of its own."""

import pytest

from .room import Room


@pytest.fixture
def room():
    try:
        found = Room()
    except OSError as error:
        pytest.skip(f"files that jobs leave behind are not looked for: {error}")
    yield found
    found.close()


def test_files_that_a_job_leaves_are_found(run, room, tmp_path):
    script = """
        import os, pathlib, tempfile
        if os.environ["RANK"] == "1":
            pathlib.Path("/dev/shm/left").touch()
            os.mkdir(os.path.join(tempfile.gettempdir(), "left_too"))
            print(tempfile.mkstemp(dir=".")[1])
    """
    ended = run("-n 2", script, room=room)
    assert ended.code == 0, ended.stderr
    inner = ended.stdout.removeprefix("[1] ").strip()
    (outer,) = (path for path in room.left() if path.endswith("left_too"))
    assert sorted(room.left()) == sorted(["/dev/shm/left", outer, inner])
    assert [path.name for path in tmp_path.iterdir()] == ["script.py"]  # the machine itself has none of them


def test_a_room_that_cannot_be_had_is_explained(monkeypatch):
    monkeypatch.setenv("PATH", "")
    with pytest.raises(OSError, match="needs unshare, of the package util-linux"):
        Room()
    monkeypatch.undo()
    monkeypatch.setattr("tempfile.tempdir", "/nowhere")
    with pytest.raises(OSError, match="a room of a job's own cannot be had here: "):
        Room()
