"""The engines of this device: built here, sealed here, used here."""

from __future__ import annotations

import hashlib
import hmac
import os
import secrets
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import msgspec

from edgeexit.errors import BackendError
from edgeexit_runtime.backends.tensorrt.fingerprint import Fingerprint
from edgeexit_runtime.backends.tensorrt.private import private_folder, read_private, write_private
from edgeexit_runtime.backends.tensorrt.seal import MAX_BYTES, seal, unseal

__all__ = ["CACHE_VARIABLE", "EngineCache", "Found", "cache_folder", "device_key"]

CACHE_VARIABLE = "EDGEEXIT_CACHE"
KEY_BYTES = 32
ENGINE = ".engine"
TIMINGS_KIND = b"timings\n"
REMEDY = "edgeexit build BUNDLE, which builds the engine here and replaces the file"
"""Of a file in the cache that is refused."""


@dataclass(frozen=True)
class Found:
    """An engine out of the cache, this device's own.

    Attributes:
        engine: Serialised.
        fingerprint: What it was built from and for.
    """

    engine: bytes
    fingerprint: Fingerprint


def cache_folder(environment: Mapping[str, str] = os.environ) -> Path:
    """Where engines are kept: `EDGEEXIT_CACHE`, else `edgeexit` in the user's folder for caches."""
    given = environment.get(CACHE_VARIABLE)
    return Path(given) if given else _user_folder(environment, "XDG_CACHE_HOME", ".cache")


def device_key(environment: Mapping[str, str] = os.environ, root: Path = Path("/")) -> bytes:
    """This device's secret for this user, made on the first call.

    It is kept apart from the engines, in the user's folder for state, so that a copied cache comes without
    it; and it is mixed with the machine's id, so that a copied home folder does not carry it either.

    Args:
        environment: Names the folder.
        root: Where `/etc` is.

    Raises:
        BackendError: The file cannot be made, or others may write to it.
    """
    file = private_folder(_user_folder(environment, "XDG_STATE_HOME", ".local/state")) / "device.key"
    remedy = f"remove {file}, and edgeexit build BUNDLE"
    secret = read_private(file, KEY_BYTES, remedy)
    if secret is None:
        write_private(file, secrets.token_bytes(KEY_BYTES), replace=False)  # another process may be first
        secret = read_private(file, KEY_BYTES, remedy)
    if secret is None or len(secret) != KEY_BYTES:
        raise BackendError(f"{file} is not a key", got=f"{len(secret or b'')} bytes", remedy=remedy)
    try:
        machine = (root / "etc/machine-id").read_bytes().strip()
    except OSError:
        machine = b""
    return hmac.new(secret, b"engines of " + machine, hashlib.sha256).digest()


class EngineCache:
    """A folder of engines, one file a graph, and the builder's timings.

    Args:
        folder: Made when it is not there.
        key: This device's secret.
        timings: Where the timing cache is; in the folder when None.

    Raises:
        BackendError: The folder cannot be used, or others may write to it.
    """

    def __init__(self, folder: Path, key: bytes, timings: Path | None = None) -> None:
        self.folder = private_folder(folder / "engines")
        self._key = key
        self._named = timings is not None
        self._timings = self.folder / "timing.cache" if timings is None else timings

    def path(self, onnx_sha256: str) -> Path:
        """The file of a graph's engine."""
        return self.folder / f"{onnx_sha256[:32]}{ENGINE}"

    def load(self, onnx_sha256: str) -> Found | None:
        """The engine of a graph; None where none was built.

        Raises:
            BackendError: The file is not one that this device wrote for this user.
        """
        path = self.path(onnx_sha256)
        data = read_private(path, MAX_BYTES, REMEDY)
        if data is None:
            return None
        header, engine = unseal(self._key, data, str(path), REMEDY)
        try:
            return Found(engine, msgspec.json.decode(header, type=Fingerprint))
        except (msgspec.DecodeError, UnicodeDecodeError):  # sealed here, by another version of this software
            return None

    def store(self, found: Found) -> Path:
        """Keep an engine in place of the one that is there.

        Raises:
            BackendError: It cannot be written.
        """
        path = self.path(found.fingerprint.onnx_sha256)
        write_private(path, seal(self._key, msgspec.json.encode(found.fingerprint), found.engine))
        return path

    def load_timings(self, tensorrt: str, gpu: str, *, replace_foreign: bool = False) -> bytes:
        """What earlier builds with this TensorRT on this GPU measured; empty for nothing.

        Args:
            tensorrt: Its version.
            gpu: Its name.
            replace_foreign: Whether a file in the folder that this device did not write counts as none. A file
                that was named is refused in any case.

        Raises:
            BackendError: The file is not one that this device wrote for this user.
        """
        remedy = f"remove {self._timings}" if self._named else REMEDY
        try:
            data = read_private(self._timings, MAX_BYTES, remedy)
            if data is None:
                return b""
            header, content = unseal(self._key, data, str(self._timings), remedy)
        except BackendError:
            if self._named or not replace_foreign:
                raise
            return b""
        return content if header == _timings_header(tensorrt, gpu) else b""

    def store_timings(self, tensorrt: str, gpu: str, content: bytes) -> None:
        """Keep what builds measured.

        Raises:
            BackendError: It cannot be written.
        """
        write_private(self._timings, seal(self._key, _timings_header(tensorrt, gpu), content))


def _timings_header(tensorrt: str, gpu: str) -> bytes:
    return TIMINGS_KIND + f"{tensorrt}\n{gpu}".encode()


def _user_folder(environment: Mapping[str, str], variable: str, default: str) -> Path:
    given = environment.get(variable, "")
    base = Path(given) if given.startswith("/") else Path(environment.get("HOME") or Path.home()) / default
    return base / "edgeexit"
