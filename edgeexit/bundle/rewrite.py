"""Rewriting: the parts of an opened bundle with another policy, other thresholds or other tensors."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import msgspec
import numpy as np
from numpy.typing import NDArray

from edgeexit.bundle.layout import CHECK_FILE, EXITS_FILE, file_entry
from edgeexit.bundle.reader import Bundle
from edgeexit.bundle.validate import policy_tensor_specs
from edgeexit.errors import UsageError
from edgeexit.manifest import FORMAT_VERSION, CalibrationSummary, ExitEntry, Manifest, SegmentEntry
from edgeexit.policies import Policy, load_policy
from edgeexit.replay import replay
from edgeexit.tensors import save_tensors

__all__ = ["rewrite"]

Tensors = Mapping[str, NDArray[Any]]


def rewrite(
    bundle: Bundle,
    *,
    policy: Policy | None = None,
    tensors: Tensors | None = None,
    calibration: CalibrationSummary | None = None,
    golden_logits: Sequence[NDArray[np.float32]] | None = None,
) -> tuple[Manifest, dict[str, bytes]]:
    """What `write_bundle` needs for the same cascade that decides differently. Segments stay as they are.

    The golden samples' answers follow from their logits under the policy.

    Args:
        bundle: The bundle to start from; it is not changed. What rounded payloads did is kept only where
            neither policy nor tensors are replaced.
        policy: Decides from now on, with its thresholds; the bundle's own if None.
        tensors: Replacements for tensors of exits.safetensors by name, of the same type and shape.
        calibration: The new summary. If None the old one, without its reference for drift where the
            scores are no longer the same.
        golden_logits: E arrays (g, C), the logits of the golden samples. Needed where a head's tensors change.

    Returns:
        The manifest, and the bytes of every other file by path.

    Raises:
        UsageError: A tensor is not one of the bundle, or the policy or the logits do not fit it.
        BundleError: The bundle's own policy or golden samples are malformed.
    """
    manifest = bundle.manifest
    changed = {} if tensors is None else dict(tensors)
    _check_tensors(bundle.exits, changed)
    stored = {**bundle.exits, **changed}
    heads = {name: stored[name] for name in policy_tensor_specs(manifest)}
    chosen = load_policy(manifest, stored) if policy is None else policy
    if len(chosen.thresholds) != len(manifest.exits):
        raise UsageError("the policy is not for this bundle", got=len(chosen.thresholds), expected=len(manifest.exits))
    same = policy is None and not changed
    if calibration is None:
        calibration = manifest.calibration if same else msgspec.structs.replace(manifest.calibration, drift=None)
    golden = _golden(bundle, chosen, golden_logits, heads_changed=bool(heads.keys() & changed.keys()))
    contents = {
        **bundle.contents,
        EXITS_FILE: save_tensors({**heads, **chosen.tensors()}),
        CHECK_FILE: save_tensors(golden),
    }
    rewritten = msgspec.structs.replace(
        manifest,
        version=FORMAT_VERSION,
        segments=manifest.segments if same else _without_payloads(manifest.segments),
        exits=_exits(manifest.exits, chosen),
        policy=chosen.entry(),
        calibration=calibration,
        exits_file=file_entry(EXITS_FILE, contents[EXITS_FILE]),
        check_file=file_entry(CHECK_FILE, contents[CHECK_FILE]),
    )
    return rewritten, contents


def _check_tensors(known: Tensors, changed: Tensors) -> None:
    for name, array in changed.items():
        old = known.get(name)
        if old is None or (old.dtype, old.shape) != (array.dtype, array.shape):
            raise UsageError(
                f"{name!r} cannot be replaced in {EXITS_FILE}",
                got=f"{array.dtype} {list(array.shape)}",
                expected=f"one of {', '.join(known)}" if old is None else f"{old.dtype} {list(old.shape)}",
            )


def _exits(entries: Sequence[ExitEntry], policy: Policy) -> tuple[ExitEntry, ...]:
    """The exits with the policy's thresholds; the last takes everybody."""
    thresholds = [None if np.isposinf(threshold) else float(threshold) for threshold in policy.thresholds[:-1]]
    return tuple(
        msgspec.structs.replace(entry, criterion=policy.criterion, threshold=threshold)
        for entry, threshold in zip(entries, [*thresholds, None], strict=True)
    )


def _without_payloads(segments: Sequence[SegmentEntry]) -> tuple[SegmentEntry, ...]:
    """The segments without what rounding changed under another policy."""
    return tuple(msgspec.structs.replace(segment, payloads=None) for segment in segments)


def _golden(
    bundle: Bundle, policy: Policy, logits: Sequence[NDArray[np.float32]] | None, *, heads_changed: bool
) -> dict[str, NDArray[Any]]:
    """The golden samples with the answers of the policy."""
    if logits is None:
        if heads_changed:
            raise UsageError(
                "other heads give other logits", got="no golden logits", expected="those of the golden samples"
            )
        logits = [bundle.check[f"logits.{k}"] for k in range(len(bundle.manifest.exits))]
    inputs = {name: array for name, array in bundle.check.items() if name.startswith("input.")}
    answers = replay(policy, logits)
    return {
        **inputs,
        **{f"logits.{k}": np.asarray(values, dtype=np.float32) for k, values in enumerate(logits)},
        "labels": answers.label.astype(np.int64),
        "exits": answers.exit.astype(np.int64),
        "probabilities": np.clip(answers.probability, 0, 1).astype(np.float32),
    }
