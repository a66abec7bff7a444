"""Loggers write on rank 0 what they are told, and a run that goes on keeps what came before."""

import contextlib
import csv
import json
import subprocess
import sys
import types

import numpy as np
import pytest

import distgrad as dg
from distgrad import train
from distgrad.comm import ThreadWorld
from distgrad.errors import DataError, MissingDependencyError, OptionError


def rows_of(path):
    with path.open(newline="") as file:
        return list(csv.DictReader(file))


def objects_of(path):
    return [json.loads(line) for line in path.read_text().splitlines()]


def test_a_table_grows_by_lines_and_columns(tmp_path):
    path = tmp_path / "new/log.csv"
    with train.CSVLogger(path) as logger:
        logger.scalars(0, loss=dg.asarray(0.5), lr=1e-3)
        assert rows_of(path)[0]["loss"] == "0.5"  # at once
        logger.scalars(1, loss=np.float32(0.25), **{"a,b": 3})
    rows = rows_of(path)
    assert [row["step"] for row in rows] == ["0", "1"]
    assert rows[0]["a,b"] == ""
    assert rows[1] | {"seconds": ""} == {"step": "1", "seconds": "", "loss": "0.25", "lr": "", "a,b": "3.0"}
    logger.close()


def test_a_run_goes_on_behind_a_step(tmp_path):
    for kind, name in ((train.CSVLogger, "log.csv"), (train.JSONLogger, "log.jsonl")):
        path = tmp_path / name
        with kind(path) as logger:
            for step in range(5):
                logger.scalars(step, loss=step)
        with path.open("a") as file:
            file.write('{"half' if kind is train.JSONLogger else "1")  # killed in the middle of a line
        assert train.read_run(path)["loss"] == [(step, step) for step in range(5)]
        with pytest.raises(DataError, match=r"is there already; .*resume=STEP"):
            kind(path)
        with kind(path, resume=2) as logger:
            logger.scalars(3, loss=30)
        read = rows_of if kind is train.CSVLogger else objects_of
        assert [float(row["loss"]) for row in read(path)] == [0, 1, 2, 30]


@pytest.mark.parametrize(
    ("kind", "text", "told"),
    [
        (train.CSVLogger, "a,b\n1,2\n9,4\n", "does not begin with step,seconds"),
        (train.CSVLogger, "step,seconds\nfirst,2\n", "hold a step a line"),
        (train.JSONLogger, '{\n "a": 1\n}\n', "no record of this kind"),
        (train.JSONLogger, '{"a": 1}\n[2]\n', "no record of this kind"),
        (train.JSONLogger, "a table\n", "no record of this kind"),
        (train.JSONLogger, '{"step": "one"}\n', "no record of this kind"),
        (train.CSVLogger, "\x00\udcff\n", "no text in UTF-8"),
    ],
)
def test_a_file_of_something_else_stays_as_it_is(kind, text, told, tmp_path):
    path = tmp_path / "other"
    path.write_bytes(text.encode(errors="surrogateescape"))
    with pytest.raises(DataError, match=told):
        kind(path, resume=3)
    assert path.read_bytes() == text.encode(errors="surrogateescape")
    assert list(tmp_path.iterdir()) == [path]


NAMES = ("a,b", 'say "x"', "two\nlines", "cr\rlf\r\n", "é\u2028\x0b", " ")


@pytest.mark.parametrize("kind", [train.CSVLogger, train.JSONLogger])
def test_any_name_and_kind_of_step_comes_back(kind, tmp_path):
    path = tmp_path / "log"
    with kind(path) as logger:
        for step, name in enumerate(NAMES):
            logger.scalars(np.int64(step), **{name: dg.asarray(step, dtype=dg.bfloat16)})
    with kind(path, resume=np.int64(len(NAMES))) as logger:
        logger.scalars(len(NAMES), more=1)
    found = {name: [(float(step), float(step))] for step, name in enumerate(NAMES)}
    assert train.read_run(path) == found | {"more": [(float(len(NAMES)), 1.0)]}


@pytest.mark.parametrize("kind", [train.CSVLogger, train.JSONLogger])
def test_fields_of_a_line_and_broken_steps_are_refused(kind, tmp_path):
    with kind(tmp_path / "log") as logger:
        with pytest.raises(OptionError, match="'seconds' is a field of every line"):
            logger.scalars(0, seconds=1.0)
        with pytest.raises(OptionError, match="step must be a whole number"):
            logger.scalars(0.5, loss=1.0)


