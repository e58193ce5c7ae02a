"""The networks that benchmarks time: ResNet-18 and MobileNetV3-Small at 224 × 224, and ResNet-56 at 32 × 32.

Each is a row of blocks and a classifier, so that a benchmark can put an exit behind any block.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import pairwise

import torch
from torch import Tensor, nn
from torch.nn import functional

__all__ = ["BUILDERS", "SIZES", "Network", "mobilenet", "resnet18", "resnet56"]


class Network(nn.Module):
    """Blocks in a row, then a classifier.

    Args:
        blocks: From pictures (n, 3, height, width) to a map.
        classifier: From the map to logits (n, classes).
    """

    def __init__(self, blocks: Sequence[nn.Module], classifier: nn.Sequential) -> None:
        super().__init__()
        self.blocks = nn.Sequential(*blocks)
        self.classifier = classifier

    def forward(self, image: Tensor) -> Tensor:
        return self.classifier(self.blocks(image))


def conv(inside: int, outside: int, kernel: int, stride: int = 1, groups: int = 1) -> list[nn.Module]:
    """A convolution that keeps the size but for its stride, and its batch normalisation."""
    return [
        nn.Conv2d(inside, outside, kernel, stride, kernel // 2, groups=groups, bias=False),
        nn.BatchNorm2d(outside),
    ]


class BasicBlock(nn.Module):
    """ResNet's block of two 3 × 3 convolutions, with a projection where the shape changes (option B)."""

    def __init__(self, inside: int, outside: int, stride: int) -> None:
        super().__init__()
        self.conv1, self.bn1 = conv(inside, outside, 3, stride)
        self.conv2, self.bn2 = conv(outside, outside, 3)
        self.shortcut = nn.Sequential(*conv(inside, outside, 1, stride)) if stride > 1 or inside != outside else None

    def forward(self, x: Tensor) -> Tensor:
        kept = x if self.shortcut is None else self.shortcut(x)
        y = functional.relu(self.bn1(self.conv1(x)), inplace=True)
        return functional.relu(self.bn2(self.conv2(y)) + kept, inplace=True)


class PaddedBlock(nn.Module):
    """ResNet's block for CIFAR-10, whose shortcut drops pixels and adds channels of zeros (option A)."""

    def __init__(self, inside: int, outside: int, stride: int) -> None:
        super().__init__()
        self.conv1, self.bn1 = conv(inside, outside, 3, stride)
        self.conv2, self.bn2 = conv(outside, outside, 3)
        self.added = (outside - inside) // 2

    def forward(self, x: Tensor) -> Tensor:
        y = functional.relu(self.bn1(self.conv1(x)), inplace=True)
        y = self.bn2(self.conv2(y))
        if self.added:
            x = functional.pad(x[:, :, ::2, ::2], (0, 0, 0, 0, self.added, self.added))
        return functional.relu(y + x, inplace=True)


class SqueezeExcite(nn.Module):
    """Channels weighted by what their means say (Hu et al. 2018), as MobileNetV3 has it."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        inner = eighths(channels / 4)
        self.fc1, self.fc2 = nn.Conv2d(channels, inner, 1), nn.Conv2d(inner, channels, 1)

    def forward(self, x: Tensor) -> Tensor:
        weights = functional.adaptive_avg_pool2d(x, 1)
        weights = functional.hardsigmoid(self.fc2(functional.relu(self.fc1(weights))))
        return x * weights


class InvertedResidual(nn.Module):
    """MobileNetV3's block: expand, depthwise, squeeze-and-excite, project (Howard et al. 2019)."""

    def __init__(
        self, kernel: int, inside: int, wide: int, outside: int, squeeze: bool, hard: bool, stride: int
    ) -> None:
        super().__init__()
        act: Callable[[], nn.Module] = nn.Hardswish if hard else nn.ReLU
        parts = [*conv(inside, wide, 1), act()] if wide != inside else []
        parts += [*conv(wide, wide, kernel, stride, groups=wide), act()]
        parts += [SqueezeExcite(wide)] if squeeze else []
        self.body = nn.Sequential(*parts, *conv(wide, outside, 1))
        self.residual = stride == 1 and inside == outside

    def forward(self, x: Tensor) -> Tensor:
        y = self.body(x)
        return x + y if self.residual else y


