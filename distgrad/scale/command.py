"""``distgrad scale``: a study from its runs to its page."""

from __future__ import annotations

import json
import os
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from distgrad.errors import LaunchError, OptionError
from distgrad.launch.slurm import allocation
from distgrad.profiler.whole import whole
from distgrad.scale.advise import advise, best_ranks_per_host, hook_costs
from distgrad.scale.bench.step import machine
from distgrad.scale.cluster import Cluster
from distgrad.scale.model import Model, fit
from distgrad.scale.page import page
from distgrad.scale.results import doubts, read_runs, summarise, write_csv
from distgrad.scale.simulate import Plan, simulate
from distgrad.scale.study import COPIES, OURS, Run, Settings, measure

__all__ = ["fit_study", "run_command", "study"]

Row = dict[str, Any]
SIMULATED_STEPS = 100
SHOWN = 12  # pieces of advice


def fit_study(settings: Settings, runs: dict[Run, list[Row]]) -> Model:
    """The model of a study, which knows the two smallest numbers of ranks alone.

    A host is taken to have as many ranks as the one with most of them in those runs.
    """
    known = sorted(settings.ranks)[:2]

    def of(kind: str, ranks: int) -> list[Row] | None:
        """The ranks of all repetitions, each with the steps of all."""
        turns = [written for run, written in runs.items() if (run.kind, run.ranks) == (kind, ranks)]
        if not turns:
            return None
        joined = []
        for same in zip(*turns, strict=True):
            parts = {key: [one for rank in same for one in rank[key]] for key in ("steps", "buckets")}
            joined.append({**same[0], **parts})
        return joined

    alone = of(OURS, known[0]) or []
    together = of(OURS, known[1]) if len(known) > 1 else None
    copies = of(COPIES, known[1]) if together is not None else None
    cores = len(os.sched_getaffinity(0))
    hosts = Counter(rank["host"] for rank in together or alone)
    most = max(hosts.values()) if len(hosts) > 1 else None
    share = known[0] / known[-1] if settings.strong else 1.0
    return fit(
        alone, together, copies, cores=cores, threads=settings.threads, ranks_per_host=most, share=share
    )


def study(settings: Settings, folder: Path) -> Iterator[str]:
    """Make the runs, and write ``results.json``, ``results.csv`` and ``index.html``; yields what is done."""
    yield from measure(settings, folder)
    runs = read_runs(settings, folder)
    rows = summarise(settings, runs)
    base = min(settings.ranks)
    model = fit_study(settings, runs) if base == 1 else None
    for row in rows:
        if model is not None and row["kind"] == OURS:
            share = 1.0 / row["ranks"] if settings.strong else 1.0
            row["predicted_s"] = model.predict(row["ranks"], share=share).step_s
    about = machine()
    plural = "s" if settings.threads > 1 else ""
    where = f"{about['processor']}, {about['cores']} cores, {settings.threads} thread{plural} a rank."
    fitted: tuple[int, ...] = () if model is None else model.fitted_to
    result = {"settings": json.loads((folder / "study.json").read_text()), "machine": about, "rows": rows}
    with whole(folder / "results.json", "scale") as part:
        part.write_text(json.dumps({**result, "fitted_to": fitted}, indent=1) + "\n")
    with whole(folder / "results.csv", "scale") as part:
        write_csv(rows, part)
    with whole(folder / "index.html", "scale") as part:
        part.write_text(page(settings, rows, fitted, where))
    yield from show(rows)
    yield from (f"beware: {doubt}" for doubt in doubts(rows, settings.strong))
    yield f"{folder}/index.html, results.json, results.csv"


def show(rows: list[Row]) -> Iterator[str]:
    """The rows as a table of text."""
    yield f"{'':12}{'ranks':>6}{'ms a step':>11}{'predicted':>11}{'speed-up':>10}{'efficiency':>12}"
    for row in rows:
        predicted = f"{1e3 * row['predicted_s']:.2f}" if "predicted_s" in row else "-"
        yield (
            f"{row['kind']:12}{row['ranks']:6}{1e3 * row['step_s']:11.2f}{predicted:>11}"
            f"{row['speed_up']:10.2f}{row['efficiency']:12.0%}"
        )


