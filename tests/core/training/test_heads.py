from __future__ import annotations

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from edgeexit.errors import UsageError

torch = pytest.importorskip("torch", reason="heads are torch modules")

from core.training.networks import numbers  # noqa: E402 (needs torch)
from edgeexit.training.heads import HeadSpec, build_head, head_macs  # noqa: E402 (needs torch)

MAPS = (6, 12, 12)
CASES = [
    ("linear", MAPS, True),
    ("linear/8,6@grid=2,dropout=0.5", MAPS, True),
    ("mixed@grid=3", MAPS, True),
    ("conv", MAPS, True),
    ("conv:4,8/16@kernel=5,stride=1", (3, 9, 40), True),
    ("conv", (4, 1, 1), True),
    ("linear", (12, 12, 6), False),
    ("auto", (5, 30), True),
    ("conv", (5, 30), True),
    ("auto", (3, 4, 6, 6), True),
    ("token", (7, 12), False),
    ("token/8@tokens=mean", (7, 12), False),
    ("linear", (20,), True),
]
specs = st.builds(
    HeadSpec,
    kind=st.sampled_from(["auto", "linear", "mixed", "token"]),
    grid=st.integers(0, 8),
    kernel=st.integers(1, 7),
    stride=st.integers(1, 4),
    hidden=st.lists(st.integers(1, 512), max_size=2).map(tuple),
    tokens=st.sampled_from(["first", "mean"]),
    dropout=st.floats(0, 0.9),
)
convolutions = st.lists(st.integers(1, 128), max_size=2).map(tuple)


@given(specs, convolutions, st.sampled_from(["channels", "multiples"]))
def test_a_spec_is_read_back_from_its_text(spec: HeadSpec, widths: tuple[int, ...], word: str) -> None:
    if widths:
        spec = msgspec.structs.replace(spec, kind="conv", **{word: widths})
    assert HeadSpec.parse(str(spec)) == spec


@pytest.mark.parametrize(
    ("text", "spec"),
    [
        ("conv:32,64/128", HeadSpec(kind="conv", channels=(32, 64), hidden=(128,))),
        ("conv:2x,4x/128", HeadSpec(kind="conv", multiples=(2, 4), hidden=(128,))),
        ("token@tokens=mean", HeadSpec(kind="token", tokens="mean")),
        ("linear/64,32@grid=2,dropout=0.1", HeadSpec(kind="linear", grid=2, hidden=(64, 32), dropout=0.1)),
    ],
)
def test_the_text_form_names_channels_hidden_layers_and_options(text: str, spec: HeadSpec) -> None:
    assert HeadSpec.parse(text) == spec


@pytest.mark.parametrize(
    "text",
    ["", "dense", "linear:8", "linear:2x", "conv:1,2,3", "conv:-4", "conv:2x,32", "conv:x", "conv:0x",
     "conv:1x,2x,3x", "linear/x", "linear@grid", "linear@size=3", "linear@grid=-1", "linear@grid=1,grid=2",
     "conv@kernel=0", "linear@dropout=1", "token@tokens=last", "linear/0"],
)  # fmt: skip
def test_a_description_that_makes_no_sense_is_refused(text: str) -> None:
    with pytest.raises(UsageError):
        HeadSpec.parse(text)


@pytest.mark.parametrize(
    ("kind", "shape", "channels_first"),
    [("token", MAPS, True), ("conv", (7, 12), False), ("mixed", (20,), True), ("auto", (1, 2, 3, 4, 5), True)],
)
def test_a_kind_that_cannot_read_an_activation_is_refused(
    kind: str, shape: tuple[int, ...], channels_first: bool
) -> None:
    with pytest.raises(UsageError, match="cannot read such activations"):
        build_head(HeadSpec.parse(kind), shape, 4, channels_first=channels_first)


