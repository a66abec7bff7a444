"""The base of pretrained models: what they are called in files, for each task."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Sequence
from typing import Any, ClassVar

from distgrad.autograd.tensor import Tensor
from distgrad.backend.rng import Generator
from distgrad.errors import DataError, OptionError
from distgrad.hub.config import Config
from distgrad.hub.generation import Cache, Sampling, generate
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
    def encode(
        self, input_ids: Any, padding: Any = None, position_ids: Any = None, cache: Cache | None = None
    ) -> Tensor:
        """The features ``[n, L, width]`` of all places, whatever the task; arguments as of ``forward``."""

    def forward(self, input_ids: Any, attention_mask: Any = None, position_ids: Any = None) -> Tensor:
        """Texts as numbers of tokens to what the task asks for.

        Args:
            input_ids: ``[n, L]``.
            attention_mask: ``[n, L]``, 0 where a place is padding; None if none is.
            position_ids: ``[n, L]``, the place of each token; None means 0, 1, … in each row.

        Returns:
            "features": ``[n, L, width]``; "causal-lm": logits ``[n, L, vocab_size]`` of the next token.
        """
        hidden = self.encode(input_ids, attention_mask, position_ids)
        return hidden if self.task == "features" else self.logits(hidden)

    def logits(self, hidden: Tensor) -> Tensor:
        """Features ``[..., width]`` to logits ``[..., vocab_size]`` of the next token."""
        table = self.tokens if self.token_head is None else self.token_head
        return linear(hidden, table.weight)

    def longest(self) -> int | None:
        """How many places there are; None means any number."""
        return None

    def generate(
        self,
        input_ids: Any,
        attention_mask: Any = None,
        *,
        max_new_tokens: int = 20,
        do_sample: bool = False,
        temperature: float = 1.0,
        top_k: int | None = None,
        top_p: float = 1.0,
        eos_token_id: int | Sequence[int] | None = None,
        pad_token_id: int | None = None,
        generator: Generator | None = None,
        use_cache: bool = True,
    ) -> Tensor:
        """Go on with texts, one token after another: the likeliest, or one that is drawn.

        Dropout is off and no graph is recorded; each place is computed once, its keys and values kept. With
        as many of the same random numbers all ranks draw the same.

        Collective: no, yes for sharded parameters; blocks: likewise.

        Args:
            input_ids: ``[n, L]``; shorter texts are padded before their start.
            attention_mask: ``[n, L]``, 0 where a place is padding; places are counted from the text's start.
            max_new_tokens: that many at most.
            do_sample: whether tokens are drawn.
            temperature: what logits are divided by before: below 1 likely tokens gain.
            top_k: only that many likeliest tokens are drawn; None means all.
            top_p: only the fewest likeliest tokens whose probabilities sum to this are drawn.
            eos_token_id: tokens that end a text; None means those that ``generation_config.json``
                names, or the config where there is no such file.
            pad_token_id: stands behind a text that has ended; None means the one named there, or
                the first that ends one.
            generator: of the random numbers; None means the one that ``dg.manual_seed`` seeds.
            use_cache: False computes all places anew for each token, in less memory.

        Returns:
            ``[n, L + m]``, int64: the texts, and what was added, until all have ended.

        Raises:
            OptionError: a model without logits, a setting outside its range, a row that ends with padding, or
                temperature, top_k, top_p or a generator where nothing is drawn.
            ShapeError: ids or a mask of another shape, or more tokens than the model has places.
        """
        if self.task != "causal-lm":
            raise OptionError(f"generate: the task is {self.task!r}; load the folder for 'causal-lm'")
        sampling = None
        if do_sample:
            sampling = Sampling(temperature, top_k, top_p, generator)
        elif (temperature, top_k, top_p, generator) != (1.0, None, 1.0, None):
            raise OptionError(
                "generate: temperature, top_k, top_p and generator say how tokens are drawn; pass "
                "do_sample=True, or leave them out"
            )
        eos, pad = self.config.special_tokens(self.tokens.num_embeddings)
        if eos_token_id is not None:
            eos = [eos_token_id] if isinstance(eos_token_id, int) else list(map(int, eos_token_id))
        pad = pad if pad_token_id is None else pad_token_id
        modes = {module: module.training for module in self.modules()}
        self.eval()
        try:
            return generate(self, input_ids, attention_mask, max_new_tokens, sampling, eos, pad, use_cache)
        finally:
            for module, training in modes.items():
                module.training = training


def new_head(config: Config, width: int, outputs: int, bias: bool = True) -> Linear:
    """A layer that is trained from the start: small normal weights, no bias at first."""
    head: Any = Linear(width, outputs, bias)
    init.normal_(head.weight, std=config.number("initializer_range", 0.02))
    if bias:
        init.zeros_(head.bias)
    return head
