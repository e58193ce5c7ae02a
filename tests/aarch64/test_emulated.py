"""A bundle made on this machine gives the same answers on aarch64, with the device side alone.

Real aarch64 wheels in QEMU's user emulation; `make test-aarch64` runs it. Times and memory mean nothing there.
"""

from __future__ import annotations

import json
import subprocess
from collections.abc import Callable, Mapping
from pathlib import Path

import numpy as np
import pytest

from aarch64.emulation import FOLDER, Machine
from aarch64.findings import Findings
from aarch64.material import BUNDLES, PICTURES, Material

pytestmark = pytest.mark.slow

AARCH64 = 183  # EM_AARCH64, e_machine of an ELF file
TOLERANCE = 1e-4
HALF_TOLERANCE = 1e-2  # of the largest logit: some cores and kernels keep the sums in fp16, others in fp32

Probed = Callable[[Machine | None, str], Findings]
Bundles = Mapping[str, Material]
Edgeexit = Callable[..., "subprocess.CompletedProcess[str]"]

each_bundle = pytest.mark.parametrize("name", BUNDLES)
each_but_fp16 = pytest.mark.parametrize("name", [name for name in BUNDLES if name != "fp16"])


def test_the_process_says_itself_that_it_is_on_aarch64(machine: Machine, probed: Probed) -> None:
    facts = probed(machine, "quickstart").facts
    assert (facts["machine"], facts["platform"]) == ("aarch64", "linux-aarch64")
    assert probed(None, "quickstart").facts["machine"] != "aarch64"


def test_the_compiled_parts_are_aarch64_and_nothing_comes_from_this_machine(machine: Machine, probed: Probed) -> None:
    files = list(map(Path, probed(machine, "quickstart").facts["files"].values()))
    compiled = [file for file in files if ".so" in file.suffixes]
    assert [file for file in files if FOLDER not in file.parents] == []
    assert len(compiled) > 5
    assert {int.from_bytes(file.read_bytes()[18:20], "little") for file in compiled} == {AARCH64}


def test_nothing_of_the_workstation_is_installed_there(machine: Machine, probed: Probed) -> None:
    assert probed(machine, "quickstart").facts["not_on_a_device"] == []


@each_but_fp16
def test_labels_and_exits_are_the_same(machine: Machine, probed: Probed, name: str) -> None:
    there, here = probed(machine, name).arrays, probed(None, name).arrays
    for key in sorted(here.keys() - {"logits", "probability"}):
        np.testing.assert_array_equal(there[key], here[key], key)


@each_but_fp16
def test_the_samples_leave_at_several_exits(probed: Probed, name: str) -> None:
    assert len(np.unique(probed(None, name).arrays["exit"])) > 1 or name == "given"


@each_but_fp16
def test_logits_and_probabilities_are_the_same_to_1e_4(
    machine: Machine, probed: Probed, name: str, capsys: pytest.CaptureFixture[str]
) -> None:
    there, here = probed(machine, name), probed(None, name)
    difference = np.abs(there.arrays["logits"] - here.arrays["logits"]).max()
    packages = ", ".join(f"{package} {version}" for package, version in there.facts["packages"].items())
    with capsys.disabled():
        print(f"\n{machine.name}, {packages}: {name}: logits differ by at most {difference:.1e}")
    np.testing.assert_allclose(there.arrays["logits"], here.arrays["logits"], rtol=TOLERANCE, atol=TOLERANCE)
    np.testing.assert_allclose(there.arrays["probability"], here.arrays["probability"], rtol=0, atol=TOLERANCE)


def test_half_precision_answers_alike(machine: Machine, probed: Probed, capsys: pytest.CaptureFixture[str]) -> None:
    there, here = probed(machine, "fp16").arrays, probed(None, "fp16").arrays
    difference = np.abs(there["logits"] - here["logits"]).max() / np.abs(here["logits"]).max()
    with capsys.disabled():
        print(f"\n{machine.name}: fp16: logits differ by at most {difference:.1e} of the largest")
    assert difference <= HALF_TOLERANCE
    assert (there["label"] == here["label"]).mean() >= 0.9


