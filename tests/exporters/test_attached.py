"""A MultiExit and a training run as sources: the heads that torch trained become those of the bundle."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from edgeexit.bundle import Bundle
from edgeexit.data import open_data, survey
from edgeexit.errors import DataError, ModelError, UsageError
from edgeexit_exporters.exporting import export
from edgeexit_exporters.heads import HeadSettings
from edgeexit_exporters.loading import HELD_OUT, open_splits, prepare
from edgeexit_exporters.runs import with_run
from edgeexit_exporters.settings import ExportSettings
from edgeexit_runtime import Cascade
from edgeexit_runtime.verification import verify
from integration.material import LABELS, MEAN, STD, normalised, pictures, save_arrays, save_folder

torch = pytest.importorskip("torch", reason="needs edgeexit[train]")
pytest.importorskip("onnxscript", reason="needs edgeexit-exporters[torch]")

from edgeexit.training.settings import TrainSettings  # noqa: E402  torch may be missing
from edgeexit.training.store import load_run, restore  # noqa: E402
from edgeexit_exporters.train_run import RunRequest, make_run, parse_places  # noqa: E402
from nets_torch import write_nets  # noqa: E402

X, Y = pictures(400, 1)


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """The current folder for the whole module: sources, data, and a run."""
    root = tmp_path_factory.mktemp("world")
    write_nets(root)
    save_arrays(root / "data.npz", x=normalised(X), y=Y)
    save_arrays(root / "bare.npz", x=normalised(X))
    save_folder(root / "pictures", X, Y)
    save_folder(root / "others", *pictures(50, 2))
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(root)
        patch.syspath_prepend(str(root))
        request = RunRequest("nets:build", "pictures", "run", at="one,two", mean=MEAN, std=STD, quiet=True)
        make_run(request, TrainSettings(mode="combined", epochs=3, batch=32, rate=3e-3, threads=1))
        yield root
    sys.modules.pop("nets", None)


@pytest.fixture
def bundle(world: Path, tmp_path: Path) -> Callable[..., Bundle]:
    def make(source: str, data: str = "bare.npz", **settings: Any) -> Bundle:
        wanted = {"labels": "model", "quiet": True, "threads": 1, "max_drop": 0.3, "check_macs": 0, **settings}
        export([source], data, tmp_path / "bundle", ExportSettings(**wanted))
        return Bundle.open(tmp_path / "bundle")

    return make


def copied(run: Path, folder: Path, **changes: object) -> Path:
    """A run with a changed document in another folder."""
    folder.mkdir(exist_ok=True)
    document = json.loads((run / "training.json").read_text())
    (folder / "weights.safetensors").write_bytes((run / "weights.safetensors").read_bytes())
    (folder / "training.json").write_text(json.dumps({**document, **changes}))
    return folder


def answers(found: Bundle, x: np.ndarray) -> list[np.ndarray]:
    cascade = Cascade.open(found)
    return list(cascade.logits({cascade.manifest.inputs[0].name: x}))


def test_a_multi_exit_answers_as_in_torch_and_its_exits_are_named_after_modules(bundle: Callable[..., Bundle]) -> None:
    import nets

    found = bundle("nets:attached", exits="two,one")
    assert [(e.name, e.head) for e in found.manifest.exits] == [
        ("one", "trained"),
        ("two", "trained"),
        ("whole model", "model"),
    ]
    x = normalised(X[:7])
    with torch.no_grad():
        want = nets.attached().eval()(torch.from_numpy(x))
    for ours, theirs in zip(answers(found, x), want, strict=True):
        np.testing.assert_allclose(ours, theirs, rtol=1e-4, atol=1e-5)
    assert verify(found, Cascade.open(found)).samples


def test_a_run_answers_as_in_torch_with_the_preprocessing_and_the_classes_of_its_training(
    bundle: Callable[..., Bundle], world: Path
) -> None:
    import nets

    found = bundle("run", "pictures", labels="data", exits="2")
    manifest = found.manifest
    assert manifest.labels == LABELS
    assert (manifest.preprocessing.mean, manifest.preprocessing.std) == (MEAN, STD)
    network = restore(load_run(world / "run"), nets.build(), torch.zeros(2, 3, 8, 8))
    with torch.no_grad():
        want = network(torch.from_numpy(normalised(X[:9])))
    for ours, theirs in zip(answers(found, X[:9]), want, strict=True):
        np.testing.assert_allclose(ours, theirs, rtol=1e-3, atol=1e-4)
    assert verify(found, Cascade.open(found)).samples
    (source,) = manifest.provenance.sources
    assert (source.name, source.sha256) == ("run", load_run(world / "run").document.weights_sha256)


def test_of_attached_exits_those_that_pay_stay(bundle: Callable[..., Bundle]) -> None:
    every = bundle("run", "pictures", exits="2").manifest.exits
    dear = bundle("run", "pictures", check_macs=1e9).manifest.exits
    assert len(every) == 3
    assert [exit_.name for exit_ in dear] == ["whole model"]


def test_arrays_of_floats_are_what_the_model_takes_and_the_run_names_the_classes(bundle: Callable[..., Bundle]) -> None:
    manifest = bundle("run", "data.npz").manifest
    assert (manifest.labels, manifest.preprocessing.mean) == (LABELS, None)
    assert manifest.inputs[0].dtype == "float32"


def test_attached_heads_stand_behind_rounded_segments(bundle: Callable[..., Bundle]) -> None:
    found = bundle("run", "pictures", precision="int8", exits="two", max_drop=0.9)
    assert [segment.precision for segment in found.manifest.segments] == ["int8", "int8"]
    assert verify(found, Cascade.open(found)).samples


@pytest.mark.parametrize("labels", ["data", "model"])
def test_thresholds_are_fitted_on_what_the_run_held_out(world: Path, labels: str) -> None:
    settings = ExportSettings(labels=labels, seed=7, quiet=True)
    prepared = prepare(["run"], "pictures", settings)
    rest, held = open_splits(prepared, "pictures", None, settings)
    whole = open_data(world / "pictures", prepared.inputs, prepared.preprocessing)
    seen, unseen = whole.split(HELD_OUT, 0)
    assert ([Path(n).name for n in held.names], len(rest)) == ([Path(n).name for n in unseen.names], len(seen))


@pytest.mark.parametrize("exits", ["three", "one,nothing", ","])
def test_an_exit_that_is_not_attached_is_refused(bundle: Callable[..., Bundle], exits: str) -> None:
    with pytest.raises(UsageError, match="no such exit attached") as refusal:
        bundle("nets:attached", exits=exits)
    assert refusal.value.expected == "one, two"


def test_a_model_with_exits_attached_is_no_part_of_a_cascade_of_models(world: Path, tmp_path: Path) -> None:
    settings = ExportSettings(labels="model", quiet=True)
    with pytest.raises(UsageError, match="a cascade by itself"):
        export(["nets:attached", "nets:build"], "bare.npz", tmp_path / "bundle", settings)


def test_a_model_with_several_logits_keeps_them(bundle: Callable[..., Bundle]) -> None:
    assert [exit_.head for exit_ in bundle("nets:several").manifest.exits] == ["model", "model"]


def test_exits_of_a_module_that_names_them_have_these_names(bundle: Callable[..., Bundle]) -> None:
    found = bundle("nets:named")
    assert [exit_.name for exit_ in found.manifest.exits] == ["after two", "whole model"]
    assert verify(found, Cascade.open(found)).samples


def test_names_that_other_tensors_have_are_not_taken(bundle: Callable[..., Bundle]) -> None:
    found = bundle("nets:oddly_named")
    assert not {"image", "whole model"} & {exit_.name for exit_ in found.manifest.exits}


@pytest.mark.parametrize("source", ["run", "nets:attached"])
@pytest.mark.parametrize("head", [HeadSettings(), HeadSettings(kind="trained", epochs=1), HeadSettings(updatable=True)])
def test_options_for_heads_are_refused_where_the_source_brings_its_own(
    bundle: Callable[..., Bundle], source: str, head: HeadSettings
) -> None:
    with pytest.raises(UsageError, match="brings its exit heads") as refusal:
        bundle(source, head=head)
    assert head.kind in str(refusal.value.got)


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (("--head", "gaussian"), "brings its exit heads"),
        (("--means-kib", "64"), "brings its exit heads"),
        (("--head", "trained", "--epochs", "2"), "brings its exit heads"),
        (("--search", "2"), "leave them out for a training run"),
        (("--mean", "0.5", "--std", "0.5"), "leave --mean and --std out"),
    ],
)
def test_the_command_tells_what_was_given_from_what_was_not(
    cli: Callable[..., Any], world: Path, tmp_path: Path, options: tuple[str, ...], words: str
) -> None:
    outcome = cli("export", "run", "--data", "pictures", "-o", tmp_path / "bundle", "--quiet", *options)
    assert outcome.code == 2
    assert words in outcome.stderr
    assert not (tmp_path / "bundle").exists()


@pytest.mark.parametrize(
    ("settings", "own"),
    [
        ({"mean": (0.5,), "std": (0.5,)}, "--mean 0.45,0.5,0.55"),
        ({"mean": MEAN, "std": (0.5,)}, "--std"),
        ({"size": (16, 16)}, "8,8"),
    ],
)
def test_another_preprocessing_than_that_of_the_training_is_refused(
    bundle: Callable[..., Bundle], settings: dict[str, Any], own: str
) -> None:
    with pytest.raises(UsageError, match="the run was trained") as refusal:
        bundle("run", "pictures", **settings)
    assert own in str(refusal.value.expected)
    assert "out" in str(refusal.value.remedy)


def test_the_preprocessing_of_the_training_may_be_given_again(world: Path) -> None:
    settings = ExportSettings(labels="model", mean=MEAN, std=STD, size=(8, 8), resize="crop", quiet=True)
    found = prepare(["run"], "pictures", settings).preprocessing
    assert (found.mean, found.std, found.size, found.resize) == (MEAN, STD, (8, 8), "crop")


@pytest.mark.parametrize(
    ("preprocessing", "settings", "refused"),
    [
        ({"kind": "image", "mode": "RGB", "size": [8, 8], "resize": "crop"}, {}, False),
        ({"kind": "image", "mode": "RGB", "size": [8, 8], "resize": "crop"}, {"resize": "exact"}, True),
        ({"kind": "image", "mode": "RGB", "size": [8, 8]}, {"mean": (0.5,), "std": (0.5,)}, True),
        ({"kind": "image", "mode": "RGB", "size": [8, 8], "mean": [0.5] * 3, "std": [0.5] * 3},
         {"mean": (0.5,), "std": (0.5,)}, False),
        ({"kind": "array"}, {"mean": (0.5,), "std": (0.5,)}, False),
    ],
)  # fmt: skip
def test_what_contradicts_a_run_depends_on_what_it_was_trained_on(
    world: Path, tmp_path: Path, preprocessing: dict[str, Any], settings: dict[str, Any], refused: bool
) -> None:
    document = json.loads((world / "run" / "training.json").read_text())
    (tmp_path / "weights.safetensors").write_bytes((world / "run" / "weights.safetensors").read_bytes())
    inputs = document["inputs"] if preprocessing["kind"] == "image" else [
        {"name": "x", "dtype": "float32", "shape": [3, 8, 8]}
    ]  # fmt: skip
    (tmp_path / "training.json").write_text(json.dumps({**document, "preprocessing": preprocessing, "inputs": inputs}))
    wanted, pictures_found = ExportSettings(**settings), survey(world / "pictures", labelled=False)
    if refused:
        with pytest.raises(UsageError, match="the run was trained"):
            with_run(wanted, load_run(tmp_path), pictures_found)
    else:
        with_run(wanted, load_run(tmp_path), pictures_found)


@pytest.mark.parametrize(("held_out", "words"), [(False, "no part of them was held out"), (None, "may have been")])
def test_a_run_that_may_have_seen_all_of_its_data_needs_others_to_calibrate_on(
    world: Path, tmp_path: Path, held_out: bool | None, words: str
) -> None:
    copied(world / "run", tmp_path, held_out=held_out)
    settings = ExportSettings(labels="model", quiet=True)
    prepared = prepare([str(tmp_path)], "pictures", settings)
    with pytest.raises(UsageError, match=words) as refusal:
        open_splits(prepared, "pictures", None, settings)
    assert "--calibration" in str(refusal.value.remedy)
    _, held = open_splits(prepared, "pictures", "others", settings)
    assert len(held)


@pytest.mark.parametrize("source", ["nets:by_position", "nets:anything"])
def test_a_backbone_whose_input_has_no_name_is_exported_too(world: Path, tmp_path: Path, source: str) -> None:
    copied(world / "run", tmp_path, source=source)
    found = prepare([str(tmp_path)], "pictures", ExportSettings(labels="model", quiet=True))
    assert [entry.name for entry in found.attached] == ["one", "two"]
    assert found.inputs[0].shape == (8, 8, 3)


@pytest.mark.parametrize(
    ("source", "calibration", "noted"),
    [("nets:attached", None, True), ("nets:several", None, True), ("nets:attached", "others", False),
     ("nets:build", None, False), ("run", None, False)],
)  # fmt: skip
def test_exits_of_which_nobody_knows_what_they_were_trained_on_are_noted(
    world: Path, capsys: pytest.CaptureFixture[str], source: str, calibration: str | None, noted: bool
) -> None:
    settings = ExportSettings(labels="model", mean=MEAN, std=STD, quiet=True)
    open_splits(prepare([source], "pictures", settings), "pictures", calibration, settings)
    assert ("if the exits were trained on these samples" in capsys.readouterr().err) is noted


def test_data_that_are_too_few_to_hold_some_out_are_told_how_many_they_are(world: Path) -> None:
    settings = ExportSettings(labels="model", quiet=True)
    save_arrays(world / "lone.npz", x=normalised(X[:1]))
    with pytest.raises(DataError, match="too small to hold a part") as refusal:
        open_splits(prepare(["nets:build"], "lone.npz", settings), "lone.npz", None, settings)
    assert "1 samples" in str(refusal.value.got)
    assert "--calibration" in str(refusal.value.remedy)


@pytest.mark.parametrize(
    ("stands_in", "source", "words"),
    [
        (".", "evil.payload:go", "brings code of its own"),
        ("evil", "payload:go", "cannot be imported"),
        ("evil", "borrower:go", "cannot be imported"),
    ],
)
def test_code_that_came_with_a_run_is_not_run(
    world: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, stands_in: str, source: str, words: str
) -> None:
    folder = copied(world / "run", tmp_path / "evil", source=source)
    (folder / "payload.py").write_text("from pathlib import Path\nPath(__file__).with_name('was_here').touch()\n")
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "elsewhere" / "borrower.py").write_text("import payload\n")
    monkeypatch.chdir(tmp_path / stands_in)
    monkeypatch.syspath_prepend(str(tmp_path / "elsewhere"))
    with pytest.raises((DataError, UsageError), match=words) as refusal:
        prepare([str(folder)], world / "pictures", ExportSettings(labels="model", quiet=True))
    assert source in str(refusal.value.got)
    assert not (folder / "was_here").exists()


def test_what_a_run_has_imported_is_said_before(
    world: Path, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    folder = copied(world / "run", tmp_path, source="nowhere.to_be_found:build")
    with pytest.raises(UsageError, match="cannot be imported"):
        prepare([str(folder)], "pictures", ExportSettings(labels="model", quiet=True))
    assert f"importing nowhere.to_be_found:build, as the run in {folder} says" in capsys.readouterr().err


def test_another_backbone_than_that_of_the_run_is_refused(world: Path, bundle: Callable[..., Bundle]) -> None:
    document = (world / "run" / "training.json").read_text()
    other = world / "other"
    other.mkdir()
    (other / "weights.safetensors").write_bytes((world / "run" / "weights.safetensors").read_bytes())
    (other / "training.json").write_text(document.replace("nets:build", "nets:another"))
    with pytest.raises(ModelError, match="another backbone"):
        bundle("other", "pictures")


def test_a_run_that_was_not_finished_is_refused(world: Path, bundle: Callable[..., Bundle]) -> None:
    (world / "stopped").mkdir()
    (world / "stopped" / "checkpoint.safetensors").write_bytes(b"")
    with pytest.raises(DataError, match="not finished"):
        bundle("stopped")


@pytest.mark.parametrize(
    ("text", "places"),
    [
        ("auto", "auto"),
        ("selfxit", "selfxit"),
        ("0.15, 0.3", [0.15, 0.3]),
        ("0,1", ["0", "1"]),
        ("layer1.2,layer2", ["layer1.2", "layer2"]),
    ],
)
def test_places_are_words_shares_or_names(text: str, places: object) -> None:
    assert parse_places(text) == places


def test_shares_that_are_names_of_modules_too_are_refused_and_can_be_written_otherwise() -> None:
    modules = ["", "0", "0.1", "1"]
    with pytest.raises(UsageError, match="two ways") as refusal:
        parse_places("0.1,0.3", modules)
    assert "--at .1,.3" in str(refusal.value.remedy)
    assert parse_places(".1,.3", modules) == [0.1, 0.3]
    assert parse_places("0.15,0.3", modules) == [0.15, 0.3]
    assert parse_places("0.1,1", modules) == ["0.1", "1"]
