"""A study runs a script on several ranks, goes on where it was, and says where the time went."""

import csv
import json
import signal
import subprocess
import sys
import time
import xml.etree.ElementTree as ET
from pathlib import Path

import pytest
from click.testing import CliRunner

import distgrad as dg
from distgrad.cli import main
from distgrad.errors import LaunchError, OptionError
from distgrad.scale import study as study_module
from distgrad.scale.model import fit, fit_line
from distgrad.scale.page import page
from distgrad.scale.recorded import Recorder
from distgrad.scale.results import LOSSES, doubts, summarise
from distgrad.scale.study import Run, Settings, measure, runs_of
from distgrad.trace import subscribe, unsubscribe

SCRIPT = """
import os, sys
import numpy as np
import distgrad as dg
comm = dg.comm.init()
assert sys.argv[1:] == ["--width", "8"]
assert open("data/numbers.txt").read() == open("../beside.txt").read() == "4"
if comm.rank == 0:
    os.mkdir("made")  # of each run and each copy its own
    open("data/log.txt", "x").close()
model = dg.parallel.DistributedDataParallel(dg.nn.Linear(8, 8), comm)
optimizer = dg.optim.SGD(model.parameters(), lr=0.1)
with dg.profiler.record("out.json"):
    for step in range(1000):
        optimizer.zero_grad()
        x = dg.asarray(np.full((2, 8), comm.rank + step % 7, np.float32))
        (model(x) ** 2).mean().backward()
        optimizer.step()
raise RuntimeError("the study has not ended the script")
"""
STEP = {
    **dict.fromkeys(("forward_s", "optimizer_s", "data_s", "checkpoint_s", "blocking_s", "exposed_s"), 0.0),
    "step_s": 1.0,
    "backward_s": 0.5,
}


def rank_of(steps, **more):
    return {"steps": [{**STEP, **step} for step in steps], "buckets": [], "host": "a", **more}


def test_a_script_is_measured_and_drawn(tmp_path, monkeypatch):
    (tmp_path / "beside.txt").write_text("4")
    tmp_path = tmp_path / "work"
    (tmp_path / "data").mkdir(parents=True)
    monkeypatch.chdir(tmp_path)
    (tmp_path / "train.py").write_text(SCRIPT)
    (tmp_path / "data" / "numbers.txt").write_text("4")
    options = ["--ranks", "1,2", "--repeat", "1", "--steps", "20", "train.py", "--width", "8"]
    done = CliRunner().invoke(main, ["scale", *options])
    assert done.exit_code == 0, done.output
    folder = tmp_path / "scale-train"
    assert sorted(path.name for path in (folder / "runs").iterdir()) == [
        "copies-2-0",
        "distgrad-1-0",
        "distgrad-2-0",
    ]
    result = json.loads((folder / "results.json").read_text())
    assert [(row["kind"], row["ranks"]) for row in result["rows"]] == [
        ("distgrad", 1),
        ("distgrad", 2),
        ("copies", 2),
    ]
    assert result["fitted_to"] == [1, 2]
    assert all(row["predicted_s"] > 0 for row in result["rows"][:2])
    written = json.loads((folder / "runs" / "distgrad-2-0" / "rank1.json").read_text())
    assert written["mark"] == "optimizer.step"
    assert len(written["steps"]) == 20
    assert written["buckets"][0]["full"][0][1] >= 8 * 8 * 4
    lines = list(csv.DictReader((folder / "results.csv").read_text().splitlines()))
    assert float(lines[1]["step_s"]) == result["rows"][1]["step_s"]
    assert "distgrad     " in done.output
    again = CliRunner().invoke(main, ["scale", *options])
    assert again.exit_code == 0
    assert "1/3" not in again.output
    other = CliRunner().invoke(main, ["scale", "--strong", *options])
    assert other.exit_code == 1
    assert "holds a study with other settings" in other.output


class Made(list):
    """Names of runs, and of the one that fails."""

    fails = None


@pytest.fixture
def faked(monkeypatch, tmp_path):
    """Runs that write their results at once, or fail: the names of those that were made."""
    made = Made()

    def run(command, threads):
        task = json.loads(command[command.index("distgrad.scale.recorded") + 1])
        name = task["folder"].rsplit("/.", 1)[1]
        made.append(name)
        if name == made.fails:
            return subprocess.CompletedProcess(command, 3, "", "it broke")
        for rank in range(int(command[command.index("-n") + 1])):
            text = json.dumps(rank_of([{}] * 12, rank=rank))
            (tmp_path / "runs" / f".{name}" / f"rank{rank}.json").write_text(text)
        return subprocess.CompletedProcess(command, 0, "", "")

    monkeypatch.setattr(study_module, "_perform", run)
    return made


