"""Metrics of language models and translations."""

from __future__ import annotations

from collections import Counter
from collections.abc import Hashable, Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from distgrad.autograd.creation import asarray
from distgrad.autograd.modes import no_grad
from distgrad.autograd.tensor import Tensor
from distgrad.errors import OptionError
from distgrad.nn.functional.classification import cross_entropy
from distgrad.train.metrics.metric import Metric

__all__ = ["BLEU", "Perplexity"]


class Perplexity(Metric):
    """exp of the mean negative log-likelihood of the targets: how many tokens the model wavers between.

    Args:
        ignore_index: targets of this class, as padding, are not counted.
    """

    def __init__(self, ignore_index: int = -100) -> None:
        super().__init__()
        self.ignore_index = ignore_index
        self.add_sum("loss")
        self.add_sum("count")

    def update(self, scores: Any, targets: Any) -> None:
        """Take in a batch of this rank.

        Collective: no; blocks: no.

        Args:
            scores: logits ``[..., classes]``, the classes along the **last** axis.
            targets: classes ``[...]``.
        """
        logits = scores if isinstance(scores, Tensor) else asarray(scores)
        target = targets if isinstance(targets, Tensor) else asarray(targets, device=logits.device)
        with no_grad():
            rows, classes = logits.detach().reshape(-1, logits.shape[-1]), target.detach().reshape(-1)
            if rows.dtype.itemsize < 4:  # too coarse for a sum of thousands of losses
                rows = rows.float()
            losses = cross_entropy(rows, classes, reduction="none", ignore_index=self.ignore_index)
            self.sums["count"] += int((classes != self.ignore_index).sum())
            self.sums["loss"] += float(losses.double().sum())

    def value(self, sums: Mapping[str, NDArray[np.float64]], rows: Mapping[str, list[NDArray[Any]]]) -> float:
        """exp(loss / count)."""
        return float(np.exp(sums["loss"] / sums["count"])) if sums["count"] else float("nan")


class BLEU(Metric):
    """How many n-grams of translations occur in their references, 0 to 1, over the whole corpus.

    The geometric mean of the n-gram precisions, times exp(1 − reference length / length) where the
    translations are shorter than the closest references.

    Args:
        max_n: n-grams of 1 to this many tokens.

    Source: Papineni et al., BLEU: a Method for Automatic Evaluation of Machine Translation, ACL 2002.
    """

    def __init__(self, max_n: int = 4) -> None:
        super().__init__()
        if max_n < 1:
            raise OptionError(f"BLEU: max_n must be 1 or more, got {max_n}")
        self.max_n = max_n
        self.add_sum("matches", (max_n,))
        self.add_sum("total", (max_n,))
        self.add_sum("length")
        self.add_sum("reference_length")

    def update(
        self, translations: Sequence[Sequence[Hashable]], references: Sequence[Sequence[Sequence[Hashable]]]
    ) -> None:
        """Take in sentences of this rank.

        Collective: no; blocks: no.

        Args:
            translations: each a sequence of tokens; a string would be one of characters and is refused.
            references: for each translation one or more sequences of tokens.
        """
        if len(translations) != len(references):
            raise OptionError(
                f"BLEU.update: {len(translations)} translations but references for {len(references)}"
            )
        for translation, accepted in zip(translations, references, strict=True):
            if (
                isinstance(translation, str)
                or isinstance(accepted, str)
                or any(isinstance(each, str) for each in accepted)
            ):
                raise OptionError(
                    "BLEU.update: translations and references must be sequences of tokens, got a string; "
                    "split it: [text.split()], [[reference.split()]]"
                )
            if not accepted:
                raise OptionError("BLEU.update: every translation needs at least one reference")
            self._add(translation, accepted)

    def _add(self, translation: Sequence[Hashable], accepted: Sequence[Sequence[Hashable]]) -> None:
        length = len(translation)
        self.sums["length"] += length
        self.sums["reference_length"] += min(map(len, accepted), key=lambda n: (abs(n - length), n))
        for n in range(1, self.max_n + 1):
            found = _ngrams(translation, n)
            most: Counter[tuple[Hashable, ...]] = Counter()
            for reference in accepted:
                most |= _ngrams(reference, n)
            self.sums["matches"][n - 1] += (found & most).total()
            self.sums["total"][n - 1] += found.total()

    def value(self, sums: Mapping[str, NDArray[np.float64]], rows: Mapping[str, list[NDArray[Any]]]) -> float:
        """0 if no n-gram of some length was found."""
        length, reference_length = float(sums["length"]), float(sums["reference_length"])
        if not length:
            return float("nan")
        if not sums["matches"].all():
            return 0.0
        shortness = min(0.0, 1 - reference_length / length)
        return float(np.exp(shortness + np.log(sums["matches"] / sums["total"]).mean()))


def _ngrams(tokens: Sequence[Hashable], n: int) -> Counter[tuple[Hashable, ...]]:
    return Counter(tuple(tokens[i : i + n]) for i in range(len(tokens) - n + 1))