def eighths(channels: float) -> int:
    """The nearest multiple of 8 that is not below nine tenths of `channels`."""
    rounded = max(8, int(channels + 4) // 8 * 8)
    return rounded + 8 if rounded < 0.9 * channels else rounded


MOBILENET_SMALL = (  # kernel, inside, wide, outside, squeeze-and-excite, hard swish, stride
    (3, 16, 16, 16, True, False, 2),
    (3, 16, 72, 24, False, False, 2),
    (3, 24, 88, 24, False, False, 1),
    (5, 24, 96, 40, True, True, 2),
    (5, 40, 240, 40, True, True, 1),
    (5, 40, 240, 40, True, True, 1),
    (5, 40, 120, 48, True, True, 1),
    (5, 48, 144, 48, True, True, 1),
    (5, 48, 288, 96, True, True, 2),
    (5, 96, 576, 96, True, True, 1),
    (5, 96, 576, 96, True, True, 1),
)


def mobilenet(classes: int = 10) -> Network:
    """MobileNetV3-Small: 56 million MACs at 224 × 224, 1.5 million parameters with 10 classes."""
    stem = nn.Sequential(*conv(3, 16, 3, 2), nn.Hardswish())
    last = nn.Sequential(*conv(96, 576, 1), nn.Hardswish())
    blocks = [InvertedResidual(*row) for row in MOBILENET_SMALL]
    head = [nn.Linear(576, 1024), nn.Hardswish(), nn.Linear(1024, classes)]
    return Network([stem, *blocks, last], nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten(), *head))


def resnet18(classes: int = 10) -> Network:
    """ResNet-18: 1.8 billion MACs at 224 × 224, 11 million parameters."""
    stem = nn.Sequential(*conv(3, 64, 7, 2), nn.ReLU(), nn.MaxPool2d(3, 2, 1))
    widths = [(64, 64, 1), (64, 128, 2), (128, 256, 2), (256, 512, 2)]
    blocks = [
        block
        for inside, outside, stride in widths
        for block in (BasicBlock(inside, outside, stride), BasicBlock(outside, outside, 1))
    ]
    head = nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(512, classes))
    return Network([stem, *blocks], head)


def resnet56(classes: int = 10) -> Network:
    """ResNet-56 for CIFAR-10: 126 million MACs at 32 × 32, 0.85 million parameters."""
    stem = nn.Sequential(*conv(3, 16, 3), nn.ReLU())
    widths = [16, *(16,) * 9, *(32,) * 9, *(64,) * 9]
    blocks = [PaddedBlock(inside, outside, 1 if inside == outside else 2) for inside, outside in pairwise(widths)]
    head = nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(64, classes))
    return Network([stem, *blocks], head)


def load_resnet56(network: Network, path: str) -> Network:
    """Fill ResNet-56 from a .safetensors file with keys conv1, bn1, layer1.0.conv1, …, linear."""
    from safetensors.torch import load_file

    names = {"conv1": "blocks.0.0", "bn1": "blocks.0.1", "linear": "classifier.2"}
    names |= {f"layer{1 + k // 9}.{k % 9}": f"blocks.{k + 1}" for k in range(27)}
    renamed = {}
    for key, tensor in load_file(path).items():
        prefix = max((name for name in names if key.startswith(f"{name}.")), key=len)
        renamed[names[prefix] + key.removeprefix(prefix)] = tensor
    network.load_state_dict(renamed, strict=False)
    missing = set(network.state_dict()) - set(renamed)
    if any(not key.endswith("num_batches_tracked") for key in missing):
        raise SystemExit(f"{path} is not a ResNet-56: {sorted(missing)[:3]} are missing")
    return network


@torch.no_grad()
def start(network: Network, seed: int = 0) -> Network:
    """Random weights that keep signals alive: He's normal, and the last normalisation of a residual branch halved."""
    generator = torch.Generator().manual_seed(seed)
    for part in network.modules():
        if isinstance(part, nn.Conv2d | nn.Linear):
            fan_in = part.weight[0].numel()
            part.weight.normal_(0, (2 / fan_in) ** 0.5, generator=generator)
            if part.bias is not None:
                part.bias.zero_()
        if isinstance(part, nn.BatchNorm2d):
            part.weight.fill_(1.0)
    for block in network.modules():
        if isinstance(block, BasicBlock | PaddedBlock):
            block.bn2.weight.fill_(0.5)
        if isinstance(block, InvertedResidual) and block.residual:
            block.body[-1].weight.fill_(0.5)
    return network.eval()


BUILDERS: dict[str, Callable[[], Network]] = {"resnet18": resnet18, "mobilenet": mobilenet, "resnet56": resnet56}
SIZES = {"resnet18": (224, 224), "mobilenet": (224, 224), "resnet56": (32, 32)}
"""Height and width of the pictures."""
