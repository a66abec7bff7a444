"""The ``distgrad`` command."""

from __future__ import annotations

import json
import signal
import sys
from collections.abc import Iterable, Iterator
from importlib import import_module
from pathlib import Path
from typing import Any

try:
    import click
except ModuleNotFoundError:
    raise SystemExit(
        "distgrad: the command line needs click, which is not installed; "
        "pip install click (distgrad run goes without it, as does import distgrad)"
    ) from None

__all__ = ["main"]


def _tell_version(context: click.Context, _: click.Parameter, asked: bool) -> None:
    if asked:
        from distgrad.version import find_version

        click.echo(f"distgrad, version {find_version()}")
        context.exit()


@click.group(context_settings={"help_option_names": ["-h", "--help"]})
@click.option(
    "--version",
    is_flag=True,
    is_eager=True,
    expose_value=False,
    callback=_tell_version,
    help="Show the version.",
)
def main() -> None:
    """Data-parallel training of neural networks on NumPy, CuPy and MPI."""


@main.command(add_help_option=False, context_settings={"ignore_unknown_options": True})
@click.argument("arguments", nargs=-1, type=click.UNPROCESSED)
def run(arguments: tuple[str, ...]) -> None:
    """Start a script on several ranks: distgrad run -n 2 train.py."""
    from distgrad.launch.__main__ import main as launch

    sys.exit(launch(arguments, program="distgrad run"))


@main.command()
@click.argument("names", nargs=-1)
@click.option("--json", "as_json", is_flag=True, help="Print a list of objects instead of a table.")
def ops(names: tuple[str, ...], as_json: bool) -> None:
    """List the operations, or those named: gradient, dtypes, formula, source."""
    from distgrad.autograd.later import read_all
    from distgrad.autograd.primitive import REGISTRY

    read_all()
    unknown = [name for name in names if name not in REGISTRY]
    if unknown:
        raise click.BadParameter(f"ops: no operation {unknown[0]!r}; see distgrad ops for all of them")
    fields = ("name", "math", "dtypes", "differentiable", "source")
    records = [REGISTRY[name] for name in sorted(names or REGISTRY)]
    if as_json:
        rows = [{field: getattr(record, field) for field in fields} for record in records]
        click.echo(json.dumps(rows, ensure_ascii=False, indent=1))
        return
    lines = [("operation", "gradient", "dtypes", "formula")]
    for record in records:
        source = f"  ({record.source})" if record.source else ""
        gradient = "yes" if record.differentiable else "-"
        lines.append((record.name, gradient, record.dtypes, record.math + source))
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    for line in lines:
        click.echo("  ".join(text.ljust(width) for text, width in zip(line, widths, strict=True)).rstrip())


_PROCESSORS = ("x86-64-v3", "x86-64-v4")
_GPUS = ("sm_80", "sm_90", "sm_100", "sm_120")


@main.command(context_settings={"ignore_unknown_options": True, "allow_interspersed_args": False})
@click.option("--all", "everything", is_flag=True, help="Compile all kernels.")
@click.option(
    "--level",
    "levels",
    multiple=True,
    type=click.Choice([*_PROCESSORS, *_GPUS]),
    help="With --all: for every processor of this level, not this one alone. With --device cuda: for GPUs of "
    "this level, not of all. May be given more than once.",
)
@click.option("--device", type=click.Choice(["cpu", "cuda"]), default="cpu", show_default=True)
@click.argument("script", required=False, type=click.Path(exists=True, dir_okay=False))
@click.argument("arguments", nargs=-1, type=click.UNPROCESSED)
def warm(
    everything: bool, levels: tuple[str, ...], device: str, script: str | None, arguments: tuple[str, ...]
) -> None:
    """Compile kernels in advance: all, or those of a script, which runs for one step of training.

    They go into DISTGRAD_CACHE, or the user's own cache. Images of containers and folders that a cluster
    shares are filled so; who runs jobs needs no right to write there. With --device cuda all kernels of GPUs
    are compiled, on a machine that needs none.
    """
    from distgrad.errors import DeviceError, MissingDependencyError, OptionError
    from distgrad.warm import warm_all, warm_gpus, warm_script

    if wrong := [level for level in levels if (level in _GPUS) != (device == "cuda")]:
        raise click.UsageError(f"warm: --level {wrong[0]} does not go with --device {device}")
    if device == "cuda" and script is not None:
        raise click.UsageError("warm: --device cuda compiles all kernels of GPUs; leave the script out")
    if device == "cpu" and everything == (script is not None):
        raise click.UsageError("warm: give --all or a script")
    if device == "cpu" and levels and not everything:
        raise click.UsageError("warm: --level goes with --all; a script is compiled for this processor")
    try:
        if device == "cuda":
            click.echo(warm_gpus(levels))
        else:
            click.echo(warm_all(levels) if script is None else warm_script(script, list(arguments)))
    except (DeviceError, MissingDependencyError, OptionError) as error:
        raise click.ClickException(str(error)) from None