@pytest.mark.parametrize("kind", [train.CSVLogger, train.JSONLogger])
def test_steps_may_repeat_and_go_back(kind, tmp_path):
    with kind(tmp_path / "log") as logger:
        for step in (3, 3, 1, 4):
            logger.scalars(step, loss=step)
    assert train.read_run(tmp_path / "log")["loss"] == [(step, step) for step in (3, 3, 1, 4)]
    with pytest.raises(OptionError, match=r"resume: step must be a whole number, got 1\.5"):
        kind(tmp_path / "log", resume=1.5)
    kind(tmp_path / "log", resume=3).close()
    assert train.read_run(tmp_path / "log")["loss"] == [(3, 3), (3, 3), (1, 1)]


def test_pictures_are_bytes_or_between_0_and_1(tmp_path):
    image = pytest.importorskip("PIL.Image")
    with train.JSONLogger(tmp_path / "log") as logger:
        logger.image(0, "a/b", np.array([[True, False]]))
        logger.image(0, "a_b", np.array([[np.nan, 2.0, -1.0]]))
        for values in (np.array([[256]]), np.array([[-1]]), np.zeros((0, 3))):
            with pytest.raises(OptionError, match=r"from 0 to 255|a pixel or more"):
                logger.image(0, "c", values)
        with pytest.raises(OptionError, match="bins must be 1 or more"):
            logger.histogram(0, "d", np.zeros(3), bins=0)
    found = [
        np.asarray(image.open(tmp_path / each["file"]))[0, :, 0] for each in objects_of(tmp_path / "log")
    ]
    assert [each.tolist() for each in found] == [[255, 0], [0, 255, 0]]


def test_settings_of_any_kind_become_json(tmp_path):
    path = tmp_path / "log.jsonl"
    with train.JSONLogger(path) as logger:
        logger.hyperparameters(
            {"a": float("nan"), "b": np.float32(0.5), "c": np.arange(2), "d": dg.asarray(1.0),
             "e": {1: [np.inf]}, "f": path, "g": None, "h": True}
        )  # fmt: skip
        with pytest.raises(OptionError, match="'kind' is a field"):
            logger.hyperparameters({"kind": 1})
    (found,) = objects_of(path)
    assert found | {"seconds": 0} == {
        "kind": "hyperparameters", "step": None, "seconds": 0, "a": None, "b": 0.5, "c": [0, 1], "d": 1.0,
        "e": {"1": [None]}, "f": str(path), "g": None, "h": True,
    }  # fmt: skip


def test_json_lines_hold_everything(tmp_path):
    pytest.importorskip("PIL")
    path = tmp_path / "log.jsonl"
    with train.JSONLogger(path) as logger:
        logger.hyperparameters({"lr": 0.1, "model": "gpt", "path": tmp_path})
        logger.scalars(1, loss=float("nan"), accuracy=True)
        logger.histogram(1, "weights", dg.asarray([0.0, 0.5, 1.0, float("inf")]), bins=2)
        logger.image(1, "layer/0", np.linspace(0, 1, 12).reshape(3, 4))
        logger.image(2, "colours", np.zeros((3, 2, 2), np.uint8))
        logger.text(1, "sample", "once upon a time")
    by_kind = {each["kind"]: each for each in objects_of(path)}
    assert by_kind["hyperparameters"]["path"] == str(tmp_path)
    assert by_kind["scalars"]["loss"] is None
    assert by_kind["scalars"]["accuracy"] == 1
    assert by_kind["histogram"]["counts"] == [1, 2]
    assert by_kind["text"]["text"] == "once upon a time"
    from PIL import Image

    files = sorted((tmp_path / "log.jsonl.images").iterdir())
    assert [each.name for each in files] == ["colours-2.png", "layer%2F0-1.png"]
    assert np.asarray(Image.open(files[1])).shape == (3, 4, 3)
    assert np.asarray(Image.open(files[1]))[-1, -1].tolist() == [255] * 3


def test_only_rank_0_writes(tmp_path):
    def run(comm):
        with train.CSVLogger(tmp_path / "log.csv") as logger:
            logger.scalars(comm.rank, rank=comm.rank)

    ThreadWorld(3, timeout_s=60).run(run)
    assert [row["rank"] for row in rows_of(tmp_path / "log.csv")] == ["0.0"]


