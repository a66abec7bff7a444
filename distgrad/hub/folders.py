"""Models from folders, and back."""

from __future__ import annotations

import json
import os
import re
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from distgrad.errors import DataError, DTypeError, StateDictError
from distgrad.hub.bert import Bert
from distgrad.hub.config import FILE, GENERATION_FILE, Config
from distgrad.hub.gpt2 import GPT2
from distgrad.hub.keys import Key, gather, plain_names, scatter
from distgrad.hub.llama import Llama, Mistral, Qwen2
from distgrad.hub.model import PretrainedModel
from distgrad.hub.vit import ViT
from distgrad.hub.weights import read_weights, write_text, write_weights

__all__ = ["load", "save"]

MODELS: dict[str, type[PretrainedModel]] = {
    "bert": Bert,
    "gpt2": GPT2,
    "llama": Llama,
    "mistral": Mistral,
    "qwen2": Qwen2,
    "vit": ViT,
}


def load(
    folder: str | os.PathLike[str], task: str | None = None, *, num_labels: int | None = None
) -> PretrainedModel:
    """Read a pretrained model from a folder as transformers and the Hugging Face hub have them.

    Parameters are float32, whatever the file has; ``model.to(dtype)`` brings them to another. The model is in
    evaluation mode, as transformers' are; call ``train()`` before training it.

    Collective: no; on several ranks each reads the folder.

    Args:
        folder: has ``config.json``, and ``model.safetensors`` or a sharded ``model.safetensors.index.json``;
            of a ``generation_config.json`` the tokens that end and pad a text are taken.
        task: what the model is to compute: "features", "masked-lm", "causal-lm" or "classification"; None
            means what it was saved for. A head that the file lacks for another task is drawn anew.
        num_labels: classes of a new classification head; None means as many as the file says.

    Returns:
        The model, of the class for its type: :class:`Bert`, :class:`GPT2`, :class:`Llama` (also
        :class:`Mistral`, :class:`Qwen2`), :class:`ViT`.

    Raises:
        DataError: files that are missing or damaged, weights as a pickle, an unknown type of model, or a
            setting that distgrad does not compute.
        StateDictError: arrays that are missing, of another shape or dtype, or that no model of this type has.
        OptionError: a task that models of this type have not.
    """
    folder = Path(folder)
    config = Config.read(folder)
    kind = _find_kind(config)
    saved_for = kind.saved_task(config)
    if task is None and saved_for is None:
        raise DataError(
            f"hub.load: {config.where}: architectures is {config.values['architectures']!r}, no task of "
            f"{kind.__name__}; pass task= as one of {sorted(kind.architectures)}"
        )
    if num_labels is not None:
        config = config.with_labels(num_labels)
    model = kind(config, task or saved_for or "features")
    new = {"head", "pooler"} if model.task != saved_for else set()
    _fill(model, read_weights(folder), new, num_labels is not None, str(folder))
    return model.eval()


def _find_kind(config: Config) -> type[PretrainedModel]:
    name = config.text("model_type")
    if name not in MODELS:
        raise DataError(
            f"hub.load: {config.where}: model_type is {name!r}; distgrad.hub reads "
            f"{', '.join(sorted(MODELS))}"
        )
    return MODELS[name]


def _fill(
    model: PretrainedModel,
    files: Iterable[dict[str, np.ndarray]],
    new: set[str],
    new_labels: bool,
    folder: str,
) -> None:
    """Copy arrays into the model, and say of all that do not fit why.

    Args:
        model: the model.
        files: arrays by their names in files.
        new: parts that keep their first values where files lack them.
        new_labels: whether the classifier keeps them in any case.
        folder: for messages.
    """
    known = {key.theirs for key in model.all_keys() if key.part != "body"}
    wanted = {key.theirs: key for key in model.own_keys()}
    if new_labels:
        wanted = {name: key for name, key in wanted.items() if not name.startswith("classifier.")}
    own, unused, problems = model.state_dict(), re.compile(model.unused), []
    for arrays in files:
        fitting: dict[str, Any] = {}
        for name, array in plain_names(arrays, model.prefix).items():
            key = wanted.pop(name, None)
            if key is not None:
                problems += _fit(key, array, own, fitting)
            elif name not in known and not unused.fullmatch(name):
                problems.append(f"unexpected {name} {list(array.shape)}")
        model.load_state_dict(fitting, strict=False)
    optional = model.task == "features" and all(name in wanted for name in known if "pooler." in name)
    if optional and hasattr(model, "pooler"):
        model.pooler = None
        new = {*new, "pooler"}
    problems += [f"missing {name}" for name, key in wanted.items() if key.part not in new]
    if problems:
        shown = [*problems[:20], *([f"and {len(problems) - 20} more"] if len(problems) > 20 else [])]
        raise StateDictError(
            f"hub.load: the arrays in {folder} do not fit {type(model).__name__}, task {model.task!r}:\n  "
            + "\n  ".join(shown)
        )