@pytest.mark.parametrize(
    ("shape", "channels_first", "channels"),
    [((12, 9, 9), True, (24, 36)), ((9, 9, 5), False, (10, 15)), ((6, 20), True, (12, 18))],
)
def test_multiples_count_from_the_channels_of_the_activation(
    shape: tuple[int, ...], channels_first: bool, channels: tuple[int, ...]
) -> None:
    stated = HeadSpec(kind="conv", channels=channels).sized(shape, 4, channels_first=channels_first)
    assert HeadSpec.parse("conv:2x,3x").sized(shape, 4, channels_first=channels_first) == stated


def test_channels_are_stated_one_way() -> None:
    with pytest.raises(UsageError, match="cannot be built"):
        HeadSpec(kind="conv", channels=(8,), multiples=(2,))


def test_one_class_is_nothing_to_tell_apart() -> None:
    with pytest.raises(UsageError, match="classes"):
        build_head(HeadSpec(), MAPS, 1)


@pytest.mark.parametrize(("text", "shape", "channels_first"), CASES)
def test_a_sample_has_the_same_logits_alone_and_in_a_batch(
    text: str, shape: tuple[int, ...], channels_first: bool
) -> None:
    head = build_head(HeadSpec.parse(text), shape, 4, channels_first=channels_first, seed=1)
    head.train()(numbers(8, *shape, seed=2))  # moves the running statistics
    batch = numbers(5, *shape)
    together = head.eval()(batch)
    alone = torch.cat([head(row[None]) for row in batch])
    assert together.shape == (5, 4)
    torch.testing.assert_close(together, alone)


@pytest.mark.parametrize("kind", [torch.float16, torch.bfloat16, torch.float64])
def test_activations_of_any_floating_type_give_float32_logits(kind: torch.dtype) -> None:
    for text, shape, channels_first in CASES:
        head = build_head(HeadSpec.parse(text), shape, 4, channels_first=channels_first).eval()
        assert head.body(numbers(2, *shape).to(kind)).dtype == torch.float32
        assert head(numbers(2, *shape).to(kind)).dtype == torch.float32


@pytest.mark.parametrize(("text", "shape", "channels_first"), CASES)
def test_mixed_precision_gives_float32_logits_and_gradients_that_are_nearly_the_same(
    text: str, shape: tuple[int, ...], channels_first: bool
) -> None:
    head = build_head(HeadSpec.parse(text), shape, 4, channels_first=channels_first, seed=1).train()
    batch = numbers(6, *shape)
    for layer in head.modules():
        if isinstance(layer, torch.nn.Dropout):
            layer.p = 0.0
    found = []
    for mixed in (False, True):
        head.zero_grad()
        with torch.autocast("cpu", torch.bfloat16, enabled=mixed):
            logits = head(batch)
        logits.square().sum().backward()
        found.append((logits.detach(), head.classifier.weight.grad.clone()))
    (logits, gradient), (mixed_logits, mixed_gradient) = found
    assert mixed_logits.dtype == mixed_gradient.dtype == torch.float32
    for value, mixed_value in ((logits, mixed_logits), (gradient, mixed_gradient)):
        torch.testing.assert_close(mixed_value, value, rtol=0.05, atol=0.05 * float(value.abs().max()))


def test_maps_that_autocast_made_small_reach_the_convolutions_as_they_are() -> None:
    head = build_head(HeadSpec.parse("conv:8,8"), MAPS, 4, seed=1)
    seen = []
    head.body.convolutions.register_forward_pre_hook(lambda _, given: seen.append(given[0].dtype))
    with torch.autocast("cpu", torch.bfloat16):
        head(numbers(4, *MAPS).bfloat16())
        head(numbers(4, *MAPS))
    head(numbers(4, *MAPS).bfloat16())
    assert seen == [torch.bfloat16, torch.float32, torch.float32]


