"""A loop over what is not trained on."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sized
from typing import Any

from distgrad.autograd.modes import no_grad
from distgrad.autograd.tensor import Tensor
from distgrad.backend.device import CPU, Device
from distgrad.comm.registry import get_world, is_initialized
from distgrad.errors import OptionError
from distgrad.nn.module import Module
from distgrad.train.progress import bar

__all__ = ["evaluate"]


def evaluate(
    model: Module, loader: Iterable[Any], *, title: str = "evaluate", show: bool = True
) -> Iterator[Any]:
    """The batches of a loader, where the model lies, for a loop in which nothing is trained.

    Inside the loop the model is in evaluation mode and no graph is recorded; afterwards, however it ends, all
    is as before. Rank 0 shows a bar. The ranks' loaders may differ in length, unless the model's parameters
    are sharded: all ranks gather those together in every forward pass.

    ::

        for images, labels in dg.train.evaluate(model, loader):
            accuracy.update(model(images), labels)

    Collective: no, yes for a model whose parameters are sharded; blocks: no, likewise.

    Args:
        model: a module, or one under DistributedDataParallel.
        loader: gives batches: tensors, also inside tuples, lists and dicts.
        title: stands before the bar.
        show: False for no bar.

    Yields:
        The batches, their tensors on the device of the model's parameters.

    Raises:
        OptionError: sharded parameters, and loaders of different lengths.
    """
    if getattr(model, "shard", None) == "parameters":
        _check_lengths(model, loader)
    return _batches(model, loader, title, show)


def _batches(model: Module, loader: Iterable[Any], title: str, show: bool) -> Iterator[Any]:
    device = next((parameter.device for parameter in model.parameters()), CPU)
    modes = {module: module.training for module in model.modules()}
    model.eval()
    is_first = not is_initialized() or get_world().rank == 0
    try:
        with no_grad():
            for batch in bar(loader, title, shown=show and is_first):
                yield _moved(batch, device)
    finally:
        for module, training in modes.items():
            module.training = training


def _check_lengths(model: Any, loader: Iterable[Any]) -> None:
    lengths = model.comm.all_gather_object(len(loader) if isinstance(loader, Sized) else None)
    if None in lengths or len(set(lengths)) > 1:
        raise OptionError(
            "evaluate: the model's parameters are sharded, so all ranks need equally many batches, and they "
            f"have {lengths}; pad the sampler, or evaluate a model that was loaded whole"
        )


def _moved(batch: Any, device: Device) -> Any:
    """The same batch with its tensors on the device."""
    if isinstance(batch, Tensor):
        return batch.to(device)
    if isinstance(batch, Mapping):
        return {key: _moved(each, device) for key, each in batch.items()}
    if isinstance(batch, tuple) and hasattr(batch, "_fields"):
        return type(batch)(*(_moved(each, device) for each in batch))
    return type(batch)(_moved(each, device) for each in batch) if isinstance(batch, list | tuple) else batch