def test_several_loggers_are_told_what_they_take(tmp_path):
    both = train.Loggers(train.CSVLogger(tmp_path / "log.csv"), train.JSONLogger(tmp_path / "log.jsonl"))
    with both:
        both.scalars(1, loss=2.0)
        both.text(1, "note", "hello")
    assert len(rows_of(tmp_path / "log.csv")) == 1
    assert [each["kind"] for each in objects_of(tmp_path / "log.jsonl")] == ["scalars", "text"]
    with pytest.raises(AttributeError, match="no attribute 'scalar'"):
        both.scalar()
    with pytest.raises(OptionError, match="at least one"):
        train.Loggers()


def test_what_loggers_refuse(tmp_path):
    logger = train.CSVLogger(tmp_path / "log.csv")
    with pytest.raises(OptionError, match="takes numbers and no texts; use JSONLogger"):
        logger.text(1, "a", "b")
    with pytest.raises(OptionError, match=r"loss must be one real number, got float64\[2\]"):
        logger.scalars(1, loss=np.zeros(2))
    with pytest.raises(OptionError, match=r"must be \[height, width\]"):
        logger.image(1, "a", np.zeros((2, 2, 2)))
    logger.close()


def test_event_files_can_be_read(tmp_path):
    pytest.importorskip("tensorboardX")
    with train.TensorBoardLogger(tmp_path / "events") as logger:
        logger.scalars(3, loss=dg.asarray(0.5))
        logger.histogram(3, "weights", np.arange(9.0))
        logger.image(3, "picture", np.zeros((4, 4)))
        logger.text(3, "sample", "once")
        logger.hyperparameters({"lr": 0.1})
    (file,) = (tmp_path / "events").iterdir()
    from tensorboardX.proto.event_pb2 import Event

    data, tags = file.read_bytes(), []
    while data:  # records: length, its checksum, the event, its checksum
        length = int.from_bytes(data[:8], "little")
        event = Event.FromString(data[12 : 12 + length])
        tags += [(event.step, value.tag) for value in event.summary.value]
        data = data[16 + length :]
    assert {(3, "loss"), (3, "weights"), (3, "picture")} <= set(tags)
    assert any("sample" in tag for _, tag in tags)


@pytest.mark.parametrize(
    ("kind", "module"), [(train.TensorBoardLogger, "tensorboardX"), (train.WandbLogger, "wandb"),
                         (train.MLflowLogger, "mlflow")],
)  # fmt: skip
def test_a_package_that_is_missing_is_named(kind, module, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, module, None)
    with pytest.raises(MissingDependencyError, match=f"needs {module}, which is not installed"):
        kind(tmp_path) if kind is train.TensorBoardLogger else kind()


def test_services_are_told_in_their_own_words(monkeypatch):
    said = []

    def recorder(name):
        return lambda *args, **options: said.append((name, args, options))

    run = types.SimpleNamespace(log=recorder("log"), define_metric=recorder("metric"),
                                finish=recorder("finish"),
                                config=types.SimpleNamespace(update=recorder("config")))  # fmt: skip
    wandb = types.SimpleNamespace(
        init=lambda **options: (said.append(("init", (), options)), run)[1], Html=str
    )
    monkeypatch.setitem(sys.modules, "wandb", wandb)
    with train.WandbLogger(project="p", mode="offline") as logger:
        logger.scalars(4, loss=1)
        logger.hyperparameters({"lr": 1})
        logger.text(4, "t", "a<b")
    assert said[0] == ("init", (), {"project": "p", "mode": "offline"})
    # a step of its own: W&B drops what goes back in its count of records
    assert said[1] == ("metric", ("*",), {"step_metric": "step"})
    assert said[2] == ("log", ({"loss": 1.0, "step": 4},), {})
    assert said[3][:2] == ("config", ({"lr": 1},))
    assert said[4][1:] == (({"t": "<pre>a&lt;b</pre>", "step": 4},), {})
    assert said[-1] == ("finish", (), {"exit_code": 0})