@main.command()
@click.argument("files", nargs=-1, required=True)
@click.option("-o", "--output", default="curves.png", show_default=True, help="A PNG, SVG or PDF file.")
def plot(files: tuple[str, ...], output: str) -> None:
    """Draw the curves of runs over each other: distgrad plot run/*.csv. The files are those of loggers."""
    from distgrad.errors import DataError, MissingDependencyError, OptionError
    from distgrad.train.plots import plot_runs

    try:
        names = plot_runs(files, output)
    except (DataError, MissingDependencyError, OptionError, OSError) as error:
        raise click.ClickException(str(error)) from None
    click.echo(f"{output}: {', '.join(names)}")


_TEMPLATES = {
    "slurm": "slurm_cpu.sbatch",
    "slurm-gpu": "slurm_gpu.sbatch",
    "pbs": "pbs.sh",
    "kubernetes": "kubernetes_mpijob.yaml",
    "ssh": "ssh.sh",
}


@main.command()
@click.argument("system", type=click.Choice(list(_TEMPLATES)))
@click.option("-o", "--output", type=click.Path(dir_okay=False), help="Write it to this file, a new one.")
def template(system: str, output: str | None) -> None:
    """Print a job script for a batch system, to be adapted: distgrad template slurm > job.sbatch."""
    from distgrad.launch.entry import __file__ as beside

    text = Path(beside).with_name("templates").joinpath(_TEMPLATES[system]).read_text()
    if output is None:
        click.echo(text, nl=False)
        return
    try:
        with open(output, "x") as file:
            file.write(text)
    except OSError as error:
        raise click.ClickException(
            f"template: {output} cannot be written ({error}); name a new file"
        ) from error


@main.group()
def checkpoint() -> None:
    """Look at the checkpoints that a job has saved: ls, show, verify, reshard, consolidate."""


def _report(lines: Iterable[str]) -> None:
    from distgrad.errors import DataError, OptionError

    try:
        for line in lines:
            click.echo(line)
    except (DataError, OptionError) as error:
        raise click.ClickException(str(error)) from None


class _PlaceType(click.Path):
    """A folder, or an address in a store."""

    def convert(self, value: Any, param: Any, ctx: Any) -> Any:
        if "://" not in str(value):
            return super().convert(value, param, ctx)
        from distgrad.checkpoint.places import place_of
        from distgrad.errors import OptionError

        try:
            return place_of(value)
        except OptionError as error:
            self.fail(str(error), param, ctx)


_PATH = click.argument("path", type=_PlaceType(exists=True, file_okay=False, path_type=Path))


@checkpoint.command()
@_PATH
def ls(path: Path) -> None:
    """List the checkpoints in a folder: bytes, ranks, time, metric."""
    from distgrad.checkpoint.commands import listed

    _report(listed(path))


@checkpoint.command()
@_PATH
def show(path: Path) -> None:
    """Show what a checkpoint, or the newest in a folder, holds."""
    from distgrad.checkpoint.commands import shown

    _report(shown(path))


@checkpoint.command()
@_PATH
def verify(path: Path) -> None:
    """Compare the digests of all arrays; an error names the first that differs."""
    from distgrad.checkpoint.commands import verified

    _report(verified(path))


@checkpoint.command()
@_PATH
@click.option("--ranks", type=int, required=True, help="How many files to spread it over.")
@click.option(
    "-o", "--output", type=_PlaceType(file_okay=False, path_type=Path), help="A folder for the new one."
)
def reshard(path: Path, ranks: int, output: Path | None) -> None:
    """Write a checkpoint anew as another number of ranks would have, in its place or elsewhere.

    No job needs it: any number of ranks reads a checkpoint of any other.
    """
    from distgrad.checkpoint.commands import resharded

    _report(resharded(path, ranks, output))


@checkpoint.command("consolidate")
@_PATH
@click.argument("output", type=click.Path(dir_okay=False, path_type=Path))
@click.option("--only", help="The name of one object, whose arrays keep their own names: model.")
def consolidate_(path: Path, output: Path, only: str | None) -> None:
    """Write a checkpoint, or one object of it, to one safetensors file that other programs read."""
    from distgrad.checkpoint.commands import consolidate

    def run() -> Iterator[str]:
        consolidate(path, output, only)
        yield f"{output}: {output.stat().st_size} bytes"

    _report(run())


@main.command()
@click.argument("file", type=click.Path(dir_okay=False, path_type=Path))
@click.option("-o", "--output", type=click.Path(dir_okay=False, path_type=Path), help="The page's file.")
def report(file: Path, output: Path | None) -> None:
    """Make a page of a trace: FILE.html, where a step's time goes, who waits for whom, what to do."""
    from distgrad.errors import DataError
    from distgrad.profiler.reporting import report as write

    try:
        click.echo(write(file, output))
    except (DataError, OSError) as error:
        raise click.ClickException(str(error)) from None


