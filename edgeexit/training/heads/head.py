"""Exit heads: small networks that turn an activation of the backbone into logits."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from edgeexit.errors import UsageError
from edgeexit.training.heads.bodies import Body, build_body, cast
from edgeexit.training.heads.spec import HeadSpec

__all__ = ["Head", "HeadSpec", "build_head", "head_macs"]

_FEWEST_CLASSES = 2


class Head(nn.Module):
    """A body, which gives features, and a linear classifier on them.

    Attributes:
        spec: What it was built from, with all its sizes.
        body: Activation (n, …), and for tokens a mask (n, T), to features (n, D) float32.
        classifier: D features to C logits.
    """

    def __init__(self, spec: HeadSpec, body: Body, classes: int) -> None:
        super().__init__()
        self.spec = spec
        self.body = body
        self.classifier = nn.Linear(body.length, classes)

    def forward(self, activation: Tensor, mask: Tensor | None = None) -> Tensor:
        """Logits (n, C) float32 of activations (n, …) of any floating type; mask (n, T), not 0 where a token counts."""
        features = self.body(activation, mask)
        return cast(self.classifier(cast(features, self.classifier.weight.dtype)), torch.float32)


def build_head(
    spec: HeadSpec, shape: tuple[int, ...], classes: int, *, channels_first: bool = True, seed: int | None = None
) -> Head:
    """A head with random weights, float32, on the CPU.

    Args:
        spec: Its architecture; sizes left open are filled in.
        shape: Of one sample's activation: (C, H, W), (C, T, H, W), (C, L), tokens (T, D) or a vector (D,).
        classes: Number of classes C, at least 2.
        channels_first: Whether maps have their channels first. Of two axes, (C, L) has and tokens (T, D) have not.
        seed: The weights follow from it; torch's own random state is then left alone. None: from that state.

    Raises:
        UsageError: The head cannot read such activations, or there is only one class.
    """
    if classes < _FEWEST_CLASSES:
        raise UsageError("a head needs classes to tell apart", got=f"{classes} classes", expected="at least 2")
    sized = spec.sized(tuple(shape), classes, channels_first=channels_first)
    with torch.random.fork_rng(devices=[], enabled=seed is not None):
        if seed is not None:
            torch.default_generator.manual_seed(seed)
        return Head(sized, build_body(sized, tuple(shape), classes, channels_first=channels_first), classes)


def head_macs(head: Head, shape: tuple[int, ...]) -> int:
    """Multiply-accumulates of one sample: convolutions and linear layers, as everywhere in EdgeExit.

    Args:
        head: The head.
        shape: Of one sample's activation.
    """
    counts: list[int] = []

    def count(module: nn.Module, _: object, output: Tensor) -> None:
        weight = module.get_parameter("weight")
        counts.append(output.numel() * weight[0].numel())

    layers = [module for module in head.modules() if isinstance(module, nn.Conv2d | nn.Linear)]
    hooks = [layer.register_forward_hook(count) for layer in layers]
    was_training = {module: module.training for module in head.modules()}
    try:
        head.eval()
        with torch.no_grad():
            head(torch.zeros(1, *shape, device=head.classifier.weight.device))
    finally:
        for hook in hooks:
            hook.remove()
        for module, mode in was_training.items():
            module.training = mode
    return sum(counts)
