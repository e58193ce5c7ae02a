"""`--offload` and the options that go with it: another tier, and how it is asked."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, TypeVar

import click

from edgeexit.bundle import Bundle
from edgeexit.errors import UsageError

if TYPE_CHECKING:
    from edgeexit_runtime.tier import Tier

__all__ = ["Offload", "offload_options"]

DEADLINE_MS = 1000.0
IN_FLIGHT = 8
CLOSING_S = 2.0

Command = TypeVar("Command", bound=Callable[..., Any])
_OPTIONS = (
    click.option("--offload", "url", metavar="URL", help="Hand unresolved samples on: grpc://HOST:PORT, or grpcs://."),
    click.option(
        "--deadline-ms",
        type=click.FloatRange(0, min_open=True),
        help=f"Every sample is answered that long after the start of its batch.  [default: {DEADLINE_MS:g}]",
    ),
    click.option(
        "--payload",
        type=click.Choice(["auto", "input", "boundary"]),
        help="What is sent: the model's input, or what the segments made of it.  [default: auto, what is quicker]",
    ),
    click.option(
        "--payload-precision",
        "precision",
        type=click.Choice(["auto", "fp32", "fp16", "uint8"]),
        help="How it is rounded.  [default: auto, the quickest that was harmless at export]",
    ),
    click.option(
        "--compress", type=click.Choice(["auto", "on", "off"]), help="Compress it.  [default: auto, where that pays]"
    ),
    click.option(
        "--on-failure",
        type=click.Choice(["degrade", "finish"]),
        help="No answer comes: the best local one, or the later segments here, if in time.  [default: degrade]",
    ),
    click.option(
        "--hand-on",
        type=click.Choice(["always", "quicker"]),
        help="Hand on whatever is unresolved, or finish here where that is quicker.  [default: always]",
    ),
    click.option("--in-flight", type=click.IntRange(1), help=f"Batches on their way at once.  [default: {IN_FLIGHT}]"),
    click.option("--spool", type=click.Path(), metavar="DIR", help="Keep degraded samples, for later labels."),
    click.option("--ca", type=click.Path(), metavar="PEM", help="Whom to trust.  [default: as the system does]"),
    click.option("--cert", type=click.Path(), metavar="PEM", help="This device's certificate, for mutual TLS."),
    click.option("--key", type=click.Path(), metavar="PEM", help="Its key."),
    click.option("--token-file", type=click.Path(), metavar="FILE", help="A file with a bearer token."),
)


@dataclass(frozen=True)
class Offload:
    """What the options say. None stands for the default.

    Raises:
        UsageError: There is an option and no URL.
    """

    url: str | None = None
    deadline_ms: float | None = None
    payload: str | None = None
    precision: str | None = None
    compress: str | None = None
    on_failure: str | None = None
    hand_on: str | None = None
    in_flight: int | None = None
    spool: str | None = None
    ca: str | None = None
    cert: str | None = None
    key: str | None = None
    token_file: str | None = None

    def __post_init__(self) -> None:
        lonely = [name for name, value in vars(self).items() if value is not None]
        if lonely and self.url is None:
            raise UsageError("some options go with --offload", got=", ".join(lonely), remedy="--offload URL")

    @contextmanager
    def tier(self, bundle: Bundle, upto: int | None, **opening: Any) -> Iterator[Tier]:
        """The device's side of the tiers, warmed up.

        Args:
            bundle: The bundle.
            upto: How many segments run here before samples are handed on.
            **opening: As for `Tail.open`.

        Raises:
            UsageError: `upto` leaves nothing to hand on, or a value cannot be used.
            BundleError, BackendError: As for `Tail.open`.
            MissingPartError: gRPC is not installed.
        """
        from edgeexit_runtime.offload.background import Background
        from edgeexit_runtime.offload.choice import Wishes
        from edgeexit_runtime.offload.opening import open_upstream
        from edgeexit_runtime.offload.spool import Spool
        from edgeexit_runtime.offload.upstream import UpstreamSettings
        from edgeexit_runtime.tail import Tail
        from edgeexit_runtime.tier import Tier

        segments = len(bundle.manifest.segments)
        if self.url is None or upto is None or not upto < segments:
            raise UsageError(
                "nothing would be handed on",
                got=f"--upto {upto}",
                expected=f"--upto 1 to {segments - 1}, and --offload",
            )
        deadline_ms = DEADLINE_MS if self.deadline_ms is None else self.deadline_ms
        in_flight = IN_FLIGHT if self.in_flight is None else self.in_flight
        upstream = open_upstream(
            self.url,
            bundle.manifest,
            bundle.policy(),
            UpstreamSettings(
                wishes=Wishes(self.payload or "auto", self.precision or "auto", self.compress or "auto"),
                max_in_flight=2 * in_flight,
                deadline_ms=deadline_ms,
            ),
            ca=self.ca,
            certificate=self.cert,
            key=self.key,
            token_file=self.token_file,
        )
        with ExitStack() as stack:
            spool = None if self.spool is None else stack.enter_context(Spool(self.spool))
            local = Tail.open(bundle, upto=upto, **opening)
            quicker = self.hand_on == "quicker"
            later = Tail.open(bundle, first=upto, **opening) if self.on_failure == "finish" or quicker else None
            background = stack.enter_context(Background())
            stack.callback(lambda: background.submit(upstream.close()).exception(CLOSING_S))
            tier = stack.enter_context(
                Tier(
                    local,
                    upstream,
                    deadline_ms=deadline_ms,
                    finish_locally=later,
                    quicker=quicker,
                    spool=spool,
                    in_flight=in_flight,
                    background=background,
                )
            )
            tier.warm_up()
            yield tier


def offload_options(command: Command) -> Command:
    """Give a command the options of `Offload`; they come as arguments of the names of its fields."""
    for option in reversed(_OPTIONS):
        command = option(command)
    return command