def run_command(
    script: tuple[str, ...], workload: str | None, name: str | None, **options: Any
) -> Iterator[str]:
    """What ``distgrad scale`` does; yields the lines that it prints.

    Args:
        script: with its arguments.
        workload: a built-in one.
        name: of the study; None takes the script's or the workload's.
        options: the command's other ones.

    Raises:
        OptionError: options that mean nothing.
        LaunchError: a run has failed, or there is no Slurm allocation.
        DataError: a file of the study cannot be written.
    """
    _check_pairs(options)
    if options["slurm"] and not allocation(os.environ):
        raise LaunchError("scale: --slurm, but this runs in no allocation; start it by salloc or sbatch")
    settings = Settings(
        name or workload or (Path(script[0]).stem if script else ""),
        script,
        workload,
        numbers("--ranks", options["ranks"]),
        options["strong"],
        options["repeat"],
        options["steps"],
        options["seconds"],
        options["warm_up"],
        options["threads"],
        tuple(filter(None, options["peers"].split(","))),
        tuple(word for each in ("hosts", "ssh") if options[each] for word in (f"--{each}", options[each])),
    )
    folder = Path(f"scale-{settings.name}")
    described = None if options["cluster"] is None else Cluster.read(options["cluster"])
    simulated = numbers("--simulate", options["simulate"]) if options["simulate"] else ()
    _check(settings, described, simulated, options["advise"])
    yield from study(settings, folder)
    model = fit_study(settings, read_runs(settings, folder))
    if simulated and described is not None:
        yield from simulated_lines(model, described, simulated)
    if options["advise"]:
        yield from advice_lines(model, described or model.cluster(max(settings.ranks)))


def _check_pairs(options: Row) -> None:
    """Refuse what would be left out of account beside something else, or without it."""
    for one, other, why in (("strong", "weak", "scaling is"), ("hosts", "slurm", "the hosts come from")):
        if options[one] and options[other]:
            raise OptionError(
                f"scale: --{one} and --{other} were both given; {why} one of them; leave one out"
            )
    if options["ssh"] and not (options["hosts"] or options["slurm"]):
        raise OptionError("scale: --ssh says how to reach --hosts, which are not given; leave it out")
    if options["cluster"] is not None and not (options["simulate"] or options["advise"]):
        raise OptionError("scale: --cluster says nothing alone; give --simulate or --advise too")


def _check(settings: Settings, cluster: Cluster | None, simulated: tuple[int, ...], advises: bool) -> None:
    """Refuse before anything runs what could not be said after it."""
    if settings.script and not Path(settings.script[0]).is_file():
        raise OptionError(f"scale: there is no script {settings.script[0]}")
    if simulated and cluster is None:
        raise OptionError("scale: --simulate wants a --cluster, which says what the ranks run on")
    if (simulated or advises) and min(settings.ranks) > 1:
        raise OptionError("scale: --simulate and --advise want to know a rank alone; give --ranks 1 too")
    if advises and cluster is None and len(settings.ranks) == 1:
        raise OptionError(
            "scale: --advise wants to know what ranks send; give --ranks 1,2, or a --cluster for them"
        )
    for size in simulated:
        assert cluster is not None
        cluster.resized(size)


def numbers(option: str, text: str) -> tuple[int, ...]:
    """Whole numbers with commas between.

    Raises:
        OptionError: something else.
    """
    try:
        return tuple(int(each) for each in text.split(","))
    except ValueError:
        raise OptionError(f"scale: {option} takes whole numbers with commas between, got {text!r}") from None


def simulated_lines(model: Model, cluster: Cluster, ranks: tuple[int, ...]) -> Iterator[str]:
    """A table of steps on the described cluster, of as many ranks."""
    heads = f"{'ranks':>6}{'ms a step':>11}{'exposed':>9}{'efficiency':>12}{'failures':>10}"
    yield f"{f'simulated, {SIMULATED_STEPS} steps':23}{heads}"
    for size in ranks:
        plan = Plan(model.bucket_bytes)
        found = simulate(model.profile, cluster.resized(size), plan, SIMULATED_STEPS)
        yield (
            f"{'':23}{size:6}{1e3 * found.step_s.mean():11.2f}{1e3 * max(0.0, found.exposed_s.mean()):9.2f}"
            f"{found.efficiency(model.profile):12.0%}{found.num_failures:10}"
        )


def advice_lines(model: Model, cluster: Cluster) -> Iterator[str]:
    """What would pay, the fastest first."""
    best, rate = best_ranks_per_host(model)
    yield f"ranks a host: {best} of {model.threads} threads each, {rate:.2f} times one's samples a second"
    if not model.profile.gradients:
        yield "no gradient was seen on its way, so that nothing would pay; DistributedDataParallel's are seen"
        return
    hosts = f"{cluster.hosts} host{'s' if cluster.hosts > 1 else ''}"
    yield f"on {hosts} of {cluster.ranks_per_host} ranks, predicted:"
    for each in advise(model.profile, cluster, hook_costs())[:SHOWN]:
        note = f"   ({each.changes})" if each.changes else ""
        yield f"{1e3 * each.step_s:10.2f} ms a step {each.efficiency:5.0%}   {each.options}{note}"
