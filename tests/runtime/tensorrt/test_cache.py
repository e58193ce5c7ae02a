"""The cache: engines that this device did not write never reach TensorRT, and those that no longer fit are rebuilt."""

from __future__ import annotations

import os
import shutil
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from edgeexit.errors import BackendError
from edgeexit_runtime import Cascade
from edgeexit_runtime.backends.tensorrt.cache import EngineCache, cache_folder, device_key
from edgeexit_runtime.backends.tensorrt.fake import FAKE_GPU
from edgeexit_runtime.backends.tensorrt.private import private_folder, read_private, write_private
from edgeexit_runtime.backends.tensorrt.seal import MAGIC, OVERHEAD_BYTES, seal, unseal
from runtime.cascades import EXITS, tiny_parts, write_tiny
from runtime.tensorrt.devices import KEY, FakeDevice


@pytest.fixture
def bundle(tmp_path: Path) -> Path:
    return write_tiny(tmp_path / "tiny")


@pytest.fixture
def device(tmp_path: Path, bundle: Path) -> FakeDevice:
    """One that has built the bundle's engines."""
    built = FakeDevice(tmp_path / "cache")
    Cascade.open(bundle, backend=built.backend())
    return built


@pytest.mark.parametrize(
    "changed",
    [
        {"version": "10.7.0"},
        {"version": "11.4.0.106"},
        {"gpu": replace(FAKE_GPU, name="Another GPU")},
        {"gpu": replace(FAKE_GPU, compute_capability="8.9")},
        {"gpu": replace(FAKE_GPU, driver="560.35.05")},
        {"gpu": replace(FAKE_GPU, cuda="13.0")},
    ],
)
def test_engines_of_another_version_or_machine_are_built_again(
    bundle: Path, device: FakeDevice, changed: dict[str, object]
) -> None:
    now = replace(device, shown={}, **changed)  # type: ignore[arg-type]
    Cascade.open(bundle, backend=now.backend())
    assert now.trt.built == EXITS
    assert len(now.trt.deserialised) == EXITS
    assert len(now.engines()) == EXITS


def test_the_reason_for_building_again_is_told(bundle: Path, device: FakeDevice) -> None:
    from edgeexit.bundle import Bundle

    opened = Bundle.open(bundle)
    now = FakeDevice(device.cache, "10.7.0")
    built = now.backend().build(opened.segment(0), opened.manifest.segments[0], lambda n=1: None)
    assert built.built
    assert built.reasons == ("TensorRT: was 10.3.0, is 10.7.0",)


def test_other_batch_ranges_are_built_only_when_they_are_asked_for(bundle: Path, device: FakeDevice) -> None:
    any_ranges = FakeDevice(device.cache)
    Cascade.open(bundle, backend=any_ranges.backend(None))
    assert any_ranges.trt.built == 0
    others = FakeDevice(device.cache)
    Cascade.open(bundle, backend=others.backend((1, 2)))
    assert others.trt.built == EXITS


def test_an_engine_from_another_device_never_reaches_tensorrt(tmp_path: Path, bundle: Path, device: FakeDevice) -> None:
    shutil.copytree(device.cache, tmp_path / "copied")
    other = FakeDevice(tmp_path / "copied", key=b"another device's secret .........")
    with pytest.raises(BackendError, match="not written by this device") as caught:
        Cascade.open(bundle, backend=other.backend())
    assert caught.value.exit_code == 6
    assert other.trt.deserialised == []


def test_an_engine_that_came_with_a_bundle_never_reaches_tensorrt(bundle: Path, device: FakeDevice) -> None:
    path = device.engines()[0]
    path.write_bytes(b"ftrt" + bytes(4000))
    again = FakeDevice(device.cache)
    with pytest.raises(BackendError, match="not written by this device"):
        Cascade.open(bundle, backend=again.backend())


