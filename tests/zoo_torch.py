"""Small torch modules with random weights and a fixed seed; `example_shapes` leaves the batch out.

Usable as sources of the form `module:function`, for example `zoo_torch:small_resnet`.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch.nn import functional

CLASSES = 5
IMAGE = (3, 16, 16)


def _finish(build: Callable[[], nn.Module], seed: int, *shapes: tuple[int, ...]) -> nn.Module:
    """Build in evaluation mode, with weights that keep signals alive and batch norms that do something."""
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        module = build().eval()
        for part in module.modules():
            if isinstance(part, nn.Conv2d | nn.Linear):
                nn.init.kaiming_normal_(part.weight)
            if isinstance(part, nn.BatchNorm2d):
                nn.init.normal_(part.running_mean, std=0.2)
                nn.init.uniform_(part.running_var, 0.5, 1.5)
                nn.init.uniform_(part.weight, 0.5, 1.5)
                nn.init.normal_(part.bias, std=0.2)
    module.example_shapes = shapes
    return module


class Block(nn.Module):
    """The basic block of ResNet, with a projection where the shape changes."""

    def __init__(self, inside: int, outside: int, stride: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(inside, outside, 3, stride, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(outside)
        self.conv2 = nn.Conv2d(outside, outside, 3, 1, 1, bias=False)
        self.bn2 = nn.BatchNorm2d(outside)
        self.shortcut: nn.Module = nn.Identity()
        if stride > 1 or inside != outside:
            self.shortcut = nn.Sequential(nn.Conv2d(inside, outside, 1, stride, bias=False), nn.BatchNorm2d(outside))

    def forward(self, x: Tensor) -> Tensor:
        y = self.bn2(self.conv2(functional.relu(self.bn1(self.conv1(x)))))
        return functional.relu(y + self.shortcut(x))


class Head(nn.Sequential):
    def __init__(self, channels: int, classes: int = CLASSES) -> None:
        super().__init__(nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(channels, classes))


class SmallResNet(nn.Sequential):
    def __init__(self) -> None:
        stem = nn.Sequential(nn.Conv2d(3, 8, 3, 1, 1, bias=False), nn.BatchNorm2d(8), nn.ReLU())
        super().__init__(stem, Block(8, 8, 1), Block(8, 16, 2), Block(16, 16, 1), Block(16, 24, 2), Head(24))


class ThreeLogits(nn.Module):
    """A multi-exit network; its outputs are the logits of its exits, in order."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Sequential(nn.Conv2d(3, 8, 3, 1, 1, bias=False), nn.BatchNorm2d(8), nn.ReLU())
        self.stages = nn.ModuleList([Block(8, 8, 1), Block(8, 16, 2), Block(16, 24, 2)])
        self.heads = nn.ModuleList([Head(8), Head(16), Head(24)])

    def forward(self, x: Tensor) -> tuple[Tensor, ...]:
        x = self.stem(x)
        logits = []
        for stage, head in zip(self.stages, self.heads, strict=True):
            x = stage(x)
            logits.append(head(x))
        return tuple(logits)


class ResNet18(nn.Sequential):
    """The published ResNet-18 for ImageNet: 1.81 GMACs at 224 x 224, 11.69 million parameters."""

    def __init__(self) -> None:
        stem = [nn.Conv2d(3, 64, 7, 2, 3, bias=False), nn.BatchNorm2d(64), nn.ReLU(), nn.MaxPool2d(3, 2, 1)]
        widths = [(64, 64, 1), (64, 128, 2), (128, 256, 2), (256, 512, 2)]
        blocks = [
            block
            for inside, outside, stride in widths
            for block in (Block(inside, outside, stride), Block(outside, outside, 1))
        ]
        super().__init__(*stem, *blocks, Head(512, 1000))


