"""The benchmark's models, written once for PyTorch and distgrad: only ``nn`` and ``F`` differ."""

from __future__ import annotations

import itertools
from types import ModuleType
from typing import Any

__all__ = ["build"]


def build(nn: ModuleType, F: ModuleType, attend: Any, name: str, sizes: tuple[int, ...]) -> Any:
    """The model of a workload.

    Args:
        nn: ``torch.nn`` or ``distgrad.nn``.
        F: its ``functional``.
        attend: its ``scaled_dot_product_attention``.
        name: of the workload.
        sizes: of the workload.
    """
    family = {
        "tiny": _dense(nn, nn.Tanh),
        "cnn": _cnn,
        "gpt": _gpt(nn, F, attend),
        "gptm": _gpt(nn, F, attend),
        "resnet20": _resnet(nn, F),
        "lstm": _lstm(nn),
        "embedding": _bag(nn, F),
        "layernorm": _norms(nn),
        "softmax": _softmaxes(nn, F),
    }.get(name, _dense(nn, nn.ReLU))
    return _cnn(nn) if family is _cnn else family(*sizes)


def _dense(nn: ModuleType, activation: Any) -> Any:
    def model(*widths: int) -> Any:
        layers = []
        for k, n in itertools.pairwise(widths):
            layers += [nn.Linear(k, n), activation()]
        return nn.Sequential(*layers[:-1])

    return model


def _cnn(nn: ModuleType) -> Any:
    return nn.Sequential(
        *(nn.Conv2d(1, 32, 3), nn.ReLU(), nn.Conv2d(32, 64, 3), nn.ReLU(), nn.MaxPool2d(2)),
        *(nn.Flatten(), nn.Linear(9216, 128), nn.ReLU(), nn.Linear(128, 10)),
    )


def _gpt(nn: ModuleType, F: ModuleType, attend: Any) -> Any:
    class Block(nn.Module):  # type: ignore[name-defined]
        def __init__(self, width: int, heads: int) -> None:
            super().__init__()
            self.heads = heads
            self.norm1, self.norm2 = nn.LayerNorm(width), nn.LayerNorm(width)
            self.inward, self.outward = nn.Linear(width, 3 * width), nn.Linear(width, width)
            self.widen, self.narrow = nn.Linear(width, 4 * width), nn.Linear(4 * width, width)

        def forward(self, x: Any) -> Any:
            batch, length, width = x.shape
            parts = self.inward(self.norm1(x)).reshape(batch, length, 3, self.heads, width // self.heads)
            q, k, v = parts.permute(2, 0, 3, 1, 4)
            y = attend(q, k, v, is_causal=True)
            x = x + self.outward(y.permute(0, 2, 1, 3).reshape(batch, length, width))
            return x + self.narrow(F.gelu(self.widen(self.norm2(x))))

    class GPT(nn.Module):  # type: ignore[name-defined]
        def __init__(self, classes: int, length: int, layers: int, heads: int, width: int) -> None:
            super().__init__()
            self.characters, self.places = nn.Embedding(classes, width), nn.Embedding(length, width)
            self.blocks = nn.Sequential(*(Block(width, heads) for _ in range(layers)))
            self.norm, self.head = nn.LayerNorm(width), nn.Linear(width, classes, bias=False)

        def forward(self, index: Any) -> Any:
            x = self.characters(index) + self.places.weight
            return self.head(self.norm(self.blocks(x))).reshape(-1, self.head.out_features)

    return GPT


def _resnet(nn: ModuleType, F: ModuleType) -> Any:
    class Block(nn.Module):  # type: ignore[name-defined]
        def __init__(self, before: int, width: int) -> None:
            super().__init__()
            stride = 1 if before == width else 2
            self.conv1 = nn.Conv2d(before, width, 3, stride, padding=1, bias=False)
            self.conv2 = nn.Conv2d(width, width, 3, padding=1, bias=False)
            self.norm1, self.norm2 = nn.BatchNorm2d(width), nn.BatchNorm2d(width)
            self.short = nn.Sequential()
            if stride == 2:
                self.short = nn.Sequential(
                    nn.Conv2d(before, width, 1, stride, bias=False), nn.BatchNorm2d(width)
                )

        def forward(self, x: Any) -> Any:
            y = self.norm2(self.conv2(F.relu(self.norm1(self.conv1(x)))))
            return F.relu(y + self.short(x))

    class ResNet20(nn.Module):  # type: ignore[name-defined]
        def __init__(self) -> None:
            super().__init__()
            self.stem = nn.Sequential(
                nn.Conv2d(3, 16, 3, padding=1, bias=False), nn.BatchNorm2d(16), nn.ReLU()
            )
            widths = [16] * 4 + [32] * 3 + [64] * 3
            self.blocks = nn.Sequential(*(Block(a, b) for a, b in itertools.pairwise(widths)))
            self.head = nn.Linear(64, 10)

        def forward(self, x: Any) -> Any:
            return self.head(self.blocks(self.stem(x)).mean(axis=(2, 3)))

    return ResNet20


def _lstm(nn: ModuleType) -> Any:
    class Recurrent(nn.Module):  # type: ignore[name-defined]
        def __init__(self, inputs: int, width: int) -> None:
            super().__init__()
            self.lstm, self.head = nn.LSTM(inputs, width), nn.Linear(width, 10)

        def forward(self, x: Any) -> Any:
            return self.head(self.lstm(x)[0][-1])

    return Recurrent


def _bag(nn: ModuleType, F: ModuleType) -> Any:
    class Bag(nn.Module):  # type: ignore[name-defined]
        def __init__(self, classes: int, width: int) -> None:
            super().__init__()
            self.table, self.hidden = nn.Embedding(classes, width), nn.Linear(width, width)
            self.head = nn.Linear(width, 10)

        def forward(self, index: Any) -> Any:
            return self.head(F.relu(self.hidden(self.table(index).mean(axis=1))))

    return Bag


def _norms(nn: ModuleType) -> Any:
    class Norms(nn.Module):  # type: ignore[name-defined]
        def __init__(self, width: int, layers: int) -> None:
            super().__init__()
            self.norms = nn.ModuleList([nn.LayerNorm(width) for _ in range(layers)])
            self.head = nn.Linear(width, 10)

        def forward(self, x: Any) -> Any:
            for norm in self.norms:
                x = x + norm(x)
            return self.head(x)

    return Norms


def _softmaxes(nn: ModuleType, F: ModuleType) -> Any:
    class Softmaxes(nn.Module):  # type: ignore[name-defined]
        def __init__(self, width: int, layers: int) -> None:
            super().__init__()
            self.shift, self.head, self.layers = nn.LayerNorm(width), nn.Linear(width, 10), layers

        def forward(self, x: Any) -> Any:
            x = self.shift(x)
            for _ in range(self.layers):
                x = x + F.softmax(x, -1)
            return self.head(x)

    return Softmaxes