def test_an_interrupted_study_goes_on_where_it_was(faked, tmp_path):
    settings = Settings("x", workload="tiny", ranks=(2, 1), repeat=2)
    names = [run.name for run in runs_of(settings)]
    assert names == [
        "distgrad-1-0",
        "distgrad-2-0",
        "copies-2-0",
        "distgrad-1-1",
        "distgrad-2-1",
        "copies-2-1",
    ]
    faked.fails = names[3]
    with pytest.raises(LaunchError, match=r"distgrad-1-1 ended with 3 and 0 of 1 results(.|\n)*it broke"):
        list(measure(settings, tmp_path))
    assert faked == names[:4]
    assert sorted(path.name for path in (tmp_path / "runs").iterdir()) == sorted(names[:3])
    faked.fails = None
    faked.clear()
    assert len(list(measure(settings, tmp_path))) == 3
    assert faked == names[3:]
    with pytest.raises(OptionError, match="other settings"):
        list(measure(Settings("x", workload="mlp"), tmp_path))


def test_a_study_whose_first_run_fails_leaves_nothing_and_may_be_another_next(faked, tmp_path):
    faked.fails = "distgrad-1-0"
    folder = tmp_path / "none"
    with pytest.raises(LaunchError, match="it broke"):
        list(measure(Settings("x", workload="tiny"), folder))
    assert not folder.exists()
    faked.fails = None
    (tmp_path / "runs" / ".distgrad-1-0").mkdir(parents=True)  # a run that was killed outright
    (tmp_path / "study.json").write_text("{ half")
    assert len(list(measure(Settings("x", workload="tiny", repeat=1), tmp_path))) == 3


def test_a_study_that_cannot_be_written_is_refused(faked, tmp_path):
    (tmp_path / "scale-tiny").write_text("")
    with pytest.raises(OptionError, match="must be a folder that can be written to"):
        list(measure(Settings("tiny", workload="tiny"), tmp_path / "scale-tiny"))


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_study_that_is_stopped_ends_its_job_and_keeps_what_is_whole(number, tmp_path):
    """The script waits in the second run, once both ranks are there."""
    (tmp_path / "train.py").write_text(
        "import os, sys, time, pathlib\nimport distgrad as dg\ncomm = dg.comm.init()\n"
        "while comm.size == 1:\n    dg.profiler.step()\n"
        "path = pathlib.Path(sys.argv[1]) / f'pid{comm.rank}'\n"
        "path.write_text(str(os.getpid()))\ncomm.barrier()\ntime.sleep(600)\n"
    )
    options = ["--repeat", "1", "--steps", "10", "train.py", str(tmp_path)]
    command = [sys.executable, "-m", "distgrad", "scale", *options]
    study = subprocess.Popen(command, cwd=tmp_path, stdout=subprocess.PIPE, stderr=subprocess.STDOUT)
    try:
        files = [tmp_path / f"pid{rank}" for rank in range(2)]
        wait_until(lambda: study.poll() is not None or all(f.exists() and f.read_text() for f in files))
        pids = [int(file.read_text()) for file in files]
        study.send_signal(number)
        printed = study.communicate(timeout=60)[0]
    finally:
        study.kill()
    assert study.returncode == (143 if number == signal.SIGTERM else 1), printed
    wait_until(lambda: not any(Path(f"/proc/{pid}").exists() for pid in pids))
    assert [path.name for path in (tmp_path / "scale-train" / "runs").iterdir()] == ["distgrad-1-0"]


