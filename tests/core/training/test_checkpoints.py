"""Checkpoints: whatever ends a run, it goes on as if it had never stopped, or says why it cannot."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from itertools import count, islice
from pathlib import Path

import pytest

torch = pytest.importorskip("torch", reason="training needs torch")
safetensors = pytest.importorskip("safetensors.torch", reason="checkpoints are safetensors files")

from core.training.resumed_child import settings  # noqa: E402 torch may be missing
from core.training.small_nets import (  # noqa: E402
    ByDesign,
    RecordedFeed,
    a_network,
    a_pretrained_network,
    picture_feeds,
    pictures,
    recorded,
    values,
    vector_feeds,
)
from edgeexit.errors import DataError, UsageError  # noqa: E402
from edgeexit.manifest import Preprocessing  # noqa: E402
from edgeexit.training.attach import MultiExit  # noqa: E402
from edgeexit.training.feeding import Feed  # noqa: E402
from edgeexit.training.frozen import ActivationBatch  # noqa: E402
from edgeexit.training.headslearner import HeadsLearner  # noqa: E402
from edgeexit.training.joint import JointLearner  # noqa: E402
from edgeexit.training.loop.checkpoints import (  # noqa: E402
    CHECKPOINT_FILE,
    Checkpoint,
    load_checkpoint,
    save_checkpoint,
    tensor_digest,
)
from edgeexit.training.loop.course import Course  # noqa: E402
from edgeexit.training.settings import TrainSettings  # noqa: E402
from edgeexit.training.trainer import train  # noqa: E402

CHILD = Path(__file__).with_name("resumed_child.py")
SETTINGS = TrainSettings(
    mode="joint", epochs=2, batch=32, rate=0.02, threads=1, checkpoint_every=2, augment="crop", optimiser="sgd"
)
STEPS = 4


class Plain(torch.nn.Module):
    """A head that needs no specification."""

    def __init__(self, inside: torch.nn.Module) -> None:
        super().__init__()
        self.inside = inside

    def forward(self, activation: torch.Tensor, mask: torch.Tensor | None = None) -> torch.Tensor:
        return self.inside(activation)


class Sameness(torch.nn.Module):
    """Its blocks are alike in the shapes of all that they have and give."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = (torch.nn.Conv2d(3, 3, 3, padding=1, bias=False) for _ in range(2))
        self.last = torch.nn.Linear(3, 3, bias=False)

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        out: torch.Tensor = self.last(self.second(self.first(image)).mean((2, 3)))
        return out


class Stopping(Feed):
    """Does something before a step."""

    def epoch(self, number: int, start: int = 0):
        for step, batch in enumerate(super().epoch(number, start), start):
            if (number, step) == (1, 1):
                self.act()
            yield batch

    def act(self) -> None:
        raise OSError("the disk is gone")


def stopping(act=None) -> tuple[Stopping, Feed]:
    data, held = picture_feeds()
    feed = Stopping(**{name: getattr(data, name) for name in data.__dataclass_fields__})
    kind = type("Acting", (Stopping,), {"act": lambda self: act()}) if act else Stopping
    return kind(**{name: getattr(feed, name) for name in feed.__dataclass_fields__}), held


def interrupted(folder: Path) -> Path:
    """A folder with the checkpoint of a run that broke in its second epoch."""
    with pytest.raises(OSError, match="the disk"):
        train(a_network(), *stopping(), SETTINGS, folder=folder, quiet=True)
    return folder


