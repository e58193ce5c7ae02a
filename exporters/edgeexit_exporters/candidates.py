"""The heads of all candidate exits: fitted in one pass, trained, or brought along by the source."""

from __future__ import annotations

from collections.abc import Sequence

from edgeexit.data import Dataset
from edgeexit.errors import UsageError
from edgeexit_exporters.analysis import Analysis
from edgeexit_exporters.attached import attached_cuts
from edgeexit_exporters.cuts import Cut
from edgeexit_exporters.exits import MAX_CANDIDATES, choose_cuts, place
from edgeexit_exporters.fit import CachedLogits, FeatureModel, Reader, cache_logits, fit_heads
from edgeexit_exporters.heads import HEADS, Head
from edgeexit_exporters.loading import Prepared
from edgeexit_exporters.settings import ExportSettings
from edgeexit_exporters.training import MAX_CANDIDATES as MAX_TRAINED
from edgeexit_exporters.training import opset, reading_check, train_exits

__all__ = ["candidate_cuts", "fit_candidates", "wanted_exits"]


def wanted_exits(prepared: Prepared, settings: ExportSettings) -> str:
    """What `--exits` asks for, or stands for where it is left out.

    Raises:
        UsageError: Heads are described, and no exit is to get one.
    """
    own = len(prepared.analysis.own)
    brings_exits = own > max(1, len(prepared.analysis.stages))
    wanted = settings.exits if settings.exits is not None else "0" if brings_exits else "auto"
    if wanted == "0" and own > 1 and settings.head is not None:
        raise UsageError(
            "no exit is to get such heads: the models' own logits are used as they are",
            got=f"options for {settings.head.kind} heads, " + ("no --exits" if settings.exits is None else "--exits 0"),
            expected="--exits auto, a number or names, for exits beside those that are there",
        )
    return wanted


def candidate_cuts(prepared: Prepared, settings: ExportSettings) -> tuple[Cut, ...]:
    """Where the graph is cut and gets a head; measuring may leave some of them out.

    Raises:
        UsageError, ModelError: See `edgeexit_exporters.exits.choose_cuts`.
    """
    analysis = prepared.analysis
    wanted = wanted_exits(prepared, settings)
    if wanted == "0" and len(analysis.own) == 1:
        raise UsageError(
            "a plain classifier needs at least one exit", got="--exits 0", expected="auto, a number, or names"
        )
    if prepared.attached:
        return attached_cuts(analysis, prepared.attached, wanted)
    trained = settings.heads.kind == "trained" and wanted != "0"
    return choose_cuts(
        analysis.graph,
        analysis.infos,
        analysis.macs,
        analysis.stages,
        wanted,
        most=MAX_TRAINED if trained else MAX_CANDIDATES,
        check=reading_check(analysis, settings) if trained else None,
    )


def fit_candidates(
    prepared: Prepared, cuts: Sequence[Cut], fitting: Dataset, held: Dataset, settings: ExportSettings
) -> tuple[tuple[Cut, ...], CachedLogits]:
    """Get a head for each cut, and all exits' logits on the calibration split.

    Returns:
        The cuts that got a head that is of use, and the logits.
    """
    analysis = prepared.analysis
    common = {"use_model_labels": settings.labels == "model", "quiet": settings.quiet}
    heads: Sequence[Head] = ()
    if cuts and prepared.attached:
        heads = _attached(prepared, cuts)
    elif cuts and settings.heads.kind == "trained":
        cuts, heads = train_exits(analysis, cuts, fitting, settings)
    elif cuts:
        build = HEADS[settings.heads.kind]
        fitters = [build(place(analysis.graph, analysis.infos, cut), analysis.classes, settings.heads) for cut in cuts]
        fitted = _model(analysis, fitters, settings)
        variants = fit_heads(fitted, fitters, fitting, seed=settings.seed, **common)
        return tuple(cuts), cache_logits(fitted, variants, held, analysis.classes, seed=settings.seed + 1, **common)
    model = _model(analysis, heads, settings)
    single = [[head] for head in heads]
    return tuple(cuts), cache_logits(model, single, held, analysis.classes, seed=settings.seed + 1, **common)


def _model(analysis: Analysis, readers: Sequence[Reader], settings: ExportSettings) -> FeatureModel:
    return FeatureModel(analysis.graph, readers, [own.tensor for own in analysis.own], threads=settings.threads)


def _attached(prepared: Prepared, cuts: Sequence[Cut]) -> list[Head]:
    """The heads that the source brings, as nodes behind their tensors."""
    from edgeexit_exporters.heads.trained import trained_head

    analysis = prepared.analysis
    heads = {entry.tensor: entry.head for entry in prepared.attached}
    number = opset(analysis)
    return [
        trained_head(heads[cut.after], place(analysis.graph, analysis.infos, cut), analysis.infos, number)
        for cut in cuts
    ]
