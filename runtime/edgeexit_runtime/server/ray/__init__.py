"""A tier on Ray Serve: replicas on several machines that come and go with the load, behind the same protocol.

    settings      what a tier on Ray Serve is told
    replica       one of its processes: the scheduler and the calls of `edgeexit serve`
    ingress       the calls as Ray's gRPC proxies take them, with deadlines
    application   both of them for `serve.run`, `serve run` and Serve's config files

A proxy takes a request from a client and gives it to a replica with few others. There it is accepted or refused,
shares batches with what else is there, and leaves at the first exit that is sure, as in `edgeexit serve`. Ray is
imported in `application` alone, when it is called.
"""

from edgeexit_runtime.server.ray.application import INGRESS, application, build
from edgeexit_runtime.server.ray.ingress import add_tier_to_server, add_tier_to_server_insecurely
from edgeexit_runtime.server.ray.settings import RayTier

__all__ = [
    "INGRESS",
    "RayTier",
    "add_tier_to_server",
    "add_tier_to_server_insecurely",
    "application",
    "build",
]
