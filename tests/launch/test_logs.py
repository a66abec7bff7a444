"""Lines, progress bars and log files, without processes."""

import io
import itertools
import time

import pytest
from distgrad.launch.logs import Console, LineSplitter
from hypothesis import given
from hypothesis import strategies as st

from distgrad.launch import logs


def split(*pieces: bytes) -> list[bytes]:
    splitter = LineSplitter()
    lines = [line for piece in pieces for line in splitter.feed(piece)]
    return lines + list(splitter.close())


@pytest.mark.parametrize(
    ("text", "lines"),
    [
        (b"one\ntwo\n", [b"one", b"two"]),
        (b"one\n\nlast", [b"one", b"", b"last"]),
        (b"dos\r\nends\r\n", [b"dos", b"ends"]),
        (b"\r 10%\r 50%\r100%\nnext\n", [b"100%", b"next"]),
        (b"\r 10%\r 50%", [b" 50%"]),
        (b"10%\r50%\r\n", [b"50%"]),
        (b"\rbar\r   \rtext\n", [b"text"]),  # a bar that wipes itself away
        (b"\rbar\r   \r", []),
        (b"kept  \n", [b"kept  "]),
    ],
)
def test_lines(text, lines):
    assert split(text) == lines


@given(st.text("ab \r\n", max_size=40), st.lists(st.integers(0, 40), max_size=4))
def test_lines_do_not_depend_on_the_pieces_in_which_they_come(text, cuts):
    data = text.encode()
    places = [0, *sorted(cuts), len(data)]
    pieces = [data[start:stop] for start, stop in itertools.pairwise(places)]
    assert split(*pieces) == split(data)


def test_a_line_without_end_is_cut(monkeypatch):
    monkeypatch.setattr(logs, "_LONGEST_LINE_BYTES", 100)
    lines = split(*[b"x" * 60] * 5, b"\n")
    assert [len(line) for line in lines] == [100, 100, 100]


class Terminal(io.BytesIO):
    """A stream that takes itself for a terminal."""

    def isatty(self) -> bool:
        return True


def test_prefix_quiet_and_log_files(tmp_path):
    for quiet in (False, True):
        out, err, folder = io.BytesIO(), io.BytesIO(), tmp_path / f"quiet{quiet}" / "logs"
        console = Console(out, err, 12, quiet=quiet, log_dir=folder)
        console.write(0, 0, b"first\nsec")
        console.write(11, 0, b"eleven\n")
        console.write(11, 1, b"warning\n")
        console.write(0, 0, b"ond\nunfinished")
        console.show(11, "Traceback\nError")
        console.log(11, "only in the file\n")
        console.close_rank(0)
        assert console.flush(5)
        console.close()
        theirs = [] if quiet else [b"[11] eleven"]
        assert out.getvalue().splitlines() == [b"[0] first", *theirs, b"[0] second", b"[0] unfinished"]
        theirs = [] if quiet else [b"[11] warning"]
        assert err.getvalue().splitlines() == [*theirs, b"[11] Traceback", b"[11] Error"]
        assert (folder / "rank0.txt").read_text() == "first\nsecond\nunfinished\n"
        expected = "eleven\nwarning\nTraceback\nError\nonly in the file\n"
        assert (folder / "rank11.txt").read_text() == expected
        assert sorted(path.name for path in folder.iterdir()) == sorted(f"rank{r}.txt" for r in range(12))


def test_a_bar_lives_on_a_terminal_below_whole_lines(monkeypatch):
    monkeypatch.setenv("COLUMNS", "30")
    monkeypatch.setenv("LINES", "5")
    screen = Terminal()
    console = Console(screen, screen, 2, plain=True)
    assert console.environment(1) == {"COLUMNS": "26", "LINES": "5"}
    console.write(0, 1, b"\r 10%")
    console.write(1, 0, b"line\nhalf of")
    console.write(1, 1, b"\rother bar")
    console.write(0, 1, b"\r 20%" + b"#" * 40)
    console.write(0, 1, b"\r100%\n")
    console.close_rank(1)
    assert console.flush(5)
    console.close()
    erase = b"\r\x1b[2K"
    assert screen.getvalue().split(erase) == [
        b"[0]  10%",
        b"[1] line\n[0]  10%",
        b"[0]  20%" + b"#" * 21,  # one column less than the screen has
        b"[0] 100%\n[1] other bar",
        b"[1] half of\n[1] other bar",
        b"[1] other bar\n",
    ]


def test_colours_only_on_a_terminal_and_only_if_wanted():
    for stream, plain, coloured in (
        (Terminal(), False, True),
        (Terminal(), True, False),
        (io.BytesIO(), False, False),
    ):
        console = Console(stream, io.BytesIO(), 1, plain=plain)
        console.write(0, 0, b"text\n")
        assert console.flush(5)
        console.close()
        assert stream.getvalue().endswith(b"text\n")
        assert (b"\x1b[" in stream.getvalue()) is coloured
        assert console.environment(0) == {}


@pytest.mark.parametrize("piece", [b"x" * 64, b"\r" * 64, b"x\r" * 32, b"\n" * 64], ids=repr)
def test_cutting_takes_time_in_proportion_to_the_bytes(piece):
    splitter = LineSplitter()
    began_s = time.process_time()
    for _ in range((1 << 20) // len(piece)):
        for _ in splitter.feed(piece):
            pass
    assert len(splitter.bar) < 5000
    for _ in splitter.feed(piece[:1] * (1 << 20)):
        pass
    assert time.process_time() - began_s < 5  # at most 1 s; quadratic cutting takes minutes
