"""What ``config.json`` says of a model, read with errors that name the file and the setting."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from distgrad.errors import DataError, OptionError

__all__ = ["Config"]

FILE = "config.json"
GENERATION_FILE = "generation_config.json"


class Config:
    """The settings of a pretrained model, under the names that transformers gives them.

    Args:
        values: name to value, as in ``config.json``.
        where: the file they came from, for messages.

    Attributes:
        values: the same dict; what :func:`distgrad.hub.save` writes.
        generation: what ``generation_config.json`` says, None if there is none: where it is there, the tokens
            that end and pad a text are those it names.
    """

    def __init__(
        self, values: dict[str, Any], where: str = FILE, generation: dict[str, Any] | None = None
    ) -> None:
        self.values = dict(values)
        self.where = where
        self.generation = generation

    @classmethod
    def read(cls, folder: Path) -> Config:
        """The settings in a folder.

        Raises:
            DataError: there is no ``config.json``, or it or ``generation_config.json`` holds no JSON object.
        """
        path, beside = folder / FILE, folder / GENERATION_FILE
        return cls(_read(path), str(path), _read(beside) if beside.exists() else None)

    def count(self, name: str, default: int | None = None) -> int:
        """A positive whole number; an error where there is none and no default."""
        return int(self._checked(name, default, lambda value: type(value) is int and value > 0, "a count"))

    def number(self, name: str, default: float | None = None) -> float:
        """A number of at least 0; an error where there is none and no default."""
        right = "a number of at least 0"
        return float(
            self._checked(name, default, lambda value: type(value) in (int, float) and value >= 0, right)
        )

    def flag(self, name: str, default: bool) -> bool:
        """True or false."""
        return bool(self._checked(name, default, lambda value: type(value) is bool, "true or false"))

    def text(self, name: str, default: str | None = None) -> str:
        """A text; an error where there is none and no default."""
        return str(self._checked(name, default, lambda value: type(value) is str, "a text"))

    def only(self, name: str, value: Any) -> None:
        """Refuse a setting that has another value than the one that is computed here."""
        found = self.values.get(name, value)
        if found != value:
            raise DataError(
                f"hub.load: {self.where}: {name} is {found!r}, of which distgrad.hub computes {value!r} only"
            )

    def special_tokens(self, num_tokens: int) -> tuple[list[int], int | None]:
        """The tokens that end a text, and the one that stands behind it; None where there is none.

        Raises:
            DataError: they are no tokens.
        """
        said = self.values if self.generation is None else self.generation
        found = []
        for name in ("eos_token_id", "pad_token_id"):
            value = said.get(name)
            tokens = [] if value is None else value if isinstance(value, list) else [value]
            if not all(type(token) is int for token in tokens):
                file = self.where if self.generation is None else GENERATION_FILE
                raise DataError(f"hub: {file}: expected {name} to be the number of a token, got {value!r}")
            found.append(tokens)
        ends, pads = found
        return ends, next((token for token in pads if 0 <= token < num_tokens), None)

    def padding(self, num_tokens: int, default: int | None = None) -> int | None:
        """The token of padding, whose row of the table is not trained; None where there is none."""
        number = self.values.get("pad_token_id", default)
        return number if type(number) is int and 0 <= number < num_tokens else None

    def num_labels(self) -> int:
        """Classes of a classification head: as many as have names, two where none have."""
        names = self.values.get("id2label")
        return len(names) if isinstance(names, dict) and names else self.count("num_labels", 2)

    def with_labels(self, num_labels: int) -> Config:
        """The same settings with other classes, called LABEL_0, LABEL_1, ….

        Raises:
            OptionError: fewer than one.
        """
        if type(num_labels) is not int or num_labels < 1:
            raise OptionError(f"hub.load: num_labels must be a whole number from 1, got {num_labels!r}")
        names = [f"LABEL_{number}" for number in range(num_labels)]
        values = {key: value for key, value in self.values.items() if key != "num_labels"}
        values["id2label"] = {str(number): name for number, name in enumerate(names)}
        values["label2id"] = {name: number for number, name in enumerate(names)}
        return Config(values, self.where, self.generation)

    def _checked(self, name: str, default: Any, accepts: Any, right: str) -> Any:
        value = self.values.get(name)
        value = default if value is None else value
        if value is None or not accepts(value):
            got = "none" if value is None else repr(value)
            raise DataError(f"hub.load: {self.where}: expected {name} to be {right}, got {got}")
        return value


def _read(path: Path) -> dict[str, Any]:
    """The JSON object in a file."""
    try:
        values = json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise DataError(
            f"hub.load: cannot read {path}: {error.strerror}; pass a folder with {FILE} and model.safetensors"
        ) from None
    except (ValueError, RecursionError) as error:
        raise DataError(f"hub.load: {path} is no JSON: {error}") from None
    if not isinstance(values, dict):
        raise DataError(f"hub.load: expected {path} to hold a JSON object, got {type(values).__name__}")
    return values