def wait_until(holds):
    end_s = time.monotonic() + 60
    while not holds():
        assert time.monotonic() < end_s
        time.sleep(0.05)


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (["missing.py"], "there is no script missing.py"),
        (["--workload", "tiny", "--simulate", "8"], "wants a --cluster"),
        (["--workload", "tiny", "--ranks", "2,4", "--advise"], "give --ranks 1 too"),
        (["--workload", "tiny", "--ranks", "1", "--advise"], "give --ranks 1,2, or a --cluster"),
        (["--workload", "tiny", "--cluster", "c.toml", "--simulate", "12"], "do not fill hosts of 8"),
        (["--workload", "tiny", "--weak", "--strong"], "--strong and --weak were both given"),
        (["--workload", "tiny", "--hosts", "a:1", "--slurm"], "--hosts and --slurm were both given"),
        (["--workload", "tiny", "--ssh", "ssh -4"], "--ssh says how to reach --hosts"),
        (["--workload", "tiny", "--slurm"], "in no allocation; start it by salloc or sbatch"),
        (["--workload", "tiny", "--cluster", "c.toml"], "give --simulate or --advise too"),
    ],
)
def test_what_could_not_be_said_afterwards_is_refused_before_anything_runs(
    options, said, tmp_path, monkeypatch
):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "c.toml").write_text("ranks_per_host = 8\n")
    done = CliRunner().invoke(main, ["scale", *options])
    assert done.exit_code == 1
    assert said in done.output
    assert [path.name for path in tmp_path.iterdir()] == ["c.toml"]


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({}, "a script or --workload"),
        ({"workload": "gpt", "script": ("a.py",)}, "a script or --workload"),
        ({"workload": "chess"}, "no workload 'chess'"),
        ({"workload": "gpt", "ranks": (0, 1)}, "--ranks"),
        ({"workload": "gpt", "steps": 8}, "--warm-up"),
        ({"workload": "gpt", "threads": 0}, "--threads"),
        ({"workload": "gpt", "seconds": float("nan")}, "--seconds"),
        ({"workload": "gpt", "peers": ("caffe",)}, "--peers"),
        ({"script": ("a.py",), "peers": ("torch-ddp",)}, "--peers"),
    ],
)
def test_settings_that_mean_nothing_are_named(options, said):
    with pytest.raises(OptionError, match=said):
        Settings("x", **options)


def summary(strong=False):
    """One rank computes 1 s; of two ranks one is slower by 0.2 s, and both wait 0.1 s for communication."""
    settings = Settings("x", workload="tiny", ranks=(1, 2), repeat=1, strong=strong)
    alone = [rank_of([{}] * 5)]
    fast = rank_of([{"step_s": 1.5, "exposed_s": 0.3, "data_s": 0.1}] * 5)
    slow = rank_of([{"step_s": 1.5, "exposed_s": 0.1, "data_s": 0.1}] * 5)
    copies = [rank_of([{"step_s": 1.1}] * 5), rank_of([{"step_s": 1.2}] * 5)]
    runs = {Run("distgrad", 1, 0): alone, Run("distgrad", 2, 0): [fast, slow], Run("copies", 2, 0): copies}
    return settings, summarise(settings, runs)


def test_a_loss_is_divided_among_its_causes():
    _, (one, two, copies) = summary()
    assert one["efficiency"] == 1.0
    assert two["speed_up"] == pytest.approx(2 / 1.5)
    assert two["efficiency"] == pytest.approx(1 / 1.5)
    expected = {
        "computing_s": 0.2,
        "stragglers_s": 0.1,
        "communication_s": 0.1,
        "data_s": 0.1,
        "other_s": 0.0,
    }
    assert two["loss"] == pytest.approx(expected)
    assert sum(two["loss"].values()) == pytest.approx(0.5)
    assert copies["efficiency"] == pytest.approx(1 / 1.2)


def test_strong_scaling_shares_the_batch():
    _, (_, two, copies) = summary(strong=True)
    assert two["speed_up"] == pytest.approx(1 / 1.5)
    assert two["loss"]["computing_s"] == pytest.approx(1.2 - 0.5)
    assert copies["efficiency"] == pytest.approx(1 / 1.2)  # the machine's limit, whichever way it is scaled


def test_the_page_is_whole_and_needs_nothing_from_elsewhere():
    settings, rows = summary()
    rows[1]["predicted_s"] = 1.4
    text = page(settings, rows, (1, 2), "a <machine>")
    for svg in text.split("<svg")[1:]:
        ET.fromstring("<svg" + svg.split("</svg>")[0] + "</svg>")
    assert "prefers-color-scheme: dark" in text
    assert "http" not in text
    assert "a &lt;machine&gt;" in text
    assert 'stroke-dasharray="6 4"' in text
    assert all(reason in text for reason in LOSSES.values())


def test_what_an_idle_machine_cannot_show_is_said():
    settings, rows = summary()
    assert doubts(rows, strong=False) == []
    assert "Beware" not in page(settings, rows, (1, 2), "")
    rows[1] |= {"efficiency": 1.23}
    rows[2] |= {"spread_s": [0.010, 0.020]}
    faster, apart = doubts(rows, strong=False)
    assert faster.startswith("distgrad on 2 ranks: an efficiency of 123% is above 100 %")
    assert "caches" not in faster
    assert "caches" in doubts(rows, strong=True)[0]
    assert "copies on 2 ranks: steps of 10.00 to 20.00 ms" in apart
    assert page(settings, rows, (1, 2), "").count("Beware: ") == 2