@pytest.fixture(scope="module")
def killed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the folders of two runs that SIGKILL ended."""
    folder = tmp_path_factory.mktemp("killed")
    command = [sys.executable, str(CHILD), str(folder), "joint", "combined"]
    ended = subprocess.run(command, check=False, capture_output=True, text=True, timeout=120)
    assert ended.stdout.split() == [str(-signal.SIGKILL)] * 2, ended.stderr
    return folder


@pytest.mark.parametrize("mode", ["joint", "combined"])
def test_a_killed_run_goes_on_to_the_same_bits(mode: str, killed: Path) -> None:
    stored = load_checkpoint(killed / mode / CHECKPOINT_FILE)
    assert (stored.epoch, stored.step) == (2, 3)
    whole, again = a_pretrained_network(head="conv"), a_pretrained_network(head="conv")
    expected = train(whole, *picture_feeds(), settings(mode), quiet=True)
    result = train(again, *picture_feeds(), settings(mode), folder=killed / mode, resume=True, quiet=True)
    assert result.exits == expected.exits
    assert values(again) == values(whole)


@pytest.mark.parametrize("optimiser", ["adamw", "sgd"])
def test_a_run_that_broke_in_the_middle_of_an_epoch_goes_on_to_the_same_bits(tmp_path: Path, optimiser: str) -> None:
    chosen = TrainSettings(
        mode="joint", epochs=2, batch=32, rate=0.02, threads=1, checkpoint_every=1, optimiser=optimiser
    )
    whole, again = a_network(head="conv"), a_network(head="conv")
    expected = train(whole, *picture_feeds(), chosen, quiet=True)
    with pytest.raises(OSError, match="the disk"):
        train(a_network(head="conv"), *stopping(), chosen, folder=tmp_path, quiet=True)
    stored = load_checkpoint(tmp_path / CHECKPOINT_FILE)
    assert (stored.epoch, stored.step) == (1, 1)
    result = train(again, *picture_feeds(), chosen, folder=tmp_path, resume=True, quiet=True)
    assert result.exits == expected.exits
    assert values(again) == values(whole)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_lets_the_step_end_and_leaves_a_checkpoint(tmp_path: Path, number: signal.Signals) -> None:
    came: list[int] = []
    before = signal.signal(number, lambda received, frame: came.append(received))
    try:
        with pytest.raises(KeyboardInterrupt):
            train(a_network(), *stopping(lambda: os.kill(os.getpid(), number)), SETTINGS, folder=tmp_path, quiet=True)
        assert came == [number]
    finally:
        signal.signal(number, before)
    stored = load_checkpoint(tmp_path / CHECKPOINT_FILE)
    assert (stored.epoch, stored.step) == (1, 2)
    whole, again = a_network(), a_network()
    train(whole, *picture_feeds(), SETTINGS, quiet=True)
    train(again, *picture_feeds(), SETTINGS, folder=tmp_path, resume=True, quiet=True)
    assert values(again) == values(whole)


def test_a_second_signal_does_not_wait_for_the_step_to_end(tmp_path: Path) -> None:
    def impatient() -> None:
        os.kill(os.getpid(), signal.SIGINT)
        with pytest.raises(KeyboardInterrupt):
            os.kill(os.getpid(), signal.SIGINT)
        raise OSError("the disk is gone")

    with pytest.raises(OSError, match="the disk"):
        train(a_network(), *stopping(impatient), SETTINGS, folder=tmp_path, quiet=True)
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler


def test_training_works_outside_of_the_main_thread() -> None:
    with ThreadPoolExecutor(1) as pool:
        assert pool.submit(train, a_network(), *picture_feeds(), SETTINGS, quiet=True).result().epochs == 2


@pytest.mark.parametrize(("pace_s", "step"), [(6.0, 2), (3.0, None)])
def test_checkpoints_are_written_as_often_as_the_seconds_say(tmp_path: Path, pace_s: float, step: int | None) -> None:
    class Ending(RecordedFeed):
        def epoch(self, number: int, start: int = 0) -> Iterator[ActivationBatch]:
            yield from islice(super().epoch(number, start), 2)
            raise OSError("the disk is gone")

    data, held = recorded(96, 0), recorded(48, 1)
    ending = Ending(data.activations, data.teacher, data.labels)
    chosen = TrainSettings(checkpoint_seconds=10.0, batch=32)
    heads = [torch.nn.Linear(5, 3), torch.nn.Linear(7, 3)]
    learner = HeadsLearner([Plain(head) for head in heads], ["a", "b"], held, chosen, torch.device("cpu"), 3)
    clock = count(0.0, pace_s)
    course = Course(learner, ending, chosen, {}, tmp_path, quiet=True, clock=lambda: next(clock))
    with pytest.raises(OSError, match="the disk"):
        course.run()
    path = tmp_path / CHECKPOINT_FILE
    assert (load_checkpoint(path).step if path.exists() else None) == step


def test_the_scale_of_float16_losses_is_part_of_a_checkpoint(tmp_path: Path) -> None:
    data, held = vector_feeds()
    chosen = TrainSettings(mode="joint", batch=16, rate=0.02)

    def learner() -> JointLearner:
        return JointLearner(
            ByDesign(), held.under(chosen), chosen, torch.device("cpu"), torch.float16, channels_last=False, steps=4
        )

    whole, first, second = learner(), learner(), learner()
    batches = list(data.under(chosen).epoch(0))
    for one in (whole, first):
        one.scaler.load_state_dict(one.scaler.state_dict() | {"scale": 8.0})
        one.begin(0)
        for position in range(2):
            one.step(batches[position], position)
    save_checkpoint(tmp_path / "c", Checkpoint(chosen, {}, 0, 2, 0.0, first.numbers(), first.tensors()))
    stored = load_checkpoint(tmp_path / "c")
    second.load(stored.tensors, stored.numbers)
    second.begin(0)
    for one in (whole, second):
        for position in range(2, 4):
            one.step(batches[position], position)
    assert second.scaler.get_scale() == whole.scaler.get_scale() == 8.0
    assert values(second.network) == values(whole.network)
    assert values(second.network) != values(ByDesign())


def test_handlers_of_signals_are_put_back() -> None:
    before = [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)]
    train(a_network(), *picture_feeds(), SETTINGS, quiet=True)
    assert [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)] == before


def test_a_run_that_is_over_gives_its_result_again(tmp_path: Path) -> None:
    first, second = a_network(), a_network()
    result = train(first, *picture_feeds(), SETTINGS, folder=tmp_path, quiet=True)
    again = train(second, *stopping(pytest.fail), SETTINGS, folder=tmp_path, resume=True, quiet=True)
    assert (again.exits, again.epochs, again.best_epoch) == (result.exits, result.epochs, result.best_epoch)
    assert values(second) == values(first)


def test_a_folder_with_a_run_is_not_begun_anew(tmp_path: Path) -> None:
    interrupted(tmp_path)
    before = (tmp_path / CHECKPOINT_FILE).read_bytes()
    with pytest.raises(UsageError, match="holds a run"):
        train(a_network(), *picture_feeds(), SETTINGS, folder=tmp_path, quiet=True)
    assert (tmp_path / CHECKPOINT_FILE).read_bytes() == before


@pytest.mark.parametrize("name", ["new", None])
def test_resuming_where_there_is_nothing_begins_and_says_so(
    tmp_path: Path, name: str | None, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = tmp_path / name if name else None
    assert train(a_network(), *picture_feeds(), SETTINGS, folder=folder, resume=True, quiet=True).epochs == 2
    said = capsys.readouterr().err
    assert "nothing to resume" in said
    assert folder is None or str(folder) in said


def test_a_changed_setting_is_named(tmp_path: Path) -> None:
    interrupted(tmp_path)
    other = TrainSettings(**{name: getattr(SETTINGS, name) for name in SETTINGS.__struct_fields__} | {"rate": 0.5})
    with pytest.raises(UsageError, match=r"rate 0\.02, not 0\.5") as caught:
        train(a_network(), *picture_feeds(), other, folder=tmp_path, resume=True, quiet=True)
    assert "0.02" in str(caught.value)


def test_threads_and_the_pace_of_checkpoints_may_change(tmp_path: Path) -> None:
    interrupted(tmp_path)
    fields = {name: getattr(SETTINGS, name) for name in SETTINGS.__struct_fields__}
    other = TrainSettings(**fields | {"checkpoint_every": 0, "checkpoint_seconds": 0.0})
    whole, again = a_network(), a_network()
    train(whole, *picture_feeds(), SETTINGS, quiet=True)
    train(again, *picture_feeds(), other, folder=tmp_path, resume=True, quiet=True)
    assert values(again) == values(whole)


def test_other_data_and_another_architecture_are_named(tmp_path: Path) -> None:
    interrupted(tmp_path)
    data, held = picture_feeds()
    fewer = Feed.from_arrays(data.rows.arrays["x"][:100], data.labels[:100])
    with pytest.raises(UsageError, match="training data was different"):
        train(a_network(), fewer, held, SETTINGS, folder=tmp_path, resume=True, quiet=True)
    with pytest.raises(UsageError, match="heads was different"):
        train(a_network(head="conv"), data, held, SETTINGS, folder=tmp_path, resume=True, quiet=True)


@pytest.mark.parametrize("mode", ["joint", "layerwise", "distilled", "combined"])
def test_a_run_goes_on_only_with_all_that_makes_it(tmp_path: Path, mode: str) -> None:
    """Other places, heads, means, samples or another source are named, whatever their number and shape."""
    chosen = TrainSettings(mode=mode, epochs=1, batch=32, rate=0.02, threads=1)
    (images, labels), held = pictures(128, 1), picture_feeds()[1]

    def normalised(mean: float, seed: int = 1) -> Feed:
        of = None if mode == "distilled" else labels
        return Feed.from_arrays(pictures(128, seed)[0], of, preprocessing=Preprocessing(kind="array", mean=(mean,)))

    def run(data: Feed, *, at: str = "first", head: str = "linear@grid=1", source: str = "m:f", resume: bool) -> None:
        with torch.random.fork_rng():
            torch.manual_seed(0)
            backbone = Sameness()
        network = MultiExit.attach(backbone, [at], head, example=images[:2])
        about = {"source": source}
        train(network, data, held, chosen, folder=tmp_path, resume=resume, quiet=True, about=about)

    run(normalised(0.1), resume=False)
    for changed, word in (
        ({"at": "second"}, "places"),
        ({"head": "linear@grid=1,dropout=0.5"}, "heads"),
        ({"source": "m:g"}, "source"),
    ):
        with pytest.raises(UsageError, match=f"{word} was different"):
            run(normalised(0.1), resume=True, **changed)
    with pytest.raises(UsageError, match="preprocessing was different"):
        run(normalised(0.2), resume=True)
    with pytest.raises(UsageError, match="training data was different"):
        run(normalised(0.1, seed=3), resume=True)
    run(normalised(0.1), resume=True)


@pytest.mark.parametrize("where", [0, 0.02, 0.5, 0.99])
def test_a_checkpoint_with_a_flipped_bit_is_refused(tmp_path: Path, where: float) -> None:
    path = interrupted(tmp_path) / CHECKPOINT_FILE
    data = bytearray(path.read_bytes())
    data[int(where * len(data))] ^= 4
    path.write_bytes(data)
    with pytest.raises(DataError, match=r"cannot be read as a checkpoint|another version"):
        train(a_network(), *picture_feeds(), SETTINGS, folder=tmp_path, resume=True, quiet=True)


@pytest.mark.parametrize("content", [b"", b"nonsense", b"\xff" * 100], ids=["empty", "text", "ones"])
def test_what_is_no_checkpoint_is_refused(tmp_path: Path, content: bytes) -> None:
    (tmp_path / CHECKPOINT_FILE).write_bytes(content)
    with pytest.raises(DataError, match="cannot be read as a checkpoint"):
        load_checkpoint(tmp_path / CHECKPOINT_FILE)


def test_a_checkpoint_of_the_next_version_is_refused(tmp_path: Path) -> None:
    text = '{"format": "edgeexit-checkpoint", "version": 2}'
    tensors = {"now/a": torch.zeros(2)}
    metadata = {"edgeexit": text, "sha256": tensor_digest(tensors, text)}
    (tmp_path / "c").write_bytes(safetensors.save(tensors, metadata))
    with pytest.raises(DataError, match="another version"):
        load_checkpoint(tmp_path / "c")


def test_a_truncated_checkpoint_is_refused(tmp_path: Path) -> None:
    path = interrupted(tmp_path) / CHECKPOINT_FILE
    path.write_bytes(path.read_bytes()[:-10])
    with pytest.raises(DataError, match="cannot be read as a checkpoint"):
        load_checkpoint(path)


def test_a_checkpoint_comes_back_as_it_was_written(tmp_path: Path) -> None:
    tensors = {
        "scalar": torch.tensor(3.5),
        "half": torch.randn(3, 2).bfloat16(),
        "turned": torch.randn(2, 3, 4, 4).to(memory_format=torch.channels_last),
        "empty": torch.zeros(0, 3),
    }
    tensors["shared"] = tensors["half"].view(6)
    written = Checkpoint(SETTINGS, {"data": "ü"}, 1, 2, 0.1, {"loss": 0.1 + 0.2}, tensors)
    save_checkpoint(tmp_path / "c", written)
    read = load_checkpoint(tmp_path / "c")
    assert (read.settings, read.about, read.epoch, read.step, read.seconds) == (SETTINGS, {"data": "ü"}, 1, 2, 0.1)
    assert read.numbers == {"loss": 0.1 + 0.2}
    assert all(torch.equal(read.tensors[name], tensor) for name, tensor in tensors.items())
    assert [path.name for path in tmp_path.iterdir()] == ["c"]


def test_a_checkpoint_that_cannot_be_written_is_an_error_of_use(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="cannot be written"):
        save_checkpoint(tmp_path / "missing" / "c", Checkpoint(SETTINGS, {}, 0, 0, 0.0, {}, {}))
    (tmp_path / "file").write_text("")
    with pytest.raises(UsageError, match="cannot be a folder"):
        train(a_network(), *picture_feeds(), SETTINGS, folder=tmp_path / "file", quiet=True)
