"""Loggers for programs that show runs; each needs the package of that name."""

from __future__ import annotations

import importlib
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from distgrad.errors import MissingDependencyError
from distgrad.train.loggers.logger import Logger

__all__ = ["MLflowLogger", "TensorBoardLogger", "WandbLogger"]


def _load(kind: str, module: str, package: str) -> Any:
    try:
        return importlib.import_module(module)
    except ImportError as error:
        raise MissingDependencyError(
            f"{kind}: needs {package}, which is not installed; pip install {package}"
        ) from error


class TensorBoardLogger(Logger):
    """Event files for TensorBoard, written by tensorboardX.

    Args:
        folder: receives the files.
        resume: events of later steps, of an earlier run in the folder, are hidden; None: nothing is.

    Raises:
        MissingDependencyError: tensorboardX is not installed.
    """

    def __init__(self, folder: str | Path, *, resume: int | None = None) -> None:
        self.folder, self.resume = Path(folder), resume
        super().__init__()

    def _open(self) -> None:
        writers = _load("TensorBoardLogger", "tensorboardX", "tensorboardX")
        purge = None if self.resume is None else self.resume + 1
        self._writer = writers.SummaryWriter(str(self.folder), purge_step=purge)

    def _scalars(self, step: int, values: dict[str, float]) -> None:
        for name, value in values.items():
            self._writer.add_scalar(name, value, step)

    def _histogram(self, step: int, name: str, values: NDArray[Any], bins: int) -> None:
        finite = values[np.isfinite(values)]
        if finite.size:
            self._writer.add_histogram(name, finite, step, bins=bins)

    def _image(self, step: int, name: str, pixels: NDArray[np.uint8]) -> None:
        self._writer.add_image(name, pixels, step, dataformats="HWC")

    def _text(self, step: int, name: str, text: str) -> None:
        self._writer.add_text(name, text, step)

    def _hyperparameters(self, values: dict[str, Any]) -> None:
        lines = "".join(f"| {name} | {value} |\n" for name, value in values.items())
        self._writer.add_text("hyperparameters", f"| setting | value |\n|---|---|\n{lines}", 0)

    def _close(self) -> None:
        self._writer.close()


class WandbLogger(Logger):
    """A run of Weights & Biases, failed where an exception ends the ``with`` statement.

    Curves are drawn over ``step``, a number of its own in each record, as W&B drops what goes back in
    its own count of records.

    Args:
        **options: of ``wandb.init``: ``project``, ``name``, ``mode``, ``id`` and ``resume`` to go on.

    Raises:
        MissingDependencyError: wandb is not installed.
    """

    reserved = ("step",)

    def __init__(self, **options: Any) -> None:
        self.options = options
        super().__init__()

    def _open(self) -> None:
        self._wandb = _load("WandbLogger", "wandb", "wandb")
        self._run = self._wandb.init(**self.options)
        self._run.define_metric("*", step_metric="step")

    def _scalars(self, step: int, values: dict[str, float]) -> None:
        self._run.log({**values, "step": step})

    def _histogram(self, step: int, name: str, values: NDArray[Any], bins: int) -> None:
        counted = np.histogram(values[np.isfinite(values)], bins)
        self._log(step, name, self._wandb.Histogram(np_histogram=counted))

    def _image(self, step: int, name: str, pixels: NDArray[np.uint8]) -> None:
        self._log(step, name, self._wandb.Image(pixels))

    def _text(self, step: int, name: str, text: str) -> None:
        self._log(step, name, self._wandb.Html(f"<pre>{_escaped(text)}</pre>"))

    def _log(self, step: int, name: str, value: Any) -> None:
        self._refuse_names("WandbLogger", [name])
        self._run.log({name: value, "step": step})

    def _hyperparameters(self, values: dict[str, Any]) -> None:
        self._run.config.update(values, allow_val_change=True)

    def _close(self) -> None:
        self._run.finish(exit_code=int(self.failed))


def _escaped(text: str) -> str:
    return text.replace("&", "&amp;").replace("<", "&lt;")


class MLflowLogger(Logger):
    """A run of MLflow, failed where an exception ends the ``with`` statement.

    Histograms, pictures and texts are files of the run. A setting, once told, keeps its value in MLflow.

    Args:
        tracking_uri: where runs are kept; None as MLflow is set up.
        experiment: in which it is filed; None for the default.
        **options: of ``mlflow.start_run``: ``run_name``, or ``run_id`` to go on.

    Raises:
        MissingDependencyError: mlflow is not installed.
    """

    def __init__(
        self, *, tracking_uri: str | None = None, experiment: str | None = None, **options: Any
    ) -> None:
        self.tracking_uri, self.experiment, self.options = tracking_uri, experiment, options
        super().__init__()

    def _open(self) -> None:
        self._mlflow = _load("MLflowLogger", "mlflow", "mlflow")
        if self.tracking_uri is not None:
            self._mlflow.set_tracking_uri(self.tracking_uri)
        if self.experiment is not None:
            self._mlflow.set_experiment(self.experiment)
        self._mlflow.start_run(**self.options)

    def _scalars(self, step: int, values: dict[str, float]) -> None:
        self._mlflow.log_metrics(values, step=step)

    def _histogram(self, step: int, name: str, values: NDArray[Any], bins: int) -> None:
        counts, edges = np.histogram(values[np.isfinite(values)], bins)
        record = {"step": step, "counts": counts.tolist(), "edges": edges.tolist()}
        self._mlflow.log_dict(record, f"histograms/{name}-{step}.json")

    def _image(self, step: int, name: str, pixels: NDArray[np.uint8]) -> None:
        self._mlflow.log_image(pixels, f"images/{name}-{step}.png")

    def _text(self, step: int, name: str, text: str) -> None:
        self._mlflow.log_text(text, f"texts/{name}-{step}.txt")

    def _hyperparameters(self, values: dict[str, Any]) -> None:
        self._mlflow.log_params(values)

    def _close(self) -> None:
        self._mlflow.end_run("FAILED" if self.failed else "FINISHED")