def test_the_model_finds_what_it_was_given():
    """α = 1 ms, β = 2 ns a byte, ranks that slow each other down by 10 %, waits that hide the link's time."""
    sizes = (1_000_000, 400_000, 50_000)
    full = [[0.1 * (i + 1), n] for i, n in enumerate(sizes)]
    busy = [[1e-3 + 2e-9 * n + late for n in sizes] for late in (0.05, 0.0, 0.2)]
    passes = [{"full": full, "busy_s": each, "backward_s": 0.4} for each in busy]
    alone = [rank_of([{"backward_s": 0.4, "forward_s": 0.3}] * 9, buckets=passes)]
    together = [rank_of([{"step_s": 1.2, "exposed_s": 0.1}] * 9, buckets=passes) for _ in range(2)]
    copies = [rank_of([{"step_s": 1.1}] * 9) for _ in range(2)]
    model = fit(alone, together, copies, cores=8)
    assert model.call_s == pytest.approx(1e-3)
    assert model.bytes_per_s == pytest.approx(1 / 2e-9)
    assert model.contention == pytest.approx(0.1)
    assert model.fitted_to == (1, 2)
    assert model.profile.rest_s == pytest.approx(0.3)
    assert model.predict(1).step_s == pytest.approx(1.0, rel=0.01)
    assert model.predict(2).computing_s == pytest.approx(1.1)
    assert model.predict(8).step_s > model.predict(4).step_s > model.predict(2).step_s
    assert fit_line([1.0, 2.0], [5.0, 4.0])[1] == 0.0  # no time falls with the bytes


def test_strong_scaling_is_predicted_with_what_it_sends():
    """Half the samples: forward and backward are half as long, the rest, reductions and contention stay."""
    passes = [{"full": [[0.1, 1000]], "busy_s": [0.05], "backward_s": 0.4}]
    alone = [rank_of([{"backward_s": 0.4, "forward_s": 0.3}] * 9, buckets=passes)]
    together = [rank_of([{"step_s": 0.85, "exposed_s": 0.05}] * 9, buckets=passes) for _ in range(2)]
    copies = [rank_of([{"step_s": 1.1}] * 9) for _ in range(2)]
    model = fit(alone, together, copies, cores=8, share=0.5)
    assert model.contention == pytest.approx(0.1)
    shared_s = 1.1 * (0.5 * 0.7 + 0.3)
    assert model.interference == pytest.approx(0.8 / shared_s - 1)
    assert model.predict(2, share=0.5).computing_s == pytest.approx(0.8)
    assert model.predict(2, share=0.5).step_s == pytest.approx(0.8, abs=0.06)


def test_a_recorder_takes_the_best_mark_and_ends_the_program():
    recorder = Recorder(3)
    recorder.span("backward", 0.0, 1.0, {})
    recorder.span("optimizer.step", 1.0, 1.5, {"step": 0})
    recorder.span("optimizer.step", 1.5, 1.6, {"step": 0})  # of another optimizer
    recorder.span("data.next", 2.0, 2.25, {})
    recorder.span("optimizer.step", 3.0, 3.5, {"step": 1})
    recorder.span("optimizer.step", 5.0, 5.5, {"step": 2})
    assert recorder.kind == "optimizer.step"
    assert [row["step_s"] for row in recorder.rows()] == [2.0, 2.0]
    assert recorder.rows()[0]["data_s"] == 0.25
    with pytest.raises(SystemExit):
        recorder.span("optimizer.step", 6.0, 6.5, {"step": 3})
    recorder.event("step", 1.0, {})
    assert recorder.kind == "step"


def test_a_program_s_own_steps_are_heard():
    recorder = Recorder(9)
    subscribe(recorder)
    try:
        for _ in range(3):
            dg.profiler.step(loss=1.0)
    finally:
        unsubscribe(recorder)
    assert recorder.kind == "step"
    assert len(recorder.rows()) == 2


@pytest.mark.parametrize(
    ("words", "ranks", "script"),
    [
        ("--ranks 1,4 train.py --steps 20 --lr 0.1", "1,4", "train.py --steps 20 --lr 0.1"),
        ("train.py --ranks 1,4 --lr 0.1", "1,4", "train.py --lr 0.1"),
        ("train.py --lr 0.1 --ranks 1,4 -- --ranks 3", "1,4", "train.py --lr 0.1 --ranks 3"),
        ("train.py", "1,2", "train.py"),
    ],
)
def test_options_stand_before_the_script_or_behind_it(words, ranks, script):
    found = main.commands["scale"].make_context("scale", words.split()).params
    assert (found["ranks"], found["script"]) == (ranks, tuple(script.split()))
