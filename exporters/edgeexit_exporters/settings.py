"""What a user may choose about an export."""

from __future__ import annotations

from dataclasses import dataclass

from edgeexit.errors import UsageError
from edgeexit.policies import POLICIES
from edgeexit_exporters.heads import KINDS, HeadSettings
from edgeexit_exporters.precision import parse_precision
from edgeexit_exporters.selection import PLACEMENTS

__all__ = ["ExportSettings"]


@dataclass(frozen=True)
class ExportSettings:
    """What a user may choose.

    Attributes:
        exits: "auto", a number, tensor names separated by commas, or None: only its own exits for a
            multi-exit model, else "auto".
        head: See `HeadSettings`; None: the heads that the source brings, else what `HeadSettings` has by default.
        max_drop: Allowed loss of accuracy against the whole model, as a fraction of all samples.
        labels: "data", or "model" for the whole model's own answers.
        mean, std: Normalisation to put into segment 0, one value a channel.
        resize: "exact" or "crop"; None: as in the training run, else "exact".
        size: Height and width of pictures, for models that take any.
        policy: A name of `edgeexit.policies.POLICIES`, or "auto": that with the least cost on the calibration split.
        placement: How "auto" chooses exits: "gain" by what each saves in the cascade with all thresholds
            fitted anew, "selfxit" by SelfXit's tolerances and subset score.
        min_gain: With "auto" and "gain", the share of the whole model's MACs that an exit must save to stay.
        check_macs: With "auto", what a check is charged beyond the MACs of its head, in MACs that take as long;
            see `edgeexit_exporters.selection.check_macs` for what None stands for.
        precision: "fp32" (the model's own), "fp16" or "int8", or one for each segment, separated by commas.
        symmetric: int8 as TensorRT wants it rather than processors.
        seed: Order of the samples, and the split that is held out.
        threads: Threads of ONNX Runtime; 0 takes all cores.
        quiet: Show no progress.
    """

    exits: str | None = None
    head: HeadSettings | None = None
    max_drop: float = 0.01
    labels: str = "data"
    mean: tuple[float, ...] | None = None
    std: tuple[float, ...] | None = None
    resize: str | None = None
    size: tuple[int, int] | None = None
    policy: str = "auto"
    placement: str = "gain"
    min_gain: float = 0.0
    check_macs: float | None = None
    precision: str = "fp32"
    symmetric: bool = False
    seed: int = 0
    threads: int = 0
    quiet: bool = False

    @property
    def heads(self) -> HeadSettings:
        """The choice of heads, whether or not it was made."""
        return self.head or HeadSettings()

    def __post_init__(self) -> None:
        """Refuse values that cannot be meant.

        Raises:
            UsageError: A value is outside its range.
        """
        if not 0 <= self.max_drop < 1:
            raise UsageError(
                "--max-drop is a share of all samples", got=self.max_drop, expected="0 ≤ D < 1, such as 0.01"
            )
        if (self.mean is None) != (self.std is None):
            raise UsageError("--mean and --std go together", expected="both or neither")
        if self.heads.kind not in KINDS:
            raise UsageError("no such head", got=self.heads.kind, expected=" or ".join(KINDS))
        if self.policy != "auto" and self.policy not in POLICIES:
            raise UsageError("no such policy", got=self.policy, expected=" or ".join(["auto", *POLICIES]))
        if self.placement not in PLACEMENTS:
            raise UsageError("no such placement", got=self.placement, expected=" or ".join(PLACEMENTS))
        if self.labels not in ("data", "model"):
            raise UsageError("no such labels", got=self.labels, expected="data or model")
        parse_precision(self.precision)
