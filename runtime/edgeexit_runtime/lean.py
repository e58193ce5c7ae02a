"""Lean cascades: an exit at which nobody can leave is not even asked."""

from __future__ import annotations

from collections.abc import Collection
from math import isinf

import msgspec

from edgeexit.errors import UsageError
from edgeexit.manifest import Manifest, SegmentEntry
from edgeexit.policies import Policy

__all__ = ["check_still_idle", "idle_exits", "without_heads"]


def idle_exits(policy: Policy, manifest: Manifest, count: int) -> frozenset[int]:
    """The exits whose logits change nothing: nobody leaves there, and the policy remembers nothing of them.

    Args:
        policy: With thresholds.
        manifest: The bundle's.
        count: K, the segments that are run. The last of them answers in any case.
    """
    if policy.start(1, len(manifest.labels)):
        return frozenset()
    return frozenset(
        k
        for k, threshold in enumerate(policy.thresholds[: count - 1])
        if isinf(threshold) and threshold > 0 and manifest.segments[k].outputs
    )


def without_heads(
    graphs: list[bytes], entries: tuple[SegmentEntry, ...], idle: Collection[int]
) -> tuple[list[bytes], tuple[SegmentEntry, ...]]:
    """Graphs and entries, those of idle exits without their heads; such an entry has an empty `logits`.

    Raises:
        BundleError: A graph is malformed.
    """
    if not idle:
        return graphs, entries
    from edgeexit_runtime.headless import headless_graph

    pruned = {k: headless_graph(graphs[k], entries[k]) for k in idle}
    return (
        [pruned[k].data if k in idle else graph for k, graph in enumerate(graphs)],
        tuple(_without_head(entry, pruned[k].policy_inputs) if k in idle else entry for k, entry in enumerate(entries)),
    )


def check_still_idle(idle: frozenset[int], policy: Policy, manifest: Manifest, count: int) -> None:
    """Refuse a policy that needs the logits of exits that were opened without their heads.

    Raises:
        UsageError: It does.
    """
    needed = idle - idle_exits(policy, manifest, count)
    if needed:
        raise UsageError(
            "this cascade was opened without the heads of exits that nobody took",
            got=f"a policy that needs {', '.join(manifest.exits[k].name for k in sorted(needed))}",
            remedy="Cascade.open(…, lean=False)",
        )


def _without_head(entry: SegmentEntry, policy_inputs: Collection[str]) -> SegmentEntry:
    left = tuple(spec for spec in entry.policy_inputs if spec.name in policy_inputs)
    return msgspec.structs.replace(entry, policy_inputs=left, logits="", features=None)
