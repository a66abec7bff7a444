"""The base of pretrained models: what they are called in files, for each task."""

from __future__ import annotations

from abc import abstractmethod
from typing import Any, ClassVar

from distgrad.autograd.tensor import Tensor
from distgrad.errors import DataError, OptionError
from distgrad.hub.config import Config
from distgrad.hub.keys import Key, expand
from distgrad.nn import init
from distgrad.nn.functional.affine import linear
from distgrad.nn.module import Module
from distgrad.nn.modules.linear import Linear

__all__ = ["Decoder", "PretrainedModel"]


class PretrainedModel(Module):
    """The base of the models that :func:`distgrad.hub.load` gives.

    Args:
        config: the settings.
        task: what it is to compute: one of the keys of ``architectures``.

    Attributes:
        config: the settings, under transformers' names.
        task: the task.
        architectures: task to the name of the class in transformers; of each kind of model.

    Raises:
        OptionError: a task that this kind of model has not.
        DataError: a setting that is missing, or that distgrad does not compute.
    """

    architectures: ClassVar[dict[str, str]] = {}
    prefix: ClassVar[str] = ""
    keys: ClassVar[list[Key]] = []
    unused: ClassVar[str] = r"(?!)"  # names of arrays that files have and no model needs

    def __init__(self, config: Config, task: str) -> None:
        super().__init__()
        if task not in self.architectures:
            raise OptionError(
                f"hub.load: {type(self).__name__} has the tasks {sorted(self.architectures)}, got {task!r}"
            )
        for name in ("quantization_config", "is_decoder", "add_cross_attention"):
            if config.values.get(name):
                raise DataError(
                    f"hub.load: {config.where}: {name} is set, which distgrad.hub does not compute"
                )
        self.config = config
        self.task = task

    @classmethod
    def saved_task(cls, config: Config) -> str | None:
        """The task that a file was saved for; None if its class has none here."""
        named = config.values.get("architectures")
        name = named[0] if isinstance(named, list) and named else cls.architectures["features"]
        return next((task for task, other in cls.architectures.items() if other == name), None)

    def own_keys(self) -> list[Key]:
        """The keys of all arrays that this model has."""
        own = {name for name, _ in self.named_parameters()}
        return [key for key in self.all_keys() if all(name in own for name in key.ours)]

    def all_keys(self) -> list[Key]:
        """The keys of the architecture for all tasks."""
        return list(expand(self.keys, self.num_layers()))

    def num_layers(self) -> int:
        """How many blocks there are."""
        return self.config.count("num_hidden_layers", 12)

    def saved_name(self, key: Key) -> str:
        """What an array is called in a file for this model's task."""
        outside = key.part == "head" or self.task == "features"
        return key.theirs if outside else self.prefix + key.theirs

    def extra_repr(self) -> str:
        """The task."""
        return f"task={self.task!r}"


class Decoder(PretrainedModel):
    """A model that foretells each next token; ``encode`` gives what it knows at every place.

    Args: as for :class:`PretrainedModel`.

    Attributes:
        tokens: the table of tokens.
        token_head: the table that logits come from; None where it is that of the tokens.
    """

    tokens: Any
    token_head: Any

    @abstractmethod
    def encode(self, input_ids: Any, padding: Any = None) -> Tensor:
        """The features ``[n, L, width]`` of all places, whatever the task; arguments as of ``forward``."""

    def forward(self, input_ids: Any, attention_mask: Any = None) -> Tensor:
        """Texts as numbers of tokens to what the task asks for.

        Args:
            input_ids: ``[n, L]``.
            attention_mask: ``[n, L]``, 0 where a place is padding; None if none is. Pad behind the text:
                places are counted from the row's start.

        Returns:
            "features": ``[n, L, width]``; "causal-lm": logits ``[n, L, vocab_size]`` of the next token.
        """
        hidden = self.encode(input_ids, attention_mask)
        if self.task == "features":
            return hidden
        table = self.tokens if self.token_head is None else self.token_head
        return linear(hidden, table.weight)


def new_head(config: Config, width: int, outputs: int, bias: bool = True) -> Linear:
    """A layer that is trained from the start: small normal weights, no bias at first."""
    head: Any = Linear(width, outputs, bias)
    init.normal_(head.weight, std=config.number("initializer_range", 0.02))
    if bias:
        init.zeros_(head.bias)
    return head
