"""Layout: which axis of an activation holds the channels."""

from __future__ import annotations

from typing import Any

import pytest

torch = pytest.importorskip("torch", reason="layouts are those of torch models")

from torch import Tensor, nn  # noqa: E402 (needs torch)

from core.training.networks import numbers, seeded  # noqa: E402 (needs torch)
from edgeexit.training.attach import MultiExit  # noqa: E402 (needs torch)
from edgeexit.training.model.layout import has_channels_first  # noqa: E402 (needs torch)


class FirstNorm(nn.LayerNorm):
    """Over the channels of (n, C, H, W), as torchvision's LayerNorm2d."""

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x.permute(0, 2, 3, 1)).permute(0, 3, 1, 2)


class SaysSo(FirstNorm):
    """As the one of transformers."""

    data_format = "channels_first"


def model_of(**layers: nn.Module) -> nn.Module:
    """Layers side by side, among others of widths 8, 16 and 32 of both kinds."""
    others = {"wide": nn.Conv2d(1, 16, 1), "narrow": nn.Conv2d(1, 8, 1), "long": nn.Conv1d(1, 16, 1)}
    return nn.ModuleDict({**others, "flat": nn.Linear(1, 16), "hidden": nn.Linear(1, 32), **layers})


@pytest.mark.parametrize(
    ("layer", "shape", "first"),
    [
        (nn.LayerNorm(8), (16, 16, 8), False),
        (nn.LayerNorm(16), (16, 16, 16), False),
        (nn.Linear(1, 8), (16, 16, 8), False),
        (nn.Sequential(nn.ReLU(), nn.Linear(1, 8)), (16, 16, 8), False),
        (nn.Conv2d(1, 8, 1), (8, 16, 16), True),
        (nn.ConvTranspose2d(1, 24, 1), (24, 32, 32), True),
        (nn.BatchNorm2d(24), (24, 16, 16), True),
        (FirstNorm(8), (8, 16, 16), True),
        (FirstNorm(8), (16, 16, 8), False),
        (SaysSo(16), (16, 16, 16), True),
        (nn.Linear(1, 8), (16, 8), False),
        (nn.Embedding(1, 24), (16, 24), False),
        (nn.Conv1d(1, 24, 1), (24, 16), True),
    ],
)
def test_the_layer_that_gives_an_activation_says_which_axis_its_channels_are(
    layer: nn.Module, shape: tuple[int, ...], first: bool
) -> None:
    assert has_channels_first(model_of(layer=layer), "layer", shape) is first


def test_a_layer_without_a_width_goes_by_those_beside_it() -> None:
    last = nn.ModuleDict({"linear": nn.Linear(1, 24), "act": nn.ReLU()})
    first = nn.ModuleDict({"conv": nn.Conv2d(1, 24, 1), "act": nn.ReLU()})
    model = model_of(last=last, first=first)
    assert not has_channels_first(model, "last.act", (16, 16, 24))
    assert has_channels_first(model, "first.act", (24, 16, 16))


def test_where_no_layer_tells_maps_have_channels_first_and_sequences_are_tokens() -> None:
    model = nn.ModuleDict({"act": nn.ReLU()})
    assert has_channels_first(model, "act", (4, 5, 6))
    assert not has_channels_first(model, "act", (4, 5))


def convnext() -> Any:
    transformers = pytest.importorskip("transformers", reason="builds the picture model")
    config = transformers.ConvNextConfig(
        num_channels=1, patch_size=2, hidden_sizes=[8, 16, 24, 32], depths=[1, 1, 2, 1], image_size=32
    )
    return seeded(lambda: transformers.ConvNextForImageClassification(config))


def test_maps_of_convnext_with_channels_last_are_pooled_over_their_places() -> None:
    block = "convnext.encoder.stages.0.layers.0"
    places = [f"{block}.dwconv", f"{block}.layernorm", f"{block}.act", f"{block}.pwconv2", block]
    network = MultiExit.attach(convnext(), places, "linear@grid=1", example=numbers(2, 1, 32, 32))
    widths = [head.classifier.in_features for head in network.heads]
    channels = {
        place: shape[0] if place in (places[0], block) else shape[-1]
        for place, shape in zip(network.at, network.shapes, strict=True)
    }
    assert [width // channels[place] for place, width in zip(network.at, widths, strict=True)] == [2] * 5
