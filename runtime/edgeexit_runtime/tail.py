"""A tail: the segments of a bundle from one on, run a segment at a time on samples that came this far."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edgeexit.bundle import Bundle
from edgeexit.errors import UsageError
from edgeexit.manifest import Manifest, TensorSpec
from edgeexit.policies import Decision, Policy, State
from edgeexit.tails import boundary, policy_states
from edgeexit_runtime.backends import Backend, Segment, load_backend
from edgeexit_runtime.batches import BatchChecker, blank_batch
from edgeexit_runtime.groups import Group, join, keep
from edgeexit_runtime.opening import check_count, segment_entries, settings_for
from edgeexit_runtime.wiring import wire

__all__ = ["Tail"]


class Tail:
    """Segments `first` to `last` of a bundle, with their exits. It remembers nothing between calls.

    Several threads may use one tail, as long as its backend's segments may be shared: those of ONNX Runtime
    and the fake may.

    Args:
        manifest: The bundle's manifest.
        policy: Decides after each segment.
        backend: Where the segments were opened.
        segments: The segments from `first` on, without a gap.
        first: Index of the first of them in the manifest.

    Attributes:
        manifest, policy, first: As given.
        last: Index of the last segment here. It need not be the manifest's last.
    """

    def __init__(
        self, manifest: Manifest, policy: Policy, backend: Backend, segments: Sequence[Segment], first: int = 0
    ) -> None:
        check_count(first + len(segments), manifest)
        if not segments:
            raise UsageError("a tail needs at least one segment", got=0)
        self.manifest = manifest
        self.policy = policy
        self.first = first
        self.last = first + len(segments) - 1
        self._backend = backend
        self._segments = tuple(segments)
        self._classes = len(manifest.labels)
        self._steps = wire(manifest.inputs, manifest.segments)
        self._boundaries = tuple(boundary(manifest, k) for k in range(len(manifest.segments)))
        self._states = policy_states(policy, len(manifest.segments), self._classes)
        self._checkers = {k: BatchChecker(self.takes(k)) for k in range(first, self.last + 1)}

    @classmethod
    def open(
        cls,
        bundle: str | Path | Bundle,
        *,
        first: int = 0,
        upto: int | None = None,
        threads: int | None = None,
        target: str | Path | None = None,
        backend: str | Backend = "onnxruntime",
        shared_pool: bool = False,
    ) -> Tail:
        """Open the segments `first` … `upto` − 1 of a bundle; all the later ones when `upto` is None.

        Raises:
            BundleError, BackendError, UsageError: As for `Cascade.open`.
        """
        opened = bundle if isinstance(bundle, Bundle) else Bundle.open(bundle)
        settings = settings_for(target, threads, shared_pool)
        engine = load_backend(backend) if isinstance(backend, str) else backend
        manifest = opened.manifest
        end = len(manifest.segments) if upto is None else upto
        check_count(end, manifest)
        if not 0 <= first < end:
            raise UsageError("there is no such tail", got=f"from segment {first}", expected=f"0 to {end - 1}")
        entries = segment_entries(manifest, end, False)
        tensors = opened.exits
        segments = [engine.open(opened.segment(k), entries[k], tensors, settings) for k in range(first, end)]
        return cls(manifest, opened.policy(), engine, segments, first)

    def boundary(self, k: int) -> tuple[TensorSpec, ...]:
        """The tensors that segment k and later ones take from before it; the model's inputs for k = 0."""
        return self._boundaries[k]

    def state(self, k: int) -> tuple[TensorSpec, ...]:
        """What the policy remembers in front of segment k; nothing for k = 0."""
        return self._states[k]

    def takes(self, k: int) -> tuple[TensorSpec, ...]:
        """What `begin` takes at segment k: the boundary tensors, then the policy's state."""
        return (*self.boundary(k), *self.state(k))

    def warm_up(self) -> None:
        """Run every segment once on a sample of zeros: the first run of a segment is slower than the rest.

        Raises:
            BackendError: The device failed.
        """
        group = self.begin(blank_batch(self.takes(self.first), 1))
        for k in range(self.first, self.last + 1):
            _, group = self.step(k, group)

    def begin(self, arrays: Mapping[str, NDArray[Any]], k: int | None = None) -> Group:
        """Samples that come in front of segment k, or of the first when None.

        Args:
            arrays: (n, …), n ≥ 1, by the names of `takes`, in its dtypes. They may not change until the samples
                have passed the segment.
            k: A segment of this tail.

        Raises:
            DataError: A name, dtype or shape differs from `takes`.
        """
        k = self.first if k is None else k
        checked, n = self._checkers[k].check(dict(arrays))
        count = len(self.boundary(k))
        tensors = tuple(self._backend.to_device(array) for array in checked[:count])
        return Group(tensors, tuple(checked[count:]) if k else self.policy.start(n, self._classes), n)

    def step(self, k: int, group: Group) -> tuple[Decision, Group]:
        """Run segment k.

        Returns:
            What exit k says of all samples, and all of them in front of the next segment. Behind the
            manifest's last segment there is nothing to be had of the group.

        Raises:
            BackendError: The device failed.
        """
        step = self._steps[k]
        outputs, logits = self._segments[k - self.first].run(step.inputs(group.tensors))
        decision, state = self._decide(k, logits, group)
        return decision, Group(tuple(step.carry(group.tensors, outputs)), state, group.size)

    def keep(self, group: Group, rows: NDArray[np.intp]) -> Group:
        """The samples at `rows`, (m,) strictly increasing positions, m ≥ 1."""
        return keep(self._backend, group, rows)

    def join(self, groups: Sequence[Group]) -> Group:
        """The samples of several groups in front of the same segment, one after another."""
        return join(self._backend, groups)

    def arrays(self, k: int, group: Group) -> dict[str, NDArray[Any]]:
        """A group in front of segment k as host arrays, by the names of `takes`: what another tier goes on from."""
        handles = zip(self.boundary(k), group.tensors, strict=True)
        found = {spec.name: self._backend.to_host(handle) for spec, handle in handles}
        return {**found, **{spec.name: a for spec, a in zip(self.state(k), group.state, strict=False)}}

    def _decide(self, k: int, logits: NDArray[np.float32], group: Group) -> tuple[Decision, State]:
        if group.size > 1:
            return self.policy.decide(k, logits, group.state)
        verdict, state = self.policy.decide_one(k, logits, group.state)
        return Decision.of([verdict]), state