class InvertedResidual(nn.Module):
    """MobileNetV3's block: expand, depthwise, squeeze-and-excite, project."""

    def __init__(self, inside: int, wide: int, outside: int, stride: int) -> None:
        super().__init__()
        self.expand = nn.Sequential(nn.Conv2d(inside, wide, 1, bias=False), nn.BatchNorm2d(wide), nn.Hardswish())
        self.depthwise = nn.Sequential(
            nn.Conv2d(wide, wide, 3, stride, 1, groups=wide, bias=False), nn.BatchNorm2d(wide), nn.Hardswish()
        )
        self.squeeze = nn.Sequential(
            nn.AdaptiveAvgPool2d(1),
            nn.Conv2d(wide, wide // 4, 1),
            nn.ReLU(),
            nn.Conv2d(wide // 4, wide, 1),
            nn.Hardsigmoid(),
        )
        self.project = nn.Sequential(nn.Conv2d(wide, outside, 1, bias=False), nn.BatchNorm2d(outside))
        self.shortcut = stride == 1 and inside == outside

    def forward(self, x: Tensor) -> Tensor:
        y = self.depthwise(self.expand(x))
        y = self.project(y * self.squeeze(y))
        return x + y if self.shortcut else y


class SqueezeExcite(nn.Sequential):
    def __init__(self) -> None:
        stem = nn.Sequential(nn.Conv2d(3, 8, 3, 2, 1, bias=False), nn.BatchNorm2d(8), nn.Hardswish())
        blocks = [InvertedResidual(8, 16, 8, 1), InvertedResidual(8, 24, 12, 2), InvertedResidual(12, 24, 12, 1)]
        tail = [nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(12, 32), nn.Hardswish(), nn.Linear(32, CLASSES)]
        super().__init__(stem, *blocks, *tail)


class DenselyConnected(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 8, 3, 1, 1)
        self.layers = nn.ModuleList(
            nn.Sequential(nn.BatchNorm2d(8 + 4 * i), nn.ReLU(), nn.Conv2d(8 + 4 * i, 4, 3, 1, 1)) for i in range(4)
        )
        self.head = Head(24)

    def forward(self, x: Tensor) -> Tensor:
        features = [self.stem(x)]
        for layer in self.layers:
            features.append(layer(torch.cat(features, dim=1)))
        return self.head(torch.cat(features, dim=1))


class Branches(nn.Module):
    def __init__(self, channels: int) -> None:
        super().__init__()
        self.small = nn.Conv2d(channels, 4, 1)
        self.medium = nn.Sequential(nn.Conv2d(channels, 4, 1), nn.ReLU(), nn.Conv2d(4, 6, 3, 1, 1))
        self.large = nn.Sequential(nn.Conv2d(channels, 2, 1), nn.ReLU(), nn.Conv2d(2, 4, 5, 1, 2))
        self.pooled = nn.Sequential(nn.MaxPool2d(3, 1, 1), nn.Conv2d(channels, 4, 1))

    def forward(self, x: Tensor) -> Tensor:
        return functional.relu(torch.cat([self.small(x), self.medium(x), self.large(x), self.pooled(x)], dim=1))


class Inception(nn.Sequential):
    def __init__(self) -> None:
        stem = nn.Sequential(nn.Conv2d(3, 8, 3, 2, 1), nn.ReLU())
        super().__init__(stem, Branches(8), Branches(18), nn.MaxPool2d(2), Branches(18), Head(18))


class Attention(nn.Module):
    """Multi-head self-attention; `mask` is True where a token may be looked at."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.qkv = nn.Linear(width, 3 * width)
        self.out = nn.Linear(width, width)

    def forward(self, x: Tensor, mask: Tensor | None = None) -> Tensor:
        batch, tokens, width = x.shape
        q, k, v = self.qkv(x).view(batch, tokens, 3, self.heads, width // self.heads).permute(2, 0, 3, 1, 4)
        mixed = functional.scaled_dot_product_attention(q, k, v, attn_mask=mask)
        return self.out(mixed.transpose(1, 2).reshape(batch, tokens, width))


class TransformerLayer(nn.Module):
    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.norm1, self.norm2 = nn.LayerNorm(width), nn.LayerNorm(width)
        self.attention = Attention(width, heads)
        self.mlp = nn.Sequential(nn.Linear(width, 2 * width), nn.GELU(), nn.Linear(2 * width, width))

    def forward(self, x: Tensor, mask: Tensor | None = None) -> Tensor:
        x = x + self.attention(self.norm1(x), mask)
        return x + self.mlp(self.norm2(x))


class VisionTransformer(nn.Module):
    """Patches, a class token that is repeated for every sample, and a learned position embedding."""

    def __init__(self, width: int = 16) -> None:
        super().__init__()
        self.patches = nn.Conv2d(3, width, 4, 4)
        self.token = nn.Parameter(torch.randn(1, 1, width))
        self.positions = nn.Parameter(torch.randn(1, 17, width))
        self.layers = nn.ModuleList(TransformerLayer(width, 2) for _ in range(3))
        self.norm = nn.LayerNorm(width)
        self.head = nn.Linear(width, CLASSES)

    def forward(self, x: Tensor) -> Tensor:
        x = self.patches(x).flatten(2).transpose(1, 2)
        x = torch.cat([self.token.expand(x.shape[0], -1, -1), x], dim=1) + self.positions
        for layer in self.layers:
            x = layer(x)
        return self.head(self.norm(x)[:, 0])


class TextEncoder(nn.Module):
    """A BERT-like encoder; position ids are computed in the graph, and its mask reaches every layer."""

    def __init__(self, width: int = 16, vocabulary: int = 50) -> None:
        super().__init__()
        self.words = nn.Embedding(vocabulary, width)
        self.positions = nn.Embedding(32, width)
        self.layers = nn.ModuleList(TransformerLayer(width, 2) for _ in range(3))
        self.head = nn.Linear(width, CLASSES)

    def forward(self, input_ids: Tensor, attention_mask: Tensor) -> Tensor:
        x = self.words(input_ids) + self.positions(torch.arange(input_ids.shape[1]))
        mask = attention_mask[:, None, None, :] > 0
        for layer in self.layers:
            x = layer(x, mask)
        weights = attention_mask.to(x.dtype).unsqueeze(-1)
        return self.head((x * weights).sum(1) / weights.sum(1))


def small_resnet() -> nn.Module:
    """Residual with strided projections; takes float32 (batch, 3, 16, 16)."""
    return _finish(SmallResNet, 1, IMAGE)


def three_logits() -> nn.Module:
    """Three exits of its own; takes float32 (batch, 3, 16, 16), gives three (batch, 5)."""
    return _finish(ThreeLogits, 2, IMAGE)


def resnet18() -> nn.Module:
    """ResNet-18; takes float32 (batch, 3, 224, 224)."""
    return _finish(ResNet18, 3, (3, 224, 224))


def squeeze_excite() -> nn.Module:
    """MobileNetV3-like; takes float32 (batch, 3, 16, 16)."""
    return _finish(SqueezeExcite, 4, IMAGE)


def densely_connected() -> nn.Module:
    """DenseNet-like; takes float32 (batch, 3, 16, 16)."""
    return _finish(DenselyConnected, 5, IMAGE)


def inception() -> nn.Module:
    """Inception-like; takes float32 (batch, 3, 16, 16)."""
    return _finish(Inception, 6, IMAGE)


def vision_transformer() -> nn.Module:
    """ViT-like; takes float32 (batch, 3, 16, 16)."""
    return _finish(VisionTransformer, 7, IMAGE)


def text_encoder() -> nn.Module:
    """BERT-like; takes int64 input_ids and attention_mask, each (batch, 12)."""
    return _finish(TextEncoder, 8, (12,), (12,))


def bert() -> nn.Module:
    """BERT of transformers with two small layers; takes int64 input_ids and attention_mask, each (batch, 12)."""
    from transformers import BertConfig, BertForSequenceClassification

    config = BertConfig(
        vocab_size=50, hidden_size=16, num_hidden_layers=2, num_attention_heads=2, intermediate_size=32,
        max_position_embeddings=32, num_labels=CLASSES, return_dict=False,
    )  # fmt: skip
    return _finish(lambda: _LogitsOnly(BertForSequenceClassification(config)), 9, (12,), (12,))


class _LogitsOnly(nn.Module):
    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model

    def forward(self, input_ids: Tensor, attention_mask: Tensor) -> Tensor:
        return self.model(input_ids=input_ids, attention_mask=attention_mask)[0]