def test_a_head_in_double_precision_still_gives_float32_logits() -> None:
    head = build_head(HeadSpec(), MAPS, 4).double().eval()
    assert head(numbers(2, *MAPS)).dtype == torch.float32


@given(
    specs,
    st.tuples(st.integers(1, 300), st.integers(1, 40), st.integers(1, 40)),
    st.integers(2, 2000),
    st.booleans(),
)
def test_a_sized_spec_stays_as_it_is(spec: HeadSpec, shape: tuple[int, ...], classes: int, conv: bool) -> None:
    spec = msgspec.structs.replace(spec, kind="conv" if conv else "mixed" if spec.kind == "mixed" else "linear")
    sized = spec.sized(shape, classes)
    assert sized.grid >= 1
    assert bool(sized.channels) == conv
    assert sized.sized(shape, classes) == sized
    assert sized.hidden == spec.hidden


@pytest.mark.parametrize("shape", [(64, 56, 56), (256, 56, 56), (512, 28, 28), (2048, 7, 7)])
def test_a_convolution_of_open_width_stays_cheap_on_large_maps(shape: tuple[int, ...]) -> None:
    assert head_macs(build_head(HeadSpec(kind="conv"), shape, 10), shape) < 20_000_000


def test_linear_heads_on_a_resnets_maps_have_as_many_features_as_fitted_ones_may() -> None:
    for shape in [(16, 32, 32), (32, 16, 16), (64, 8, 8)]:
        assert 1000 <= build_head(HeadSpec(), shape, 10).body.length <= 1536


def test_macs_are_those_of_convolutions_and_linear_layers() -> None:
    head = build_head(HeadSpec.parse("conv:4/7@grid=2"), (3, 8, 8), 5).train()
    convolution = 4 * (4 * 4) * (3 * 9)
    assert head_macs(head, (3, 8, 8)) == convolution + (4 * 2 * 2) * 7 + 7 * 5
    assert head.training
    assert not any(part._forward_hooks for part in head.modules())


def test_the_mean_token_leaves_masked_tokens_out() -> None:
    head = build_head(HeadSpec.parse("token@tokens=mean"), (6, 8), 3, channels_first=False).eval()
    tokens, mask = numbers(2, 6, 8), torch.tensor([[1, 1, 1, 0, 0, 0], [1, 1, 1, 1, 1, 1]])
    noisy = torch.where(mask[:, :, None] > 0, tokens, torch.full_like(tokens, 99.0))
    torch.testing.assert_close(head(noisy, mask), head(tokens, mask))
    torch.testing.assert_close(head(tokens, mask)[0], head(tokens[:1, :3])[0])
    assert not torch.allclose(head(noisy), head(tokens))


def test_mixed_pooling_goes_from_the_average_to_the_maximum() -> None:
    body = build_head(HeadSpec.parse("mixed@grid=1"), MAPS, 3).eval().body
    maps = numbers(4, *MAPS)
    for alpha, pooled in [(50.0, maps.amax((2, 3))), (-50.0, maps.mean((2, 3)))]:
        torch.nn.init.constant_(body.alpha, alpha)
        torch.testing.assert_close(body.read(maps, None), pooled)


def test_weights_follow_from_the_seed_and_leave_torchs_random_state_alone() -> None:
    state = torch.get_rng_state()
    one, same, other = (build_head(HeadSpec(kind="conv"), MAPS, 3, seed=seed) for seed in (4, 4, 5))
    assert torch.equal(torch.get_rng_state(), state)
    for (name, a), b, c in zip(one.named_parameters(), same.parameters(), other.parameters(), strict=True):
        assert torch.equal(a, b)
        assert "weight" not in name or a.dim() == 1 or not torch.equal(a, c)


@pytest.mark.parametrize(("text", "shape", "channels_first"), CASES)
def test_a_lone_row_in_training_is_no_error_and_leaves_numbers_finite(
    text: str, shape: tuple[int, ...], channels_first: bool
) -> None:
    head = build_head(HeadSpec.parse(text), shape, 4, channels_first=channels_first).train()
    head(numbers(1, *shape)).sum().backward()
    assert all(torch.isfinite(p.grad).all() for p in head.parameters())


