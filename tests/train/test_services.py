"""Services are told in their own files' words: read back as the services' own programs read them."""

import json
import time

import numpy as np
import pytest

import distgrad as dg
from distgrad import train

pytestmark = [pytest.mark.slow, pytest.mark.filterwarnings("default"), pytest.mark.timeout(300)]


def tell(logger):
    """A run of a few steps that goes back once, with everything that a logger takes."""
    with logger:
        logger.hyperparameters(
            {"lr": np.float32(0.5), "model": "gpt", "share": dg.asarray(1.5), "none": None}
        )
        logger.scalars(3, loss=dg.asarray(0.5), **{"rates/lr": 2.0})
        logger.scalars(1, loss=float("nan"))
        logger.histogram(3, "weights/0", np.arange(9.0), bins=3)
        logger.image(3, "layer/0", np.linspace(0, 1, 12).reshape(3, 4))
        logger.text(3, "sample", "once <b>")


def same(found, expected):
    np.testing.assert_array_equal(np.array(found, float), np.array(expected, float))


LOSSES = [(3, 0.5), (1, float("nan"))]


def test_tensorboard(tmp_path):
    pytest.importorskip("tensorboardX")
    reader = pytest.importorskip("tensorboard.backend.event_processing.event_accumulator")
    tell(train.TensorBoardLogger(tmp_path))
    read = reader.EventAccumulator(str(tmp_path)).Reload()
    same([(event.step, event.value) for event in read.Scalars("loss")], LOSSES)
    same([(event.step, event.value) for event in read.Scalars("rates/lr")], [(3, 2.0)])
    (histogram,) = read.Histograms("weights/0")
    assert sum(histogram.histogram_value.bucket) == 9
    (image,) = read.Images("layer/0")
    assert (image.step, image.width, image.height) == (3, 4, 3)
    (text,) = read.Tensors("sample/text_summary")
    assert text.tensor_proto.string_val == [b"once <b>"]
    (table,) = read.Tensors("hyperparameters/text_summary")
    assert b"| share | 1.5 |" in table.tensor_proto.string_val[0]


def records(path, kind):
    """What a file of W&B holds: LevelDB's log, blocks of 32 KiB of records with checksum, length and kind."""
    data, place, whole = path.read_bytes(), 7, b""
    while place < len(data):
        room = 32768 - place % 32768
        if room < 7:
            place += room
            continue
        length, part = int.from_bytes(data[place + 4 : place + 6], "little"), data[place + 6]
        whole += data[place + 7 : place + 7 + length]
        place += 7 + length
        if part in (1, 4):  # a whole record, or the last part of one
            yield kind.FromString(whole)
            whole = b""


def test_weights_and_biases(tmp_path, monkeypatch):
    pytest.importorskip("wandb")
    messages = pytest.importorskip("wandb.proto.wandb_internal_pb2")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("WANDB_SILENT", "true")
    tell(train.WandbLogger(project="p", mode="offline", dir=str(tmp_path)))
    (path,) = tmp_path.glob("wandb/offline-run-*/run-*.wandb")
    deadline_s = time.monotonic() + 60
    found = []
    while not any(each.WhichOneof("record_type") == "exit" for each in found):  # W&B's own process writes it
        assert time.monotonic() < deadline_s
        time.sleep(0.05)
        found = list(records(path, messages.Record))
    rows = [
        {item.key or "/".join(item.nested_key): json.loads(item.value_json) for item in record.history.item}
        for record in found
        if record.WhichOneof("record_type") == "history"
    ]
    same([(row["step"], row["loss"]) for row in rows if "loss" in row], LOSSES)
    assert [row["rates/lr"] for row in rows if "rates/lr" in row] == [2]
    assert [row["weights/0/values"] for row in rows if "weights/0/values" in row] == [[3, 3, 3]]
    assert [row["layer/0/width"] for row in rows if "layer/0/width" in row] == [4]
    (page,) = tmp_path.glob("wandb/offline-run-*/files/media/html/sample*.html")
    assert "once &lt;b>" in page.read_text()
    settings = {item.key: json.loads(item.value_json) for each in found for item in each.config.update}
    assert settings == {"lr": 0.5, "model": "gpt", "share": 1.5, "none": None}
    assert [each.exit.exit_code for each in found if each.WhichOneof("record_type") == "exit"] == [0]


def test_mlflow(tmp_path, monkeypatch):
    mlflow = pytest.importorskip("mlflow")
    monkeypatch.setenv("MLFLOW_ALLOW_FILE_STORE", "true")  # else it wants a database
    store = (tmp_path / "runs").as_uri()
    with pytest.raises(ZeroDivisionError), train.MLflowLogger(tracking_uri=store, experiment="e"):
        raise ZeroDivisionError
    tell(train.MLflowLogger(tracking_uri=store, experiment="e", run_name="r"))
    client = mlflow.MlflowClient(tracking_uri=store)
    found = client.search_runs([client.get_experiment_by_name("e").experiment_id])
    assert sorted(run.info.status for run in found) == ["FAILED", "FINISHED"]
    (run,) = (run for run in found if run.info.run_name == "r")
    history = client.get_metric_history(run.info.run_id, "loss")
    same([(each.step, each.value) for each in history], LOSSES)
    assert run.data.metrics["rates/lr"] == 2.0
    assert run.data.params == {"lr": "0.5", "model": "gpt", "share": "1.5", "none": "None"}
    files = tmp_path / "runs" / run.info.experiment_id / run.info.run_id / "artifacts"
    assert json.loads((files / "histograms/weights/0-3.json").read_text())["counts"] == [3, 3, 3]
    assert (files / "images/layer/0-3.png").stat().st_size > 50
    assert (files / "texts/sample-3.txt").read_text() == "once <b>"