@settings(max_examples=60, deadline=None)
@given(data=st.data())
def test_a_sealed_file_with_any_bit_flipped_or_cut_off_is_refused(data: st.DataObject) -> None:
    whole = seal(KEY, b'{"a": 1}', b"content")
    if data.draw(st.booleans()):
        bit = data.draw(st.integers(0, 8 * len(whole) - 1))
        damaged = bytearray(whole)
        damaged[bit // 8] ^= 1 << bit % 8
    else:
        damaged = bytearray(whole[: data.draw(st.integers(0, len(whole) - 1))])
    with pytest.raises(BackendError, match="not written by this device"):
        unseal(KEY, bytes(damaged), "file", "remedy")


@given(st.binary(max_size=200), st.binary(max_size=200))
def test_a_sealed_file_gives_back_what_was_sealed(header: bytes, content: bytes) -> None:
    sealed = seal(KEY, header, content)
    assert unseal(KEY, sealed, "file", "remedy") == (header, content)
    assert len(sealed) == OVERHEAD_BYTES + len(header) + len(content)


def test_the_format_of_a_sealed_file_is_this() -> None:
    assert seal(b"k" * 32, b"{}", b"engine").hex() == (
        "45444745455849542d5345414c454401"
        "020000007b7d0600000000000000656e67696e65"
        "ec663cbb68527e1c0b14d2dcae019e7ccbf0e41c23a1305b31d3ee4aabc4a8df"
    )
    assert MAGIC[-1] == 1


def test_an_engine_of_another_graph_under_this_name_is_built_again(bundle: Path, device: FakeDevice) -> None:
    first, second, _ = device.engines()
    shutil.copyfile(first, second)
    again = FakeDevice(device.cache)
    Cascade.open(bundle, backend=again.backend())
    assert again.trt.built == 1


def test_a_link_in_the_cache_is_not_followed(bundle: Path, device: FakeDevice, tmp_path: Path) -> None:
    path = device.engines()[0]
    path.rename(tmp_path / "elsewhere")
    path.symlink_to(tmp_path / "elsewhere")
    with pytest.raises(BackendError, match="cannot be read"):
        Cascade.open(bundle, backend=FakeDevice(device.cache).backend())


def test_a_pipe_in_the_cache_does_not_make_anybody_wait(device: FakeDevice, bundle: Path) -> None:
    path = device.engines()[0]
    path.unlink()
    os.mkfifo(path)
    with pytest.raises(BackendError, match="is not used"):
        Cascade.open(bundle, backend=FakeDevice(device.cache).backend())


@pytest.mark.parametrize("mode", [0o620, 0o602])
def test_an_engine_that_others_may_write_is_refused(bundle: Path, device: FakeDevice, mode: int) -> None:
    device.engines()[0].chmod(mode)
    with pytest.raises(BackendError, match="may be written by others"):
        Cascade.open(bundle, backend=FakeDevice(device.cache).backend())


def test_a_file_beyond_the_limit_is_not_read(tmp_path: Path) -> None:
    (tmp_path / "f").write_bytes(bytes(11))
    with pytest.raises(BackendError, match="is not used"):
        read_private(tmp_path / "f", 10, "remedy")


def test_the_cache_is_this_users_alone(device: FakeDevice) -> None:
    assert (device.cache / "engines").stat().st_mode & 0o777 == 0o700
    assert {path.stat().st_mode & 0o777 for path in (device.cache / "engines").iterdir()} == {0o600}


def test_a_folder_that_others_may_write_to_is_refused(tmp_path: Path) -> None:
    (tmp_path / "engines").mkdir()
    (tmp_path / "engines").chmod(0o777)
    with pytest.raises(BackendError, match="may be written by others"):
        EngineCache(tmp_path, KEY)


def test_a_cache_that_is_a_file_is_refused(tmp_path: Path) -> None:
    (tmp_path / "engines").write_bytes(b"")
    with pytest.raises(BackendError, match="cannot be used"):
        private_folder(tmp_path / "engines")


def test_a_file_is_written_whole_or_not_at_all(tmp_path: Path) -> None:
    target = tmp_path / "folder"
    target.mkdir()
    with pytest.raises(BackendError, match="cannot be written"):
        write_private(target, b"content")
    assert list(tmp_path.iterdir()) == [target]


def test_the_secret_is_made_once_for_a_machine_and_a_user(tmp_path: Path) -> None:
    (tmp_path / "etc").mkdir()
    (tmp_path / "etc/machine-id").write_text("one\n")
    home = {"HOME": str(tmp_path / "home")}
    key = device_key(home, tmp_path)
    assert key == device_key(home, tmp_path)
    file = tmp_path / "home/.local/state/edgeexit/device.key"
    assert file.stat().st_mode & 0o777 == 0o600
    assert file.read_bytes() != key
    assert device_key({"HOME": str(tmp_path / "other")}, tmp_path) != key
    (tmp_path / "etc/machine-id").write_text("two\n")
    assert device_key(home, tmp_path) != key


def test_a_secret_that_is_none_is_refused(tmp_path: Path) -> None:
    state = tmp_path / "edgeexit"
    state.mkdir(mode=0o700)
    (state / "device.key").write_bytes(b"short")
    with pytest.raises(BackendError, match="is not a key"):
        device_key({"XDG_STATE_HOME": str(tmp_path)}, tmp_path)


def test_the_folder_for_engines_is_the_users_unless_another_is_named() -> None:
    assert cache_folder({"HOME": "/home/a"}) == Path("/home/a/.cache/edgeexit")
    assert cache_folder({"HOME": "/home/a", "XDG_CACHE_HOME": "/x"}) == Path("/x/edgeexit")
    assert cache_folder({"HOME": "/home/a", "EDGEEXIT_CACHE": "/c"}) == Path("/c")


def test_a_build_goes_on_from_the_timings_of_the_last(bundle: Path, device: FakeDevice) -> None:
    assert device.trt.timed[0] == b""
    assert device.trt.timed[1] != b""
    again = FakeDevice(device.cache)
    Cascade.open(bundle, backend=again.backend((1, 2)))
    assert again.trt.timed[0] != b""


def test_timings_of_another_version_are_left_alone(bundle: Path, device: FakeDevice) -> None:
    now = FakeDevice(device.cache, "10.7.0")
    Cascade.open(bundle, backend=now.backend())
    assert now.trt.timed[0] == b""


def test_timings_that_this_device_did_not_write_are_refused(tmp_path: Path, bundle: Path) -> None:
    timings = tmp_path / "timing.cache"
    timings.write_bytes(b"from somewhere")
    with pytest.raises(BackendError, match="not written by this device"):
        Cascade.open(bundle, backend=FakeDevice(tmp_path / "cache").backend(timings=timings))


def test_timings_in_the_cache_from_another_device_are_replaced_only_by_build(tmp_path: Path, bundle: Path) -> None:
    device = FakeDevice(tmp_path / "cache")
    Cascade.open(bundle, backend=device.backend())
    manifest, contents = tiny_parts()
    other = FakeDevice(device.cache, key=b"another device's secret .........")
    other.engines()[0].unlink()
    (gone,) = (k for k in range(EXITS) if not other.backend().cache.path(manifest.segments[k].file.sha256).exists())
    graph, entry = contents[f"segments/0{gone}.onnx"], manifest.segments[gone]
    with pytest.raises(BackendError, match=r"timing\.cache was not written by this device"):
        other.backend().build(graph, entry, lambda n=1: None)
    assert other.backend().build(graph, entry, lambda n=1: None, replace_foreign=True).built
    assert other.trt.timed == [b""]