@pytest.mark.parametrize("text", ["linear", "mixed", "conv"])
def test_a_head_learns_from_raw_activations_of_any_scale(text: str) -> None:
    labels = torch.arange(64) % 4
    corners = torch.eye(4)[labels].reshape(64, 1, 2, 2).repeat_interleave(4, 2).repeat_interleave(4, 3)
    maps = 1000 * (corners + 0.5 * numbers(64, 3, 8, 8)) + 500
    head = build_head(HeadSpec.parse(text), (3, 8, 8), 4, seed=0).train()
    optimiser = torch.optim.AdamW(head.parameters(), lr=0.02)
    for _ in range(30):
        optimiser.zero_grad()
        torch.nn.functional.cross_entropy(head(maps), labels).backward()
        optimiser.step()
    assert (head.eval()(maps).argmax(1) == labels).float().mean() > 0.9


def test_a_feature_that_was_constant_in_training_does_not_drown_the_others() -> None:
    body = build_head(HeadSpec(), (4,), 3).body.train()
    rows = numbers(64, 4)
    rows[:, 0] = 0.0
    for _ in range(50):
        body(rows)
    assert body.eval()(torch.ones(1, 4)).abs().max() < 40


def test_all_kinds_export_to_onnx_with_a_free_batch_axis() -> None:
    onnxruntime = pytest.importorskip("onnxruntime", reason="runs the exported heads")
    pytest.importorskip("onnxscript", reason="torch exports to ONNX with it")

    class Heads(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            texts = ("linear", "mixed/8", "conv", "conv:4,8/16@dropout=0.5")
            self.on_maps = torch.nn.ModuleList(build_head(HeadSpec.parse(text), MAPS, 4, seed=0) for text in texts)
            texts = ("token", "token/8@tokens=mean")
            self.on_tokens = torch.nn.ModuleList(
                build_head(HeadSpec.parse(text), (7, 12), 4, channels_first=False, seed=0) for text in texts
            )

        def forward(self, maps: torch.Tensor, tokens: torch.Tensor, mask: torch.Tensor) -> tuple[torch.Tensor, ...]:
            return (*(head(maps) for head in self.on_maps), *(head(tokens, mask) for head in self.on_tokens))

    heads = Heads().eval()
    inputs = (numbers(3, *MAPS), numbers(3, 7, 12), (numbers(3, 7) > 0).long())
    batch = torch.export.Dim("batch", min=1, max=4096)
    program = torch.onnx.export(
        heads, inputs, None, dynamo=True, opset_version=18, external_data=False, verbose=False,
        dynamic_shapes=tuple({0: batch} for _ in inputs),
    )  # fmt: skip
    session = onnxruntime.InferenceSession(program.model_proto.SerializeToString())
    for rows in (1, 3):
        feeds = {put.name: value[:rows].numpy() for put, value in zip(session.get_inputs(), inputs, strict=True)}
        expected = heads(*(value[:rows] for value in inputs))
        for got, logits in zip(session.run(None, feeds), expected, strict=True):
            torch.testing.assert_close(torch.from_numpy(got), logits, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(
    "text",
    ["conv:65537", "linear/65537", "conv:8@kernel=64", "conv:8@stride=64", "linear@grid=257", f"linear/{10**30}"],
)
def test_sizes_that_no_head_has_are_refused(text: str) -> None:
    with pytest.raises(UsageError, match="head"):
        HeadSpec.parse(text)


def test_sizes_in_lists_are_as_in_tuples() -> None:
    assert hash(HeadSpec(kind="conv", channels=[4], hidden=[8])) == hash(HeadSpec.parse("conv:4/8"))  # type: ignore[arg-type]
