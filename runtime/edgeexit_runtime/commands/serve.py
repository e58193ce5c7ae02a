"""`edgeexit serve`: a tier behind the Open Inference Protocol."""

from __future__ import annotations

import asyncio
import gc
import logging
import os
import signal
import sys
import warnings
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import click

from edgeexit.bundle import Bundle
from edgeexit.console import emit_json
from edgeexit.errors import UsageError
from edgeexit_runtime.commands.backends import backend_option
from edgeexit_runtime.tail import Tail

if TYPE_CHECKING:
    from edgeexit_runtime.offload.upstream import Upstream
    from edgeexit_runtime.server.serving import ServerSettings, TierServer

__all__ = ["serve"]

SWITCH_INTERVAL_S = 0.0005
"""How long the event loop may keep the interpreter from the thread that runs segments: it has the work that counts."""

EXAMPLES = """\b
Examples:
  edgeexit serve model.eexit --from 2
  edgeexit serve model.eexit --from 2 --listen 0.0.0.0:8001 --tls-cert c.pem --tls-key k.pem --token-file tokens
  edgeexit serve model.eexit --from 1 --upto 3 --name gateway --upstream grpc://10.0.0.5:8001
"""


@click.command(epilog=EXAMPLES)
@click.argument("bundle", type=click.Path())
@click.option(
    "--from",
    "first",
    default=0,
    show_default=True,
    type=click.IntRange(0),
    metavar="K",
    help="The first segment, counted from 0.",
)
@click.option(
    "--upto", type=click.IntRange(1), metavar="M", help="Run segments up to M, M itself left out.  [default: all]"
)
@click.option(
    "--listen", default="127.0.0.1:8001", show_default=True, metavar="HOST:PORT", help="Where to listen; port 0 is any."
)
@click.option("--name", "tier", default="server", show_default=True, help="This tier's name, in the answers.")
@click.option(
    "--upstream", metavar="URL", help="The next tier, for what is unresolved here: grpc://HOST:PORT or grpcs://…."
)
@click.option(
    "--upstream-payload-precision",
    "upstream_precision",
    type=click.Choice(["auto", "fp32", "fp16", "uint8"]),
    help="How what goes to the next tier is rounded.  [default: auto]",
)
@click.option("--upstream-ca", type=click.Path(), help="What the next tier's certificate is signed with.")
@click.option("--upstream-cert", type=click.Path(), help="The certificate to show to the next tier.")
@click.option("--upstream-key", type=click.Path(), help="Its private key.")
@click.option("--upstream-token-file", type=click.Path(), help="The token to show to the next tier.")
@click.option("--tls-cert", type=click.Path(), help="Certificate chain, PEM.")
@click.option("--tls-key", type=click.Path(), help="Its private key, PEM.")
@click.option("--client-ca", type=click.Path(), help="Let in only clients whose certificate is signed with this.")
@click.option("--token-file", type=click.Path(), help="Let in only clients with a bearer token of this file.")
@click.option("--insecure", is_flag=True, help="Listen to a network without TLS.")
@click.option("--websocket", metavar="HOST:PORT", help="Where to stream an answer a sample over WebSockets.")
@click.option("--origin", "origins", multiple=True, help="A web page whose scripts may use the WebSocket.")
@click.option("--metrics", metavar="HOST:PORT", help="Where to serve metrics for Prometheus.")
@click.option(
    "--delay-ms",
    default=2.0,
    show_default=True,
    type=click.FloatRange(0),
    help="How long what is left of a batch may wait for more to join it.",
)
@click.option("--max-batch", default=64, show_default=True, type=click.IntRange(1), help="Samples in a batch.")
@click.option(
    "--max-queue",
    default=256,
    show_default=True,
    type=click.IntRange(1),
    help="Samples that may wait in front of a segment, and in a request.",
)
@click.option("--threads", type=click.IntRange(1), help="CPU threads per operator.  [default: the target's, or 1]")
@click.option("--target", help="A known device, or a target file; its settings are used.")
@backend_option
@click.option("--json", "as_json", is_flag=True, help="Print one JSON line when it listens.")
def serve(
    bundle: str,
    first: int,
    upto: int | None,
    threads: int | None,
    target: str | None,
    backend: str,
    as_json: bool,
    upstream: str | None,
    upstream_precision: str | None,
    upstream_ca: str | None,
    upstream_cert: str | None,
    upstream_key: str | None,
    upstream_token_file: str | None,
    **options: Any,
) -> None:
    """Serve the segments of BUNDLE from K on to other tiers and to any client of the Open Inference Protocol.

    Each tail is a model NAME__from_k. Samples that are unresolved after the last segment here go to the next tier,
    or are answered all the same, degraded and with the reason. On SIGTERM requests that are there are answered,
    and no others. Events are JSON lines on standard error.
    """
    _keep_to_the_log()
    settings = _settings(**options)
    opened = Bundle.open(bundle)
    tail = Tail.open(opened, first=first, upto=upto, threads=threads, target=target, backend=backend, shared_pool=True)
    if upstream is not None and tail.last + 1 == len(tail.manifest.segments):
        raise UsageError("nothing is left for the next tier", got=f"--upstream {upstream}", remedy="--upto M")
    sys.setswitchinterval(SWITCH_INTERVAL_S)
    files = (upstream_ca, upstream_cert, upstream_key, upstream_token_file)
    if upstream is None and any(value is not None for value in (upstream_precision, *files)):
        raise UsageError("some options go with --upstream", expected="--upstream URL")
    next_tier = None if upstream is None else _NextTier(upstream, upstream_precision or "auto", *files)
    asyncio.run(_serve(tail, settings, next_tier, as_json))


