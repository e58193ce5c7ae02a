"""The device's side in processes of its own, in which neither torch nor onnx can be imported."""

from __future__ import annotations

import json
import select
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from tempfile import TemporaryFile
from typing import IO, Any

from edgeexit.errors import BackendError, EdgeExitError, MissingPartError

__all__ = ["run_command", "serving"]

TIERS_PACKAGE = "edgeexit-runtime[tiers]"
LIMIT_S = 300.0
READY_S = 60.0
DRAINED_S = 30.0

_COMMAND = """
import sys

sys.modules["torch"] = sys.modules["onnx"] = None
from edgeexit.cli import main

sys.exit(main())
"""
_SERVER = f"""
import os, signal, threading


def follow():
    os.read(0, 1)  # returns when the process that started this one has gone, however it went
    os.kill(os.getpid(), signal.SIGTERM)


threading.Thread(target=follow, daemon=True).start()
{_COMMAND}"""


def run_command(*arguments: object, limit_s: float = LIMIT_S) -> str:
    """Run an `edgeexit` command, and return what it prints on standard output.

    Args:
        *arguments: The words after `edgeexit`.
        limit_s: How long it may take.

    Raises:
        MissingPartError: It needs the tiers' packages, and they are not installed.
        BackendError: It failed otherwise, or took too long.
    """
    line = _line(_COMMAND, arguments)
    try:
        done = subprocess.run(
            line, stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=limit_s, check=False
        )
    except subprocess.TimeoutExpired as error:
        raise BackendError(f"edgeexit {arguments[0]} did not end", expected=f"within {limit_s:g} s") from error
    if done.returncode:
        raise _failure(str(arguments[0]), done.returncode, done.stderr)
    return done.stdout


@contextmanager
def serving(*arguments: object, ready_s: float = READY_S, drained_s: float = DRAINED_S) -> Iterator[Callable[[], str]]:
    """Run `edgeexit serve` on a free port of this machine for as long as the block takes.

    At the end of the block the server is told to stop, and has to say that all went well. It is killed where
    the block, or the server itself, failed; and it stops by itself where this process is gone.

    Args:
        *arguments: The words after `edgeexit serve`.
        ready_s: How long it may take to listen.
        drained_s: How long it may take to stop.

    Yields:
        A function that waits until the server listens and returns where: HOST:PORT. It raises as below.

    Raises:
        MissingPartError: The tiers' packages are not installed.
        BackendError: The server does not come to listen, ended before its time, or badly, or does not stop.
    """
    line = _line(_SERVER, ("serve", *arguments, "--listen", "127.0.0.1:0", "--json"))
    with (
        TemporaryFile("w+") as errors,
        subprocess.Popen(line, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=errors, text=True) as process,
    ):
        try:
            yield partial(_address, process, errors, ready_s)
            process.terminate()
            code = process.wait(drained_s)
        except subprocess.TimeoutExpired as error:
            raise BackendError("edgeexit serve did not stop", expected=f"within {drained_s:g} s") from error
        finally:
            process.kill()
        if code:
            raise _failure("serve", code, _text(errors))


def _line(program: str, arguments: tuple[object, ...]) -> list[str]:
    return [sys.executable, "-c", program, *map(str, arguments)]


def _address(process: subprocess.Popen[str], errors: IO[str], ready_s: float) -> str:
    out: Any = process.stdout
    if not select.select([out], [], [], ready_s)[0]:
        raise BackendError("edgeexit serve did not come to listen", expected=f"within {ready_s:g} s")
    said = out.readline()
    if not said:
        raise _failure("serve", process.wait(), _text(errors))
    address: str = json.loads(said)["listening"]
    return address


def _text(errors: IO[str]) -> str:
    errors.seek(0)
    return errors.read()


def _failure(command: str, code: int, errors: str) -> EdgeExitError:
    if code == MissingPartError.exit_code and TIERS_PACKAGE in errors:
        return MissingPartError.package(f"edgeexit {command}", TIERS_PACKAGE)
    return BackendError(f"edgeexit {command} ended with exit code {code}", got=errors.strip() or None)
