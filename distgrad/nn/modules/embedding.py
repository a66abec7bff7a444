"""Tables of vectors, looked up by number."""

from __future__ import annotations

from typing import Any

from distgrad.autograd.creation import zeros
from distgrad.autograd.tensor import Tensor
from distgrad.errors import OptionError, ShapeError
from distgrad.nn import init
from distgrad.nn.functional import embeddings as F
from distgrad.nn.module import Module
from distgrad.nn.parameter import Parameter, write

__all__ = ["Embedding", "EmbeddingBag"]


class _Table(Module):
    """What embeddings and bags of them share."""

    _kernels = ("embedding/weight",)

    def __init__(
        self,
        num_embeddings: int,
        embedding_dim: int,
        padding_idx: int | None,
        max_norm: float | None,
        norm_type: float,
        scale_grad_by_freq: bool,
        sparse: bool,
        device: Any,
        dtype: Any,
    ) -> None:
        super().__init__()
        F.tell_dense(sparse, type(self).__name__)
        if padding_idx is not None and not -num_embeddings <= padding_idx < num_embeddings:
            raise OptionError(
                f"{type(self).__name__}: padding_idx={padding_idx} is outside a table of {num_embeddings}"
            )
        self.num_embeddings = num_embeddings
        self.embedding_dim = embedding_dim
        self.padding_idx = None if padding_idx is None else padding_idx % num_embeddings
        self.max_norm = max_norm
        self.norm_type = norm_type
        self.scale_grad_by_freq, self.sparse = scale_grad_by_freq, sparse
        self.weight = Parameter(zeros((num_embeddings, embedding_dim), dtype=dtype, device=device))
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Draw new initial values, of the standard normal distribution; 0 for the padding."""
        init.normal_(self.weight)
        if self.padding_idx is not None:
            self.weight._data[self.padding_idx] = 0
            self.weight.changed("reset_parameters")

    @classmethod
    def from_pretrained(cls, embeddings: Tensor, freeze: bool = True, **settings: Any) -> Any:
        """A module with a given table.

        Args:
            embeddings: the table ``[num_embeddings, embedding_dim]``.
            freeze: whether it stays as it is in training.
            **settings: of the constructor.
        """
        if embeddings.ndim != 2:
            raise ShapeError(f"from_pretrained: expected a table with two axes, got {list(embeddings.shape)}")
        rows, width = embeddings.shape
        table: Any = cls  # whose constructor takes the settings; the base's takes more
        out = table(rows, width, dtype=embeddings.dtype, **settings)
        write(out.weight, embeddings._data, "from_pretrained")
        out.weight.requires_grad_(not freeze)
        return out

    def extra_repr(self) -> str:
        """The sizes, and what is not as usual."""
        settings = {
            "padding_idx": (self.padding_idx, None),
            "max_norm": (self.max_norm, None),
            "norm_type": (self.norm_type, 2.0),
            "scale_grad_by_freq": (self.scale_grad_by_freq, False),
        }
        return f"{self.num_embeddings}, {self.embedding_dim}" + "".join(
            f", {name}={value}" for name, (value, usual) in settings.items() if value != usual
        )


class Embedding(_Table):
    """A table of vectors, looked up by number.

    Args:
        num_embeddings: rows of the table.
        embedding_dim: length of a row.
        padding_idx: a row that is 0 at first and has a gradient of 0.
        max_norm: rows longer than it are shortened when they are read.
        norm_type: p of the norm that measures them.
        scale_grad_by_freq: divide a row's gradient by how often it is read.
        sparse: taken; gradients are dense, which is said once.
        device: where the parameter lies.
        dtype: of the parameter; None means float32.

    Attributes:
        weight: ``[num_embeddings, embedding_dim]``.
    """

    def __init__(
        self,
        num_embeddings: int,
        embedding_dim: int,
        padding_idx: int | None = None,
        max_norm: float | None = None,
        norm_type: float = 2.0,
        scale_grad_by_freq: bool = False,
        sparse: bool = False,
        device: Any = None,
        dtype: Any = None,
    ) -> None:
        super().__init__(
            num_embeddings,
            embedding_dim,
            padding_idx,
            max_norm,
            norm_type,
            scale_grad_by_freq,
            sparse,
            device,
            dtype,
        )

    def forward(self, input: Any) -> Tensor:
        """Row numbers of any shape to ``[*input, embedding_dim]``."""
        return F.embedding(
            input, self.weight, self.padding_idx, self.max_norm, self.norm_type, self.scale_grad_by_freq
        )


class EmbeddingBag(_Table):
    """Sums, means or maxima of a table's rows, a bag at a time.

    Args:
        num_embeddings, embedding_dim, max_norm, norm_type, scale_grad_by_freq: as in :class:`Embedding`.
        mode: "sum", "mean" or "max".
        sparse: taken; gradients are dense, which is said once.
        include_last_offset: the last of the offsets is where the last bag ends.
        padding_idx: a row number that is passed over.
        device: where the parameter lies.
        dtype: of the parameter; None means float32.
    """

    def __init__(
        self,
        num_embeddings: int,
        embedding_dim: int,
        max_norm: float | None = None,
        norm_type: float = 2.0,
        scale_grad_by_freq: bool = False,
        mode: str = "mean",
        sparse: bool = False,
        include_last_offset: bool = False,
        padding_idx: int | None = None,
        device: Any = None,
        dtype: Any = None,
    ) -> None:
        super().__init__(
            num_embeddings,
            embedding_dim,
            padding_idx,
            max_norm,
            norm_type,
            scale_grad_by_freq,
            sparse,
            device,
            dtype,
        )
        self.mode = mode
        self.include_last_offset = include_last_offset

    def forward(self, input: Any, offsets: Any = None, per_sample_weights: Tensor | None = None) -> Tensor:
        """Row numbers ``[B, L]``, or ``[total]`` and where each bag starts, to ``[B, embedding_dim]``."""
        return F.embedding_bag(
            input,
            self.weight,
            offsets,
            self.max_norm,
            self.norm_type,
            self.scale_grad_by_freq,
            self.mode,
            per_sample_weights=per_sample_weights,
            include_last_offset=self.include_last_offset,
            padding_idx=self.padding_idx,
        )

    def extra_repr(self) -> str:
        """The sizes, and what is not as usual."""
        return super().extra_repr().replace(f", padding_idx={self.padding_idx}", "") + (
            f", mode={self.mode!r}"
            + ("" if self.padding_idx is None else f", padding_idx={self.padding_idx}")
        )