def _keep_to_the_log() -> None:
    """Standard error is for events: no library writes there what clients sent, line feeds included."""
    os.environ.setdefault("GRPC_VERBOSITY", "NONE")  # read when grpc is imported
    logging.getLogger("asyncio").setLevel(logging.ERROR)  # connections that break are no events
    warnings.simplefilter("ignore", RuntimeWarning)  # nor are NaN and infinities in samples


def _settings(
    listen: str,
    tier: str,
    tls_cert: str | None,
    tls_key: str | None,
    client_ca: str | None,
    token_file: str | None,
    insecure: bool,
    metrics: str | None,
    websocket: str | None,
    origins: tuple[str, ...],
    delay_ms: float,
    max_batch: int,
    max_queue: int,
) -> ServerSettings:
    from edgeexit_runtime.server.addresses import Address
    from edgeexit_runtime.server.security import Certificates, Tokens
    from edgeexit_runtime.server.serving import ServerSettings

    if (tls_cert is None) != (tls_key is None) or (client_ca is not None and tls_cert is None):
        raise UsageError("a certificate and its key belong together", expected="--tls-cert FILE --tls-key FILE")
    certificates = None
    if tls_cert is not None and tls_key is not None:
        certificates = Certificates(Path(tls_cert), Path(tls_key), None if client_ca is None else Path(client_ca))
    return ServerSettings(
        listen=Address.parse(listen),
        tier=tier,
        certificates=certificates,
        tokens=None if token_file is None else Tokens.read(token_file),
        insecure=insecure,
        metrics=None if metrics is None else Address.parse(metrics),
        websocket=None if websocket is None else Address.parse(websocket),
        origins=origins,
        delay_ms=delay_ms,
        max_batch=max_batch,
        max_queue_rows=max_queue,
    )


async def _serve(tail: Tail, settings: ServerSettings, upstream: _NextTier | None, as_json: bool) -> None:
    from edgeexit_runtime.server.serving import TierServer

    stop = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stop.set)
    onward = None if upstream is None else upstream.open(tail, settings.max_queue_rows)
    server = TierServer(tail, settings, onward=onward)
    try:
        await server.warm_up()
        gc.freeze()  # what is there now stays: no collection has to look at it again
        await server.run(stop, _announce if as_json else lambda server: None)
    finally:
        if onward is not None:
            await onward.close()


def _announce(server: TierServer) -> None:
    """Say on standard output that the server is ready, and where."""
    others = {"metrics": server.metrics_address, "websocket": server.websocket_address}
    addresses = {name: None if address is None else str(address) for name, address in others.items()}
    emit_json({"listening": str(server.address), "models": server.models, **addresses}, indent=None)


class _NextTier(NamedTuple):
    """Where the next tier is, and what it takes to be let in."""

    url: str
    precision: str
    ca: str | None
    cert: str | None
    key: str | None
    token_file: str | None

    def open(self, tail: Tail, in_flight: int) -> Upstream:
        from edgeexit_runtime.offload.choice import Wishes
        from edgeexit_runtime.offload.opening import open_upstream
        from edgeexit_runtime.offload.upstream import UpstreamSettings

        return open_upstream(
            self.url,
            tail.manifest,
            tail.policy,
            UpstreamSettings(wishes=Wishes(precision=self.precision), max_in_flight=in_flight),
            ca=self.ca,
            certificate=self.cert,
            key=self.key,
            token_file=self.token_file,
        )
