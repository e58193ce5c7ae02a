from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

pytest.importorskip("tritonclient.grpc")

from edgeexit.errors import UsageError
from edgeexit_runtime.offload.addresses import Tls
from edgeexit_runtime.offload.opening import open_upstream
from edgeexit_runtime.offload.upstream import Upstream
from runtime.offload.upstreams import manifest, policy


def opened(url: str = "grpcs://server:1", **files: Path) -> Upstream:
    return open_upstream(url, manifest(), policy(), **files)  # type: ignore[arg-type]


def test_certificates_and_the_token_are_read_from_their_files(tmp_path: Path) -> None:
    files = {name: tmp_path / name for name in ("ca", "certificate", "key", "token_file")}
    for name, file in files.items():
        file.write_text(f"{name}\n")
    transport = opened(**files)._transport
    assert transport._tls == Tls(b"ca\n", b"certificate\n", b"key\n")  # type: ignore[attr-defined]
    assert transport._metadata == (("authorization", "Bearer token_file"),)  # type: ignore[attr-defined]


def test_nothing_needs_to_be_there_when_an_upstream_is_opened() -> None:
    assert opened("grpc://127.0.0.1:1").snapshot


def test_a_file_that_is_missing_is_named(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"ca\.pem"):
        opened(ca=tmp_path / "ca.pem")


def test_a_file_that_is_none_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UsageError):
        opened(ca=tmp_path)
    (tmp_path / "token").write_bytes(b"\xff\xfe")
    with pytest.raises(UsageError, match="token"):
        opened(token_file=tmp_path / "token")
    with pytest.raises(UsageError):
        opened(token_file=Path("/dev/zero"))


def test_without_a_url_nothing_of_grpc_is_loaded() -> None:
    modules = ("background", "fake", "opening", "spool", "upstream")
    imports = ", ".join(f"edgeexit_runtime.offload.{module}" for module in modules)
    foreign = "[name for name in ('grpc', 'tritonclient', 'google.protobuf') if name in sys.modules]"
    found = subprocess.run(
        [sys.executable, "-c", f"import sys, {imports}; print({foreign})"], capture_output=True, text=True, check=True
    )
    assert found.stdout.strip() == "[]"