@each_bundle
def test_verify_passes(edgeexit: Edgeexit, bundles: Bundles, name: str) -> None:
    found = json.loads(edgeexit("verify", bundles[name].bundle, "--json").stdout)
    assert found["samples"] > 0
    assert found["largest_difference"] <= (HALF_TOLERANCE if name == "fp16" else TOLERANCE)


def test_verify_refuses_a_bundle_that_was_altered(edgeexit: Edgeexit, bundles: Bundles, tmp_path: Path) -> None:
    data = bytearray(bundles["quickstart"].bundle.read_bytes())
    data[len(data) // 2] ^= 1
    (tmp_path / "altered.eexit").write_bytes(data)
    done = edgeexit("verify", tmp_path / "altered.eexit", code=3)
    assert done.stderr.startswith("error: ")


def test_run_answers_pictures_as_here(edgeexit: Edgeexit, edgeexit_here: Edgeexit, bundles: Bundles) -> None:
    bundle = bundles["gaussian"].bundle
    arguments = ("run", bundle, bundle.parent / "test")
    there, here = (
        [json.loads(line) for line in run(*arguments).stdout.splitlines()] for run in (edgeexit, edgeexit_here)
    )
    assert len(there) == PICTURES
    for key in ("input", "label", "exit", "tier", "degraded"):
        assert [line[key] for line in there] == [line[key] for line in here]
    assert [line["probability"] for line in there] == pytest.approx(
        [line["probability"] for line in here], abs=TOLERANCE
    )


def test_bench_times_the_cascade_and_names_the_machine(edgeexit: Edgeexit, bundles: Bundles) -> None:
    words = ("--batch", "8", "--seconds", "0", "--json")
    document = json.loads(edgeexit("bench", bundles["quickstart"].bundle, *words).stdout)
    assert document["machine"]["architecture"] == "aarch64"
    assert document["machine"]["cpu"].startswith("QEMU")
    assert [row["batch"] for row in document["rows"]] == [8]
    assert all(row["cascade_ms"] > 0 for row in document["rows"])


def test_inspect_shows_what_it_shows_here(edgeexit: Edgeexit, edgeexit_here: Edgeexit, bundles: Bundles) -> None:
    there, here = (run("inspect", bundles["gaussian"].bundle, "--json").stdout for run in (edgeexit, edgeexit_here))
    assert json.loads(there) == json.loads(here)


def test_the_targets_are_there(edgeexit: Edgeexit, edgeexit_here: Edgeexit) -> None:
    assert edgeexit("targets", "--json").stdout == edgeexit_here("targets", "--json").stdout


def test_doctor_finds_the_machine_of_its_target(edgeexit: Edgeexit, bundles: Bundles) -> None:
    words = (bundles["quickstart"].bundle, "--target", "raspberry-pi-4", "--json")
    findings = {each["check"]: each for each in json.loads(edgeexit("doctor", *words).stdout)["findings"]}
    assert {findings[check]["status"] for check in ("architecture", "onnxruntime", "numpy", "bundle")} == {"ok"}
    assert findings["architecture"]["found"] == "aarch64"


def test_a_profile_made_there_tunes_thresholds_here(
    edgeexit: Edgeexit, edgeexit_here: Edgeexit, bundles: Bundles, tmp_path: Path
) -> None:
    bundle = bundles["quickstart"].bundle
    words = ("--target", "raspberry-pi-4", "--batch", "1,4", "--seconds", "0", "-o", tmp_path / "pi.json", "--json")
    measured = json.loads(edgeexit("profile", bundle, *words).stdout)
    assert measured["machine"]["architecture"] == "aarch64"
    budget_ms = 0.9 * measured["exits_ms"][-1]
    words = ("--data", bundle.with_name("digits-calibration.npz"), "--budget", budget_ms, "--unit", "ms")
    done = edgeexit_here(
        "tune", bundle, *words, "--profile", tmp_path / "pi.json", "-o", tmp_path / "t.eexit", "--json"
    )
    assert json.loads(done.stdout)["mean_ms"] <= budget_ms
