"""What a tier on Ray Serve is told, from Python, from a command line or from a config file."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal

import msgspec

from edgeexit.errors import UsageError
from edgeexit_runtime.wire.limits import check_tier_name

__all__ = ["RayTier"]


class RayTier(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, rename={"first": "from"}):
    """A tier on Ray Serve.

    Attributes:
        bundle: Its path, the same on every machine of the cluster.
        first: The first segment, counted from 0; `from` in a config file.
        upto: The segment to stop before; None for all.
        name: The tier's name, in the answers.
        replicas: How many processes run it; with `max_replicas` the fewest.
        max_replicas: The most that Ray may start when there is more to do; None for a fixed number.
        target_ongoing: So many requests at once are meant for a replica: with more of them Ray starts another.
        delay_ms, max_batch: See `Scheduler`.
        max_queue: Samples that may wait in front of a segment of a replica, and in a request.
        threads: CPU threads per operator; the target's, or 1, when None.
        target: A known device, or a target file; None for none.
        backend: What runs the segments.
        cpus: What Ray sets aside for a replica; `threads`, or 1, when None.
        gpus: What Ray sets aside for a replica; a share of one where below 1.
        upstream: The next tier's URL, for what is unresolved here; None for none.
        upstream_payload_precision: How what goes there is rounded.
        upstream_ca, upstream_cert, upstream_key, upstream_token_file: Files, see `open_upstream`.

    Raises:
        UsageError: A number makes no sense.
    """

    bundle: str
    first: int = 0
    upto: int | None = None
    name: str = "server"
    replicas: int = 1
    max_replicas: int | None = None
    target_ongoing: float = 2.0
    delay_ms: float = 2.0
    max_batch: int = 64
    max_queue: int = 256
    threads: int | None = None
    target: str | None = None
    backend: str = "onnxruntime"
    cpus: float | None = None
    gpus: float = 0.0
    upstream: str | None = None
    upstream_payload_precision: Literal["auto", "fp32", "fp16", "uint8"] = "auto"
    upstream_ca: str | None = None
    upstream_cert: str | None = None
    upstream_key: str | None = None
    upstream_token_file: str | None = None

    def __post_init__(self) -> None:
        check_tier_name(self.name)
        if self.replicas < 1 or (self.max_replicas is not None and self.max_replicas < self.replicas):
            raise UsageError(
                "that is no number of replicas",
                got=f"replicas={self.replicas} max_replicas={self.max_replicas}",
                expected="at least 1, and max_replicas no fewer than replicas",
            )
        if self.max_batch < 1 or self.max_queue < 1 or not self.delay_ms >= 0 or not self.target_ongoing > 0:
            raise UsageError("a batch, a queue and a replica hold at least something, and a delay is 0 ms or more")

    @classmethod
    def parse(cls, arguments: Mapping[str, Any]) -> RayTier:
        """Out of names and values, which may be texts such as those of a command line.

        Raises:
            UsageError: One is missing or unknown, or its value makes no sense.
        """
        try:
            return msgspec.convert(dict(arguments), cls, strict=False)
        except msgspec.ValidationError as error:
            raise UsageError(
                f"these are no arguments of a tier: {error}",
                got=" ".join(f"{name}={value}" for name, value in arguments.items()),
                expected="bundle=PATH, from=K and others of RayTier",
            ) from error

    @property
    def max_ongoing(self) -> int:
        """Requests that a replica takes at once: more than it accepts, since it refuses better than Ray does.

        It knows their deadlines, and how long what waits will take.
        """
        return 2 * (self.max_queue + self.max_batch)

    def deployment(self) -> dict[str, Any]:
        """Options of the deployment, as `ray.serve.deployment` takes them."""
        found: dict[str, Any] = {
            "name": "tier",
            "max_ongoing_requests": self.max_ongoing,
            "max_queued_requests": self.max_queue,
            "ray_actor_options": {
                "num_cpus": float(self.threads or 1) if self.cpus is None else self.cpus,
                "num_gpus": self.gpus,
            },
            "logging_config": {"enable_access_log": False},
        }
        if self.max_replicas is None:
            return {**found, "num_replicas": self.replicas}
        scaling = {
            "min_replicas": self.replicas,
            "max_replicas": self.max_replicas,
            "target_ongoing_requests": self.target_ongoing,
        }
        return {**found, "autoscaling_config": scaling}
