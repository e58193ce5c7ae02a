"""A tier as an application of Ray Serve."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import msgspec

from edgeexit.bundle import Bundle
from edgeexit.errors import MissingPartError
from edgeexit_runtime.server.ray.replica import TierReplica, check_tier
from edgeexit_runtime.server.ray.settings import RayTier

__all__ = ["INGRESS", "application", "build"]

INGRESS = "edgeexit_runtime.server.ray.add_tier_to_server"
"""For Serve's `grpc_servicer_functions`."""


def application(bundle: str | Path, **options: Any) -> Any:
    """A tier for `serve.run`.

    Serve has to be started with a gRPC port and `INGRESS` before:

        serve.start(grpc_options={"port": 9000, "grpc_servicer_functions": [INGRESS]})
        serve.run(application("model.eexit", first=2, replicas=2), name="edgeexit")

    Args:
        bundle: Its path, the same on every machine of the cluster.
        **options: The other attributes of `RayTier`.

    Returns:
        A `ray.serve.Application`.

    Raises:
        MissingPartError: Ray is not installed.
        UsageError: An option makes no sense, or the bundle has no such segments.
        BundleError: The bundle cannot be opened here.
    """
    return _application(RayTier(bundle=str(bundle), **options))


def build(arguments: dict[str, Any]) -> Any:
    """A tier for `serve run edgeexit_runtime.server.ray:build bundle=PATH from=K …` and Serve's config files.

    Args:
        arguments: Attributes of `RayTier`, `from` for `first`; values may be texts.

    Returns:
        A `ray.serve.Application`.

    Raises:
        MissingPartError, UsageError, BundleError: As for `application`.
    """
    return _application(RayTier.parse(arguments))


def _application(tier: RayTier) -> Any:
    try:
        from ray import serve  # type: ignore[import-not-found, import-untyped, unused-ignore]
    except ImportError as error:
        raise MissingPartError.package("a tier on Ray Serve", "edgeexit-runtime[ray]") from error
    check_tier(tier, Bundle.open(tier.bundle))
    there = msgspec.structs.replace(tier, bundle=str(Path(tier.bundle).resolve()))
    return serve.deployment(**tier.deployment())(TierReplica).bind(there)
