"""Settings of a training run: one frozen structure, checked as a whole."""

from __future__ import annotations

import math
from functools import cache
from typing import Any, Literal

import msgspec

from edgeexit.errors import UsageError

__all__ = ["FREE_SETTINGS", "FROZEN_MODES", "TrainSettings", "rate_share"]

FROZEN_MODES = ("layerwise", "distilled", "combined")
"""Modes that leave the backbone as it is, to the last bit."""

FREE_SETTINGS = ("checkpoint_every", "checkpoint_seconds", "threads")
"""What may change when a run is taken up again: nothing of it is part of the method."""

LossWeights = Literal["eenet", "uniform"] | tuple[float, ...]

_FLOOR = 1e-3  # of the peak: where rates begin and end
_FASTEST = 1e30  # the optimisers compute with float32, and give up where a rate does not fit it


class TrainSettings(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """How exits are trained.

    Attributes:
        mode: "joint" trains everything on labels. The others freeze the backbone and train the heads alone:
            "layerwise" on labels, "distilled" on the backbone's answers, for which no label is looked at,
            "combined" on both.
        epochs: Times through the data.
        batch: Samples a step.
        rate: Highest learning rate of the heads (and of a network that has none apart).
        backbone_rate: The backbone's in a joint run, as a share of `rate`.
        weight_decay: Decoupled for AdamW; biases and norms are left out.
        optimiser: "adamw", or "sgd" with Nesterov momentum 0.9; heads under a frozen backbone always use AdamW.
        schedule: "cosine", "onecycle" (warm-up of at least 0.3 of the steps) or "constant", after the warm-up.
        warmup: Share of the steps in which the rate climbs.
        clip: Largest norm of the gradients; 0 does not clip.
        loss_weights: "eenet", "uniform", or numbers for the exits of a joint run; see `losses.exit_weights`.
        temperature: T of all distillation.
        label_share: In "combined", the weight of the labels; the backbone's answers get the rest.
        self_distillation: Weight of the loss from the last exit to earlier ones in a joint run; 0 is off.
        heads_first: Epochs at the start of a joint run in which the backbone stays as it is.
        precision: "auto" is the fastest that the device has in hardware, but fp32 for a frozen backbone, whose
            activations should be those that the heads will see. Heads under it are trained in bf16 or fp32, never in
            fp16. Losses and weights are always float32.
        device: "auto" (an accelerator where there is one), or as torch names it.
        patience: Epochs without a lower loss on held-out samples after which to stop; 0 never stops early.
        keep: Which epoch's weights are kept: of the lowest loss, or of the highest accuracy, on held-out samples
            (means over the exits), or simply the last.
        augment: Of pictures: "flip" (left-right), "crop" (4 pixels of black around, a random crop, and flip).
        seed: Of everything random.
        threads: Of torch on the CPU; 0 leaves them as they are.
        checkpoint_every: Steps between checkpoints, besides each epoch's end; 0 is off.
        checkpoint_seconds: Seconds between checkpoints, the same; 0 is off.

    Raises:
        UsageError: A value is of the wrong type, or makes no sense.
    """

    mode: Literal["joint", "layerwise", "distilled", "combined"] = "distilled"
    epochs: int = 10
    batch: int = 128
    rate: float = 1e-3
    backbone_rate: float = 0.1
    weight_decay: float = 1e-4
    optimiser: Literal["adamw", "sgd"] = "adamw"
    schedule: Literal["cosine", "onecycle", "constant"] = "cosine"
    warmup: float = 0.05
    clip: float = 5.0
    loss_weights: LossWeights = "eenet"
    temperature: float = 1.0
    label_share: float = 0.5
    self_distillation: float = 0.0
    heads_first: int = 0
    precision: Literal["auto", "fp32", "bf16", "fp16"] = "auto"
    device: str = "auto"
    patience: int = 0
    keep: Literal["loss", "accuracy", "last"] = "loss"
    augment: Literal["none", "flip", "crop"] = "none"
    seed: int = 0
    threads: int = 0
    checkpoint_every: int = 0
    checkpoint_seconds: float = 120.0

    def __post_init__(self) -> None:
        """Check every value, whoever made the structure."""
        for name, words in _CHOICES.items():
            value = getattr(self, name)
            if value not in words and not (name == "loss_weights" and not isinstance(value, str)):
                raise UsageError(f"{name} is unknown", got=value, expected=", ".join(words))
        if isinstance(self.loss_weights, list):  # as a frozen structure, which can be hashed, holds them
            msgspec.structs.force_setattr(self, "loss_weights", tuple(self.loss_weights))
        for name, kind in _types().items():
            value = getattr(self, name)
            try:
                msgspec.convert(value, kind)
            except msgspec.ValidationError as error:
                raise UsageError(
                    f"{name} is of the wrong type", got=f"{value!r} ({type(value).__name__})", expected=_WORDS[kind]
                ) from error
        for name, (low, high) in _RANGES.items():
            value = getattr(self, name)
            if not (math.isfinite(value) and low <= value <= high):
                bound = f"from {low:g}" + (f" to {high:g}" if math.isfinite(high) else "")
                raise UsageError(f"{name} is out of range", got=value, expected=bound)
        for name in ("rate", "temperature"):
            if getattr(self, name) <= 0:
                raise UsageError(f"{name} is out of range", got=getattr(self, name), expected="above 0")
        if self.patience and self.keep == "last":
            raise UsageError("patience waits for better weights", got="keep last", expected="keep loss or accuracy")
        if self.heads_first and (self.mode != "joint" or self.heads_first > self.epochs):
            raise UsageError(
                "heads_first is for a joint run, and part of its epochs",
                got=f"heads_first {self.heads_first}, mode {self.mode}, {self.epochs} epochs",
            )

    @property
    def needs_labels(self) -> bool:
        """Whether the mode looks at labels."""
        return self.mode != "distilled"

    def changes(self, other: TrainSettings) -> dict[str, tuple[Any, Any]]:
        """What differs and matters to a run that is taken up again: name → (here, there)."""
        names = (name for name in self.__struct_fields__ if name not in FREE_SETTINGS)
        pairs = ((name, getattr(self, name), getattr(other, name)) for name in names)
        return {name: (here, there) for name, here, there in pairs if here != there}


@cache
def _types() -> dict[str, Any]:
    """The type of each setting, its words left out, which are told as such."""
    kinds = {field.name: field.type for field in msgspec.structs.fields(TrainSettings)}
    return {name: kind for name, kind in kinds.items() if kind in _WORDS}


_WORDS: dict[Any, str] = {
    int: "a whole number, as int",
    float: "a number, as float or int",
    str: "text",
    LossWeights: '"eenet", "uniform", or a tuple of numbers, one for each exit',
}
_CHOICES: dict[str, tuple[str, ...]] = {
    "mode": ("joint", *FROZEN_MODES),
    "optimiser": ("adamw", "sgd"),
    "schedule": ("cosine", "onecycle", "constant"),
    "loss_weights": ("eenet", "uniform"),
    "precision": ("auto", "fp32", "bf16", "fp16"),
    "keep": ("loss", "accuracy", "last"),
    "augment": ("none", "flip", "crop"),
}
_RANGES: dict[str, tuple[float, float]] = {
    "epochs": (1, math.inf),
    "batch": (1, math.inf),
    "rate": (0, _FASTEST),
    "backbone_rate": (0, 1e6),
    "weight_decay": (0, math.inf),
    "warmup": (0, 1),
    "clip": (0, math.inf),
    "temperature": (0, math.inf),
    "label_share": (0, 1),
    "self_distillation": (0, math.inf),
    "heads_first": (0, math.inf),
    "patience": (0, math.inf),
    "seed": (0, math.inf),
    "threads": (0, math.inf),
    "checkpoint_every": (0, math.inf),
    "checkpoint_seconds": (0, math.inf),
}


def rate_share(settings: TrainSettings, step: int, total: int) -> float:
    """The learning rate of a step as a share of the highest, from 0.001 to 1; nothing is remembered between steps.

    It climbs in a straight line through the warm-up and then falls along a cosine ("onecycle" along a longer climb),
    or stays.

    Args:
        settings: `schedule` and `warmup`.
        step: From 0.
        total: Steps of the whole run.
    """
    share = max(settings.warmup, 0.3) if settings.schedule == "onecycle" else settings.warmup
    climb = min(math.ceil(share * total), total - 1)
    if step < climb:
        return _FLOOR + (1 - _FLOOR) * (step + 1) / (climb + 1)
    if settings.schedule == "constant":
        return 1.0
    done = (step - climb) / max(1, total - climb)
    return _FLOOR + (1 - _FLOOR) * (1 + math.cos(math.pi * min(done, 1.0))) / 2
