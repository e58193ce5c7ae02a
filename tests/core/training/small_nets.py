"""Small networks and separable data for tests of training; one thread, a fixed seed."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cache

import torch
from torch import Tensor, nn

from edgeexit.training.attach import MultiExit
from edgeexit.training.feeding import Feed
from edgeexit.training.frozen import ActivationBatch
from edgeexit.training.loop.randomness import derived_seed
from edgeexit.training.settings import TrainSettings
from edgeexit.training.trainer import train

CLASSES = 3


class Convolutional(nn.Module):
    """Batch normalisation and dropout, so that drift and chance would show."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Sequential(nn.Conv2d(3, 6, 3, padding=1, bias=False), nn.BatchNorm2d(6), nn.ReLU())
        self.second = nn.Sequential(nn.Conv2d(6, 8, 3, stride=2, bias=False), nn.BatchNorm2d(8), nn.ReLU())
        self.dropout = nn.Dropout(0.2)
        self.last = nn.Linear(8, CLASSES)

    def forward(self, image: Tensor) -> Tensor:
        out: Tensor = self.last(self.dropout(self.second(self.first(image)).mean((2, 3))))
        return out


class Viewing(Convolutional):
    """Runs only on pictures that lie in memory channels first."""

    def forward(self, image: Tensor) -> Tensor:
        return super().forward(image.view(len(image), -1).view(image.shape))


class ByDesign(nn.Module):
    """A network with two exits of its own."""

    def __init__(self) -> None:
        super().__init__()
        with torch.random.fork_rng():
            torch.manual_seed(0)
            self.first, self.early = nn.Linear(6, 8), nn.Linear(8, CLASSES)
            self.second, self.late = nn.Linear(8, 8), nn.Linear(8, CLASSES)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        first = self.first(x).relu()
        return self.early(first), self.late(self.second(first).relu())


def pictures(count: int, seed: int) -> tuple[Tensor, Tensor]:
    """Noise with one channel brighter: the class."""
    generator = torch.Generator().manual_seed(seed)
    labels = torch.arange(count) % CLASSES
    images = torch.randn(count, 3, 6, 6, generator=generator)
    images[torch.arange(count), labels] += 0.8
    return images, labels


def picture_feeds(labelled: bool = True) -> tuple[Feed, Feed]:
    """128 samples to learn from and 60 to judge by."""
    (images, labels), (held, held_labels) = pictures(128, 1), pictures(60, 2)
    return (
        Feed.from_arrays(images, labels if labelled else None),
        Feed.from_arrays(held, held_labels if labelled else None),
    )


def vector_feeds() -> tuple[Feed, Feed]:
    """64 vectors to learn from and 32 to judge by, for `ByDesign`."""
    labels = torch.arange(96) % CLASSES
    vectors = torch.eye(CLASSES, 6)[labels] + 0.3 * torch.randn(96, 6, generator=torch.Generator().manual_seed(0))
    return Feed.from_arrays(vectors[:64], labels[:64]), Feed.from_arrays(vectors[64:], labels[64:])


def a_network(kind: type[nn.Module] = Convolutional, *, head: str = "linear", seed: int = 0) -> MultiExit:
    """Exits behind both blocks; the backbone's batch normalisation has seen nothing."""
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        backbone = kind()
    return MultiExit.attach(backbone, ["first", "second"], head, example=pictures(2, 0)[0])


def a_pretrained_network(*, head: str = "linear") -> MultiExit:
    """The same with a backbone that knows its classes; the heads know nothing."""
    network = a_network(head=head)
    network.backbone.load_state_dict(_pretrained())
    return network


@cache
def _pretrained() -> dict[str, Tensor]:
    network = a_network()
    settings = TrainSettings(
        mode="joint", epochs=8, batch=32, rate=0.05, backbone_rate=1.0, precision="fp32", threads=1
    )
    train(network, *picture_feeds(), settings, quiet=True)
    return network.backbone.state_dict()


def values(module: nn.Module) -> dict[str, bytes]:
    """Every parameter and buffer, bit for bit."""
    return {name: tensor.detach().cpu().contiguous().numpy().tobytes() for name, tensor in module.state_dict().items()}


@dataclass
class RecordedFeed:
    """Activations in memory, in an order of their own each epoch."""

    activations: Sequence[Tensor]
    teacher: Tensor
    labels: Tensor | None = None
    batch: int = 32
    shuffled: bool = True
    read: int = 0

    @property
    def steps(self) -> int:
        return -(-len(self.teacher) // self.batch)

    def epoch(self, number: int, start: int = 0) -> Iterator[ActivationBatch]:
        order = torch.arange(len(self.teacher))
        if self.shuffled:
            order = torch.randperm(len(order), generator=torch.Generator().manual_seed(derived_seed("order", number)))
        for step in range(start, self.steps):
            rows = order[step * self.batch : (step + 1) * self.batch]
            self.read += 1
            labels = None if self.labels is None else self.labels[rows]
            yield ActivationBatch([value[rows] for value in self.activations], self.teacher[rows], labels)


def recorded(
    count: int, seed: int, *, widths: Sequence[int] = (5, 7), noise: Sequence[float] = (0.5, 0.2)
) -> RecordedFeed:
    """Vectors that tell the class, the later ones better, and a sure teacher."""
    generator = torch.Generator().manual_seed(seed)
    labels = torch.arange(count) % CLASSES
    found = []
    for width, spread in zip(widths, noise, strict=True):
        means = torch.eye(CLASSES, width)
        found.append(means[labels] + spread * torch.randn(count, width, generator=generator))
    return RecordedFeed(found, 4.0 * torch.eye(CLASSES)[labels], labels)