@pytest.mark.parametrize(
    ("ending", "failed"),
    [
        (None, False),
        (ValueError(), True),
        (KeyboardInterrupt(), True),
        (SystemExit(0), False),
        (SystemExit(3), True),
    ],
)
def test_services_show_how_a_run_has_ended(ending, failed, monkeypatch, tmp_path):
    said = []
    run = types.SimpleNamespace(
        define_metric=lambda *args, **options: None, finish=lambda **options: said.append(options)
    )
    monkeypatch.setitem(sys.modules, "wandb", types.SimpleNamespace(init=lambda: run))
    mlflow = types.SimpleNamespace(start_run=lambda: None, end_run=said.append)
    monkeypatch.setitem(sys.modules, "mlflow", mlflow)
    loggers = train.WandbLogger(), train.MLflowLogger(), train.CSVLogger(tmp_path / "log.csv")
    with contextlib.suppress(BaseException), train.Loggers(*loggers):
        if ending is not None:
            raise ending
    assert said == [{"exit_code": int(failed)}, "FAILED" if failed else "FINISHED"]


@pytest.mark.parametrize("size", [1, 2])
def test_a_logger_that_is_closed_takes_nothing_on_any_rank(size, tmp_path):
    def be_a_rank(comm):
        logger = train.JSONLogger(tmp_path / f"{comm.rank}.jsonl")
        logger.close()
        logger.close()
        for call in (lambda: logger.scalars(1, loss=1), lambda: logger.text(1, "a", "b")):
            with pytest.raises(OptionError, match=r"JSONLogger\.(scalars|text): the logger is closed"):
                call()

    ThreadWorld(size).run(be_a_rank)


# -- curves


def test_curves_of_runs(tmp_path):
    pytest.importorskip("matplotlib")
    paths = []
    for name, kind in (("a.csv", train.CSVLogger), ("b.jsonl", train.JSONLogger)):
        paths.append(tmp_path / name)
        with kind(paths[-1]) as logger:
            for step in range(3):
                logger.scalars(step, loss=1 / (1 + step), **({"lr": 0.1} if step else {}))
    assert train.read_run(paths[0]) == train.read_run(paths[1])
    assert train.read_run(paths[0])["lr"] == [(1.0, 0.1), (2.0, 0.1)]
    picture = tmp_path / "curves.svg"
    command = [sys.executable, "-m", "distgrad", "plot", *map(str, paths), "-o", str(picture)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=True)
    assert "loss, lr" in done.stdout
    assert picture.read_text().count("<path") > 4
    done = subprocess.run([*command[:4], "none.csv"], capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 1
    assert "none.csv is not there" in done.stderr


def test_a_file_of_another_kind_is_no_run(tmp_path):
    path = tmp_path / "notes.txt"
    path.write_text("hello\n")
    with pytest.raises(DataError, match="no logger's file"):
        train.read_run(path)


@pytest.mark.parametrize(
    "text",
    [
        "step,seconds,loss\n1,2,abc\n",
        "step,seconds,loss\nfirst,2,3\n",
        "step,seconds,loss,loss\n1,2,3,4\n",
        f"step,seconds,loss\n1,2,{'3' * 200_000}\n",
        '{"kind":"scalars","loss":1}\n',
        '{"kind":"scalars","step":null,"loss":1}\n',
        '{"kind":"scalars","step":1,"loss":[1]}\n',
        "step,seconds,\udcff\n1,2,3\n",
    ],
)
def test_broken_files_are_told(text, tmp_path):
    path = tmp_path / "log"
    path.write_bytes(text.encode(errors="surrogateescape"))
    with pytest.raises(DataError):
        train.read_run(path)


def test_a_table_that_another_program_has_saved(tmp_path):
    path = tmp_path / "log.csv"
    path.write_bytes("\ufeffstep,seconds,loss\r\n1,2,3\r\n\r\n2,2,\r\n".encode())
    assert train.read_run(path) == {"loss": [(1.0, 3.0)]}


def test_a_picture_of_curves_is_whole_or_not_there(tmp_path):
    pytest.importorskip("matplotlib")
    with train.CSVLogger(tmp_path / "log.csv") as logger:
        logger.scalars(1, loss=1)
    with pytest.raises(OptionError, match=r"must end in \.png, \.svg or \.pdf, got 'curves.doc'"):
        train.plot_runs([tmp_path / "log.csv"], tmp_path / "curves.doc")
    with pytest.raises(OSError, match="No such file"):
        train.plot_runs([tmp_path / "log.csv"], tmp_path / "none/curves.png")
    assert train.plot_runs([tmp_path / "log.csv"], tmp_path / "curves.PNG") == ["loss"]
    assert sorted(each.name for each in tmp_path.iterdir()) == ["curves.PNG", "log.csv"]
