"""Tiny torch models with random weights and a fixed seed."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

CLASSES = 5


def seeded(build: Callable[[], nn.Module], seed: int = 0) -> Any:
    """What `build` makes, in eval mode, with weights that follow from the seed and batch norms that do something."""
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(seed)
        model = build().eval()
        for part in model.modules():
            if isinstance(part, nn.BatchNorm2d):
                nn.init.normal_(part.running_mean, std=0.2)
                nn.init.uniform_(part.running_var, 0.5, 1.5)
    return model


def numbers(*shape: int, seed: int = 0) -> Tensor:
    """Float32 numbers, normally distributed, that follow from the seed."""
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


class PlainNet(nn.Module):
    """Takes (n, 3, 8, 8); MACs of one sample: stem 13824, middle 18432, late 9216, head 80."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Sequential(nn.Conv2d(3, 8, 3, padding=1), nn.BatchNorm2d(8), nn.ReLU())
        self.middle = nn.Sequential(nn.Conv2d(8, 16, 3, 2, 1), nn.BatchNorm2d(16), nn.ReLU(), nn.Dropout(0.5))
        self.late = nn.Sequential(nn.Conv2d(16, 16, 3, 2, 1), nn.BatchNorm2d(16), nn.ReLU())
        self.head = nn.Linear(16, CLASSES)

    def forward(self, picture: Tensor) -> Tensor:
        return self.head(self.late(self.middle(self.stem(picture))).mean((2, 3)))


class Residual(nn.Module):
    def __init__(self, channels: int) -> None:
        super().__init__()
        self.first = nn.Conv2d(channels, channels, 3, 1, 1)
        self.second = nn.Conv2d(channels, channels, 3, 1, 1)

    def forward(self, x: Tensor) -> Tensor:
        return torch.relu(x + self.second(torch.relu(self.first(x))))


class ResidualNet(nn.Module):
    """Takes (n, 3, 8, 8); a stem of 6912 MACs, four blocks of 2 × 9216, two linear layers of 256 and 20."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 4, 3, padding=1)
        self.blocks = nn.ModuleList(Residual(4) for _ in range(4))
        self.wide = nn.Linear(4 * 64, 1)
        self.head = nn.Linear(1, 20)

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x)
        for block in self.blocks:
            x = block(x)
        return self.head(self.wide(x.flatten(1)))


class InPlaceNet(nn.Module):
    """Its activation function overwrites what the normalisation gave."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.norm, self.act = nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8), nn.ReLU(inplace=True)
        self.second, self.head = nn.Conv2d(8, 8, 3), nn.Linear(8, CLASSES)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.second(self.act(self.norm(self.conv(x)))).mean((2, 3)))


def bert(layers: int = 3) -> Any:
    """BertForSequenceClassification of transformers: input_ids and attention_mask, its output has `.logits`."""
    transformers = pytest.importorskip("transformers", reason="builds the text model")
    config = transformers.BertConfig(
        vocab_size=50, hidden_size=16, num_hidden_layers=layers, num_attention_heads=2, intermediate_size=32,
        max_position_embeddings=32, num_labels=CLASSES,
    )  # fmt: skip
    return seeded(lambda: transformers.BertForSequenceClassification(config))


def sentences(rows: int = 4, length: int = 10) -> dict[str, Tensor]:
    """Inputs of `bert`; each row ends in some padding."""
    ids = torch.randint(1, 50, (rows, length), generator=torch.Generator().manual_seed(0))
    lengths = torch.arange(rows)[:, None] % 4 + length - 4
    return {"input_ids": ids, "attention_mask": (torch.arange(length)[None] < lengths).long()}