def _fit(key: Key, array: np.ndarray, own: dict[str, Any], fitting: dict[str, Any]) -> list[str]:
    """Put one of a file's arrays into ``fitting`` under the module's names; or why not."""
    shapes = [tuple(own[name].shape) for name in key.ours]
    joined = (sum(shape[0] for shape in shapes), *shapes[0][1:])
    expected = joined[::-1] if key.transposed else joined
    if array.shape != expected:
        return [f"{key.theirs} is {list(array.shape)}, expected {list(expected)}"]
    if array.dtype.kind != "f" and array.dtype.name != "bfloat16":
        return [f"{key.theirs} is {array.dtype}, expected floats of 16 bits or more"]
    parts = scatter(key, array, [shape[0] for shape in shapes])
    fitting.update((name, part.astype(own[name].dtype)) for name, part in zip(key.ours, parts, strict=True))
    return []


def save(
    model: PretrainedModel,
    folder: str | os.PathLike[str],
    *,
    state_dict: Mapping[str, Any] | None = None,
    max_file_bytes: int = 5 * 10**9,
) -> None:
    """Write a model so that transformers loads it: ``config.json``, weights as safetensors, and
    ``generation_config.json`` where it came with one.

    Files of a model that the folder had before are replaced, each once it is complete; other files stay, so a
    tokenizer can be copied there.

    Collective: no; on several ranks let one of them write. Of sharded parameters give ``state_dict``: to read
    them all ranks are needed.

    Args:
        model: of :func:`load`, or made with a class of this package; trained or not. Under a wrapper such as
            ``DistributedDataParallel`` it is ``wrapper.module``.
        folder: receives the files; made where it is not there.
        state_dict: the values, in place of the model's own: ``ddp.state_dict(rank0_only=True)``, which all
            ranks call, where parameters are sharded.
        max_file_bytes: weights of more bytes are written as several files with an index.

    Raises:
        DTypeError: something that is no such model.
        StateDictError: ``state_dict`` lacks a parameter.
        OSError: a file cannot be written.
    """
    if not isinstance(model, PretrainedModel):
        inner = isinstance(getattr(model, "module", None), PretrainedModel)
        hint = "pass its .module" if inner else "dg.save writes the state of any module"
        raise DTypeError(f"hub.save: expected a model of distgrad.hub, got {type(model).__name__}; {hint}")
    folder = Path(folder)
    state = model.state_dict() if state_dict is None else state_dict
    own = {name.removeprefix("module."): value for name, value in state.items()}  # as a wrapper names them
    arrays = {model.saved_name(key): gather(key, lambda name: _host(own, name)) for key in model.own_keys()}
    dtypes = {str(array.dtype) for array in arrays.values()}
    config = {
        **model.config.values,
        "model_type": next(name for name, kind in MODELS.items() if type(model) is kind),
        "architectures": [model.architectures[model.task]],
        "dtype": dtypes.pop() if len(dtypes) == 1 else "float32",
    }
    config.pop("torch_dtype", None)
    folder.mkdir(parents=True, exist_ok=True)
    write_weights(arrays, folder, max_file_bytes)
    write_text(folder / FILE, json.dumps(config, indent=2, sort_keys=True) + "\n")
    if model.config.generation is None:
        (folder / GENERATION_FILE).unlink(missing_ok=True)  # another model's
    else:
        write_text(
            folder / GENERATION_FILE, json.dumps(model.config.generation, indent=2, sort_keys=True) + "\n"
        )


def _host(own: Mapping[str, Any], name: str) -> np.ndarray:
    """A parameter's values in host memory."""
    if name not in own:
        raise StateDictError(f"hub.save: the state dict lacks {name}; pass the state of this model")
    return np.asarray(own[name].detach().to("cpu").numpy())
