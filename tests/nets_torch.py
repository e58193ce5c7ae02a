"""A small torch network that was taught, its multi-exit forms, and a folder from which they are sources.

A source is `nets:NAME`, found in the current folder: `write_nets(folder)` puts it there.
"""

from __future__ import annotations

from pathlib import Path

import torch
from torch import nn
from torch.nn import functional

from integration.material import normalised, pictures

__all__ = ["Net", "taught_net", "write_nets"]

NETS = """
from pathlib import Path

import safetensors.torch
import torch

import nets_torch
from edgeexit.training import MultiExit


def build(kind=nets_torch.Net):
    net = kind()
    net.load_state_dict(safetensors.torch.load_file(Path(__file__).with_name("net.safetensors")))
    return net


def attached():
    return MultiExit.attach(build(), ["one", "two"], ["linear", "mixed"], example=torch.zeros(2, 3, 8, 8))


def by_position():
    return build(nets_torch.ByPosition)


def anything():
    return build(nets_torch.Anything)


def another():
    torch.manual_seed(9)
    return nets_torch.Net()


def numbered():
    return torch.nn.Sequential(torch.nn.Sequential(torch.nn.Flatten(), torch.nn.ReLU()), torch.nn.Linear(192, 5))


def several():
    return nets_torch.Several()


def named():
    net = nets_torch.Several()
    net.exit_names = ("after two", "whole model")
    return net


def oddly_named():
    net = nets_torch.Several()
    net.exit_names = ["image", "whole model"]
    return net
"""


class Net(nn.Module):
    """Takes float32 (batch, 3, 8, 8), gives (batch, 5)."""

    def __init__(self) -> None:
        super().__init__()
        self.one = nn.Sequential(nn.Conv2d(3, 12, 3, 1, 1), nn.BatchNorm2d(12), nn.ReLU())
        self.two = nn.Sequential(nn.Conv2d(12, 12, 3, 1, 1), nn.BatchNorm2d(12), nn.ReLU())
        self.three = nn.Sequential(nn.Conv2d(12, 16, 3, 2, 1), nn.ReLU())
        self.last = nn.Linear(256, 5)

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        return self.last(self.three(self.two(self.one(image))).flatten(1))


class ByPosition(Net):
    """Its input has no name that a caller could use."""

    def forward(self, image: torch.Tensor, /) -> torch.Tensor:
        return super().forward(image)


class Anything(Net):
    """Says nothing about its inputs."""

    def forward(self, *inputs: torch.Tensor, **named: torch.Tensor) -> torch.Tensor:
        return super().forward(*inputs, **named)


class Several(Net):
    """With two exits of its own."""

    def __init__(self) -> None:
        super().__init__()
        self.early = nn.Linear(12, 5)

    def forward(self, image: torch.Tensor) -> tuple[torch.Tensor, ...]:  # type: ignore[override]  # another net
        x = self.two(self.one(image))
        return self.early(x.mean((2, 3))), self.last(self.three(x).flatten(1))


def taught_net() -> Net:
    """The network after a few epochs on the pictures of `integration.material`, in eval mode."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    with torch.random.fork_rng():
        torch.manual_seed(0)
        net = Net()
        pixels, labels = pictures(1000, 11)
        x, y = torch.from_numpy(normalised(pixels)), torch.from_numpy(labels)
        optimiser = torch.optim.Adam(net.parameters(), 5e-3)
        for _ in range(4):
            for rows in torch.randperm(len(x)).split(50):
                optimiser.zero_grad()
                functional.cross_entropy(net(x[rows]), y[rows]).backward()
                optimiser.step()
    torch.set_num_threads(threads)
    return net.eval()


def write_nets(folder: Path) -> None:
    """Write `nets.py` and its weights."""
    import safetensors.torch

    (folder / "nets.py").write_text(NETS)
    safetensors.torch.save_file(taught_net().state_dict(), folder / "net.safetensors")
