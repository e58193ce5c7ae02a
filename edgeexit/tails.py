"""Tails: segments k to the last as one model. What a tail is called, and what it takes."""

from __future__ import annotations

import re

import numpy as np

from edgeexit.manifest import Manifest, TensorSpec
from edgeexit.payload import STATE
from edgeexit.policies import Policy

__all__ = ["boundary", "model_name", "parse_tail_name", "policy_states", "tail_name"]

_MAX_CHARS = 64
_UNSAFE = re.compile(r"[^A-Za-z0-9]+")
_TAIL = re.compile(r"(?P<model>[A-Za-z0-9_.-]{1,200})__from_(?P<k>0|[1-9][0-9]{0,3})")


def boundary(manifest: Manifest, k: int) -> tuple[TensorSpec, ...]:
    """The tensors that segment k and later ones take from before it; the model's inputs for k = 0."""
    if k == 0:
        return manifest.inputs
    known = [*manifest.inputs, *(spec for segment in manifest.segments[:k] for spec in segment.outputs)]
    needed = {spec.name for segment in manifest.segments[k:] for spec in segment.inputs}
    return tuple(spec for spec in known if spec.name in needed)


def policy_states(policy: Policy, segments: int, classes: int) -> tuple[tuple[TensorSpec, ...], ...]:
    """What a policy remembers of earlier exits in front of each segment, as tensors that travel with the boundary's.

    Nothing in front of the first. Shapes may grow from exit to exit.

    Args:
        policy: The bundle's.
        segments: How many segments there are.
        classes: How many classes.
    """
    found: list[tuple[TensorSpec, ...]] = [()]
    state, logits = policy.start(1, classes), np.zeros((1, classes), np.float32)
    for k in range(segments - 1):
        _, state = policy.decide(k, logits, state)
        specs = (TensorSpec(name=f"{STATE}{i}", dtype=str(a.dtype), shape=a.shape[1:]) for i, a in enumerate(state))
        found.append(tuple(specs))
    return tuple(found)


def model_name(manifest: Manifest) -> str:
    """A bundle's name, which is that of its source models: letters, digits and single underscores, at most 64.

    Every tier has the same manifest, hence the same name. It is fit for a folder.
    """
    stems = [source.name.removesuffix(".onnx") for source in manifest.provenance.sources]
    words = (_UNSAFE.sub("_", stem).strip("_") for stem in stems)
    return "_".join(filter(None, words))[:_MAX_CHARS].strip("_") or "model"


def tail_name(model: str, k: int) -> str:
    """The name of the tail that begins with segment k."""
    return f"{model}__from_{k}"


def parse_tail_name(name: str) -> tuple[str, int] | None:
    """The model and k of a tail's name; None where the name is not one."""
    found = _TAIL.fullmatch(name)
    return None if found is None else (found["model"], int(found["k"]))