@main.command(context_settings={"ignore_unknown_options": True, "allow_interspersed_args": False})
@click.option("--json", "as_json", is_flag=True, help="Print everything as JSON, for a bug report.")
@click.option("--no-self-test", is_flag=True, help="Start no ranks.")
@click.option("--fit", is_flag=True, help="Plan the memory of SCRIPT instead, which trains nothing.")
@click.option("--ranks", "-n", type=click.IntRange(min=1), default=1, help="With --fit: of so many ranks.")
@click.argument("script", required=False, type=click.Path(exists=True, dir_okay=False))
@click.argument("arguments", nargs=-1, type=click.UNPROCESSED)
def doctor(
    as_json: bool, no_self_test: bool, fit: bool, ranks: int, script: str | None, arguments: tuple[str, ...]
) -> None:
    """Say what this machine has, what it lacks, and test two ranks.

    With --fit SCRIPT say how much memory a rank of it needs, for each way of sharding. SCRIPT runs up to
    where it first calls its model, which is built without memory.
    """
    if fit != (script is not None):
        raise click.UsageError("--fit goes with a script: distgrad doctor --fit train.py")
    if script is not None:
        _fit(script, arguments, ranks, as_json)
        return
    from distgrad.doctor import examine, present

    report = examine(self_test=not no_self_test)
    click.echo(json.dumps(report, indent=1) if as_json else present(report))


def _fit(script: str, arguments: tuple[str, ...], ranks: int, as_json: bool) -> None:
    from distgrad import fit
    from distgrad.errors import DistgradError

    try:
        plans = fit.find_plans(script, arguments, ranks)
    except DistgradError as error:
        raise click.ClickException(str(error)) from None
    table = {str(shard): vars(plan) | {"total": plan.total} for shard, plan in plans.items()}
    click.echo(json.dumps(table, indent=1) if as_json else fit.present(plans, ranks))


@main.command(context_settings={"ignore_unknown_options": True, "allow_interspersed_args": False})
@click.argument("name", type=click.Choice(["step", "allreduce", "ddp", "sharded", "network"]))
@click.argument("arguments", nargs=-1, type=click.UNPROCESSED)
def bench(name: str, arguments: tuple[str, ...]) -> None:
    """Measure steps and collectives on this machine: distgrad bench ddp --help."""
    sys.argv[0] = f"distgrad bench {name}"
    import_module(f"distgrad.scale.bench.{name}").main(arguments)


class _ScriptCommand(click.Command):
    """Options stand before the script, and all behind it is its own; or behind it, where it comes first."""

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        ctx.allow_interspersed_args = bool(args) and not args[0].startswith("-")
        return super().parse_args(ctx, args)


@main.command(cls=_ScriptCommand, context_settings={"ignore_unknown_options": True})
@click.option("--workload", help="A built-in workload instead of a script: gpt, mlp, cnn, …")
@click.option("--ranks", default="1,2", show_default=True, help="Numbers of ranks, with commas between.")
@click.option("--strong", is_flag=True, help="The ranks share one batch.")
@click.option("--weak", is_flag=True, help="The ranks have a batch each, as without --strong.")
@click.option("--hosts", help="As for distgrad run: A:4,B:4.")
@click.option("--ssh", metavar="COMMAND", help="What reaches the hosts, as for distgrad run.")
@click.option("--slurm", is_flag=True, help="On the hosts of the Slurm allocation that this runs in.")
@click.option("--repeat", default=3, show_default=True, help="How often each run is made.")
@click.option("--steps", default=60, show_default=True, help="Of each run, at most.")
@click.option("--seconds", default=5.0, show_default=True, help="That one rank's steps take, at most.")
@click.option("--warm-up", default=5, show_default=True, help="Steps of each run that do not count.")
@click.option("--threads", default=1, show_default=True, help="Of each rank.")
@click.option("--peers", default="", help="What else runs the workload: torch-ddp.")
@click.option("--name", help="Of the study, which goes to scale-NAME here.")
@click.option(
    "--cluster", type=click.Path(exists=True, dir_okay=False, path_type=Path), help="A cluster.toml."
)
@click.option("--simulate", default="", help="Predict these numbers of ranks on the described cluster.")
@click.option("--advise", is_flag=True, help="Say what would pay on the measured or described cluster.")
@click.argument("script", nargs=-1, type=click.UNPROCESSED)
def scale(script: tuple[str, ...], workload: str | None, name: str | None, **options: Any) -> None:
    """Measure how a script, or a workload, scales: distgrad scale --ranks 1,2,4 train.py.

    Behind the script stand its own arguments; or, where it comes first, these options too, up to a ``--``.

    Runs it on each number of ranks in turn and writes results.csv, results.json and a page into scale-NAME,
    beside the prediction of a model that knows the two smallest numbers alone. An interrupted study goes on
    where it was. Any script does that trains with DistributedDataParallel or an optimizer of distgrad.
    """
    from distgrad.errors import DataError, LaunchError, OptionError
    from distgrad.scale.command import run_command

    def stop(number: int, frame: object) -> None:
        raise SystemExit(128 + number)

    before = signal.signal(signal.SIGTERM, stop)  # so that the job that is under way ends too
    try:
        for line in run_command(script, workload, name, **options):
            click.echo(line)
    except (DataError, LaunchError, OptionError) as error:
        raise click.ClickException(str(error)) from None
    finally:
        signal.signal(signal.SIGTERM, before)
