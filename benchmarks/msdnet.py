"""A multi-scale DenseNet (Huang et al. 2018, MSDNet, sections 3 and 4) for pictures of 32 × 32: multi-exit by design.

Every layer has feature maps at three scales, fine to coarse, and keeps all that was there before it (dense
connections). A layer adds to each scale what a convolution makes of the scale itself, and a strided one of the
next finer scale. Classifiers read the coarsest scale alone, which is there from the first layer on, so that even
the earliest exit sees coarse features. What an exit does not need is left for later ("lazy evaluation"): where the
graph is cut behind an exit of layer l, the coarsest scale is as far as layer l, the next finer one as layer l - 1,
the finest as layer l - 2, and all three cross the cut.

Left out of the paper's network: transitions that halve the channels, and scales that end early.

    edgeexit export msdnet:untrained --data PICTURES --mean … --std … -o msdnet.eexit
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import accumulate, pairwise

import torch
from torch import Tensor, nn

__all__ = ["MSDNet", "trained", "untrained"]

WEIGHTS = "msdnet.safetensors"


class MSDNet(nn.Module):
    """Maps of several scales in layers, and an exit behind each block of layers.

    Args:
        classes: C.
        channels: Of the first layer, at each scale, fine to coarse; each scale has half the side of the one before.
        growth: Channels that a layer adds to each scale; even, but for the finest scale.
        bottleneck: Channels between a layer's 1 × 1 and 3 × 3 convolution, as a multiple of what the latter makes.
        blocks: Layers of each block, the first layer of all, which reads the picture, not counted.
        head: Channels of the two strided convolutions of a classifier.
    """

    def __init__(
        self,
        classes: int = 10,
        *,
        channels: Sequence[int] = (16, 32, 64),
        growth: Sequence[int] = (6, 12, 24),
        bottleneck: Sequence[int] = (1, 2, 4),
        blocks: Sequence[int] = (1, 1, 1, 2, 2),
        head: Sequence[int] = (32, 64),
    ) -> None:
        super().__init__()
        scales, last = len(channels), sum(blocks)
        self.ends = tuple(accumulate(blocks))
        strides = (1, *(2,) * (scales - 1))
        self.first = nn.ModuleList(
            conv(inside, outside, 3, stride)
            for (inside, outside), stride in zip(pairwise((3, *channels)), strides, strict=True)
        )
        widths = list(channels)
        self.layers = nn.ModuleList()
        self.exits = nn.ModuleList()
        for number in range(1, last + 1):
            finest = max(0, scales - 1 - (last - number))  # finer maps of the last layers are never looked at
            self.layers.append(Layer(widths, growth, bottleneck, finest))
            widths = [width + growth[s] * (s >= finest) for s, width in enumerate(widths)]
            if number in self.ends:
                self.exits.append(classifier(widths[-1], head, classes))

    def forward(self, image: Tensor) -> tuple[Tensor, ...]:
        """Logits of every exit, each (n, classes), from pictures (n, 3, height, width)."""
        maps: list[Tensor] = []
        for step in self.first:
            maps.append(step(maps[-1] if maps else image))
        logits: list[Tensor] = []
        for number, layer in enumerate(self.layers, start=1):
            maps = layer(maps)
            if number in self.ends:
                logits.append(self.exits[len(logits)](maps[-1]))
        return tuple(logits)


class Layer(nn.Module):
    """From maps of all scales to the same with more channels.

    Args:
        widths: Channels at each scale, fine to coarse.
        growth: Channels added to each scale: all by the scale itself at the finest, half by the next finer elsewhere.
        bottleneck: See `MSDNet`.
        finest: The first scale that gets more channels; those before it stay as they are.
    """

    def __init__(self, widths: Sequence[int], growth: Sequence[int], bottleneck: Sequence[int], finest: int) -> None:
        super().__init__()
        self.finest = finest
        self.same = nn.ModuleList()
        self.down = nn.ModuleList()
        for s in range(finest, len(widths)):
            made = growth[s] // 2 if s else growth[s]
            self.same.append(narrowed(widths[s], made, bottleneck[s], 1))
            if s:
                self.down.append(narrowed(widths[s - 1], made, bottleneck[s - 1], 2))

    def forward(self, maps: Sequence[Tensor]) -> list[Tensor]:
        down = iter(self.down)
        grown = list(maps[: self.finest])
        for s, same in enumerate(self.same, start=self.finest):
            added = [same(maps[s]), *([next(down)(maps[s - 1])] if s else [])]
            grown.append(torch.cat([maps[s], *added], dim=1))
        return grown


def conv(inside: int, outside: int, kernel: int, stride: int = 1) -> nn.Sequential:
    """Convolution, batch normalisation, ReLU."""
    convolution = nn.Conv2d(inside, outside, kernel, stride, kernel // 2, bias=False)
    return nn.Sequential(convolution, nn.BatchNorm2d(outside), nn.ReLU())


def narrowed(inside: int, outside: int, factor: int, stride: int) -> nn.Sequential:
    """A 3 × 3 convolution behind one of 1 × 1 that leaves it few channels."""
    between = min(inside, factor * outside)
    return nn.Sequential(conv(inside, between, 1), conv(between, outside, 3, stride))


def classifier(inside: int, channels: Sequence[int], classes: int) -> nn.Sequential:
    """Two strided convolutions, the mean of what is left, and a linear layer."""
    convolutions = [conv(a, b, 3, 2) for a, b in pairwise((inside, *channels))]
    return nn.Sequential(*convolutions, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(channels[-1], classes))


def untrained(seed: int = 0) -> MSDNet:
    """With random weights, always the same for a seed."""
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        return MSDNet()


def trained() -> MSDNet:
    """With the weights in `msdnet.safetensors` of the current folder, which `benchmarks/by_design.py` writes."""
    from safetensors.torch import load_file

    network = MSDNet()
    network.load_state_dict(load_file(WEIGHTS))
    return network
