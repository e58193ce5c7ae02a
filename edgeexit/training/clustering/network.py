"""The network of deep embedded clustering: an encoder with a clustering layer at every exit.

Deep embedded clustering (DEC; Xie, Girshick and Farhadi 2016) has one clustering layer, at the end of its
encoder. Here layers before it have one too (E2CM, section III-C), each behind a linear layer of its own to a
code of the same size, so that a sample whose cluster is clear early leaves early. E2CM's three networks
784-500-500-2000-10, 500-500-10 and 500-10, the smaller with copied and frozen layers, are one network here.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import pairwise
from typing import NamedTuple, cast

import torch
from torch import Tensor, nn

from edgeexit.errors import UsageError

__all__ = ["ClusteringLayer", "DeepClustering", "End", "start_weights"]


class ClusteringLayer(nn.Module):
    """Codes to logits whose softmax is the soft assignment of DEC, eq. 1, with Student's t as the kernel.

    logit_j = −(α + 1)/2 · log(1 + ‖z − μ_j‖²/α), for α degrees of freedom.

    Args:
        clusters: K, at least 2.
        code: D, the size of a code.
        freedom: α, above 0.
    """

    def __init__(self, clusters: int, code: int, freedom: float = 1.0) -> None:
        super().__init__()
        self.centres = nn.Parameter(torch.zeros(clusters, code))
        self.freedom = freedom

    def forward(self, codes: Tensor) -> Tensor:
        """(n, D) codes of any float type to (n, K) float32 logits."""
        squares = (codes.float().unsqueeze(1) - self.centres.unsqueeze(0)).square().sum(2)
        return -0.5 * (self.freedom + 1) * torch.log1p(squares / self.freedom)


class End(NamedTuple):
    """An exit: after hidden layer `depth`, counted from 1, a linear layer to the code, and the clustering layer."""

    depth: int
    code: nn.Linear
    assign: ClusteringLayer


class DeepClustering(nn.Module):
    """An encoder of linear layers with ReLU, a code and a clustering layer at each exit.

    Fresh from here its clusters mean nothing: `pretrain` it, then `cluster` it. It is an ordinary network
    with several outputs after that, which `edgeexit export --labels model` takes as it is.

    Args:
        features: Numbers a sample; samples of any shape are flattened.
        clusters: K.
        widths: Of the hidden layers. DEC's own: 500, 500, 2000.
        exits: After which hidden layers samples may leave, counted from 1, rising. The last exit, after all of
            them, is always there and not named.
        code: Size of a code; DEC takes K.
        freedom: α of Student's t; DEC takes 1.
        seed: Of the first weights, uniform as Glorot and Bengio (2010) have them.

    Raises:
        UsageError: A size is too small, or an exit is not after a hidden layer before the last.
    """

    scale: Tensor

    def __init__(
        self,
        features: int = 784,
        clusters: int = 10,
        *,
        widths: Sequence[int] = (500, 500, 2000),
        exits: Sequence[int] = (1, 2),
        code: int = 10,
        freedom: float = 1.0,
        seed: int = 0,
    ) -> None:
        super().__init__()
        _check_sizes(features, clusters, tuple(widths), tuple(exits), code, freedom)
        self.exits = (*exits, len(widths))
        self.clusters = clusters
        self.layers = nn.ModuleList(nn.Linear(a, b) for a, b in pairwise((features, *widths)))
        self.codes = nn.ModuleList(nn.Linear(widths[depth - 1], code) for depth in self.exits)
        self.assign = nn.ModuleList(ClusteringLayer(clusters, code, freedom) for _ in self.exits)
        self.register_buffer("scale", torch.ones(()))
        generator = torch.Generator().manual_seed(seed)
        start_weights((*self.layers, *self.codes), generator)

    @property
    def exit_names(self) -> tuple[str, ...]:
        """Such as `layer 1`, `layer 2`, `whole model`."""
        return (*(f"layer {depth}" for depth in self.exits[:-1]), "whole model")

    @property
    def ends(self) -> list[End]:
        """The exits, the cheapest first."""
        parts = zip(self.exits, self.codes, self.assign, strict=True)
        return [End(depth, cast(nn.Linear, code), cast(ClusteringLayer, assign)) for depth, code, assign in parts]

    def forward(self, samples: Tensor) -> tuple[Tensor, ...]:
        """(n, …) float samples to E logits (n, K) float32, the cheapest exit first; softmax gives the assignment."""
        hidden = self.hidden(samples)
        return tuple(assign(code(hidden[depth - 1])) for depth, code, assign in self.ends)

    def hidden(self, samples: Tensor) -> list[Tensor]:
        """What each hidden layer gives, after its ReLU: (n, width)."""
        values = samples.flatten(1) * self.scale
        given = []
        for layer in self.layers:
            values = torch.relu(layer(values))
            given.append(values)
        return given

    def last_code(self, samples: Tensor) -> Tensor:
        """(n, …) float samples to the last exit's codes (n, D)."""
        code: Tensor = self.codes[-1](self.hidden(samples)[-1])
        return code

    def trunk(self) -> Iterator[nn.Parameter]:
        """The parameters of the whole model: hidden layers, and the last exit's code and centres."""
        for part in (self.layers, self.codes[-1], self.assign[-1]):
            yield from part.parameters()

    def early(self) -> Iterator[nn.Parameter]:
        """The parameters that the early exits add: their codes and centres."""
        for part in (*self.codes[:-1], *self.assign[:-1]):
            yield from part.parameters()


def start_weights(layers: Sequence[nn.Module], generator: torch.Generator) -> None:
    """Give linear layers their first weights, uniform in ±√(6/(inputs + outputs)), and biases of 0."""
    for layer in layers:
        if isinstance(layer, nn.Linear):
            nn.init.xavier_uniform_(layer.weight, generator=generator)
            nn.init.zeros_(layer.bias)


def _check_sizes(
    features: int, clusters: int, widths: tuple[int, ...], exits: tuple[int, ...], code: int, freedom: float
) -> None:
    if features < 1 or code < 1 or not widths or min(widths) < 1 or not freedom > 0:
        raise UsageError(
            "a size of the clustering network is too small",
            got=f"features {features}, widths {list(widths)}, code {code}, freedom {freedom:g}",
            expected="sizes of 1 and more, at least one hidden layer, and a freedom above 0",
        )
    if clusters < 2:
        raise UsageError("there is nothing to tell apart", got=f"{clusters} clusters", expected="2 and more")
    if list(exits) != sorted(set(exits)) or not all(0 < depth < len(widths) for depth in exits):
        raise UsageError(
            "the exits are not after hidden layers before the last",
            got=list(exits),
            expected=f"rising numbers from 1 to {len(widths) - 1}",
        )
