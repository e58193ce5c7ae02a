"""The option `--backend`, alike in every command that runs segments."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar

import click

from edgeexit_runtime.backends.table import BACKENDS

__all__ = ["DEFAULT_BACKEND", "backend_option"]

DEFAULT_BACKEND = "onnxruntime"

Command = TypeVar("Command", bound=Callable[..., Any])


def backend_option(command: Command) -> Command:
    """Give a command the option `--backend`; it comes as the argument `backend`, a name out of `BACKENDS`.

    What is not available on a machine can be named all the same: opening it says what is missing.
    """
    return click.option(
        "--backend",
        default=DEFAULT_BACKEND,
        show_default=True,
        type=click.Choice(list(BACKENDS)),
        help="What runs the segments. One that this machine lacks something for says what.",
    )(command)
