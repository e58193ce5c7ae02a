"""The multi-exit network that one writes by hand in PyTorch, run eagerly: what most users have today."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import pairwise
from typing import Any

import numpy as np
import torch
from networks import Network
from numpy.typing import NDArray
from torch import Tensor, nn

__all__ = ["HandWritten", "MultiExit", "cuts_at"]

MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
GRID = 4


class MultiExit(nn.Module):
    """A network with a linear exit on 4 × 4 means behind some of its blocks, run in evaluation mode.

    Args:
        network: The network; its batch normalisation stays as it is.
        cuts: How many blocks are run before each exit but the last; rising.
        example: A picture (1, 3, height, width) to learn the exits' sizes from.
    """

    def __init__(self, network: Network, cuts: Sequence[int], example: Tensor) -> None:
        super().__init__()
        blocks = list(network.blocks)
        ends = [0, *cuts, len(blocks)]
        self.stages = nn.ModuleList(nn.Sequential(*blocks[a:b]) for a, b in pairwise(ends))
        classes = network.classifier[-1].out_features
        heads = []
        with torch.no_grad():
            for stage in self.stages[:-1]:
                example = stage(example)
                grid = min(GRID, example.shape[-1])
                linear = nn.Linear(example.shape[1] * grid * grid, classes)
                heads.append(nn.Sequential(nn.AdaptiveAvgPool2d(grid), nn.Flatten(), linear))
        self.heads = nn.ModuleList([*heads, network.classifier])
        self.eval()


class HandWritten:
    """A rival for `edgeexit_runtime.bench`, from pictures (n, height, width, 3) uint8.

    Every exit computes its probabilities and reads the highest; then samples leave where they are told to, so
    that the work is the cascade's.

    Args:
        model: The network.
        input_name: Of the pictures.
    """

    name = "handwritten"
    largest_batch: int | None = None

    def __init__(self, model: MultiExit, input_name: str) -> None:
        self._model = model
        self._input = input_name
        self._mean, self._std = (torch.tensor(values).reshape(1, 3, 1, 1) for values in (MEAN, STD))

    def __call__(self, batch: Mapping[str, NDArray[Any]], exits: NDArray[np.int64]) -> None:
        with torch.inference_mode():
            pictures = torch.from_numpy(batch[self._input]).permute(0, 3, 1, 2)
            x = ((pictures.float() / 255 - self._mean) / self._std).contiguous()
            if len(exits) == 1:
                self._one(x, int(exits[0]))
            else:
                self._several(x, torch.from_numpy(exits))

    def _one(self, x: Tensor, exit_index: int) -> int:
        for k, (stage, head) in enumerate(zip(self._model.stages, self._model.heads, strict=True)):
            x = stage(x)
            confidence, label = torch.softmax(head(x), 1).max(1)
            confidence.item()  # what a threshold would be compared with
            if k >= exit_index:
                break
        return int(label.item())

    def _several(self, x: Tensor, exits: Tensor) -> Tensor:
        labels = torch.empty_like(exits)
        rows = torch.arange(len(exits))
        for k, (stage, head) in enumerate(zip(self._model.stages, self._model.heads, strict=True)):
            x = stage(x)
            _, label = torch.softmax(head(x), 1).max(1)
            leaves = exits <= k
            labels[rows[leaves]] = label[leaves]
            stays = ~leaves
            if not stays.any():
                break
            x, rows, exits = x[stays], rows[stays], exits[stays]
        return labels


def cuts_at(network: Network, example: Tensor, shares: Sequence[float]) -> list[int]:
    """The numbers of blocks whose share of the network's MACs is nearest to each of `shares`; strictly rising."""
    spent = np.cumsum([block_macs(block, network, example) for block in range(len(network.blocks))])
    spent = spent / spent[-1]
    cuts: list[int] = []
    for share in shares:
        nearest = 1 + int(np.abs(spent - share).argmin())
        cuts.append(min(max(nearest, cuts[-1] + 1 if cuts else 1), len(spent) - 1))
    return cuts


def block_macs(index: int, network: Network, example: Tensor) -> int:
    """MACs of a block's convolutions."""
    counted: list[int] = []

    def count(part: nn.Conv2d, inputs: tuple[Tensor, ...], output: Tensor) -> None:
        counted.append(part.weight[0].numel() * output.numel())

    convolutions = [part for part in network.blocks[index].modules() if isinstance(part, nn.Conv2d)]
    hooks = [part.register_forward_hook(count) for part in convolutions]
    with torch.no_grad():
        network.blocks(example)
    for hook in hooks:
        hook.remove()
    return sum(counted)
