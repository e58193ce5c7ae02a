"""The page: one HTML file with its styles, charts and pictures inside, that asks nothing of any server."""

from __future__ import annotations

import base64
import hashlib
from importlib import resources
from typing import TYPE_CHECKING, Any

import numpy as np

from edgeexit import __version__
from edgeexit.errors import MissingPartError
from edgeexit.reports import words
from edgeexit.reports.charts.curves import NARROW, WIDE, behind_chart, colour, cost_chart
from edgeexit.reports.charts.heatmap import SHADES, heatmap
from edgeexit.reports.charts.hits import hits_chart
from edgeexit.reports.charts.reliability import reliability_chart
from edgeexit.reports.charts.scatter import score_scatter
from edgeexit.reports.confusion import Confusion
from edgeexit.reports.content import MOST_CLASSES, Report
from edgeexit.reports.headline import reading

if TYPE_CHECKING:
    from jinja2 import Environment

__all__ = ["check_parts", "render"]

_PACKAGE = "edgeexit-runtime[report]"


def check_parts() -> None:
    """Refuse to begin without what a page is made with.

    Raises:
        MissingPartError: Jinja is not installed.
    """
    _environment()


def render(report: Report) -> str:
    """The page of a report.

    Raises:
        MissingPartError: Jinja is not installed.
    """
    environment = _environment()
    style = (resources.files(__package__) / "templates" / "page.css").read_text("utf-8")
    digest = base64.b64encode(hashlib.sha256(style.encode()).digest()).decode("ascii")
    return environment.get_template("page.html.jinja").render(
        report=report,
        reading=reading(report.headline, report.exits),
        style=_safe(style),
        policy=f"default-src 'none'; img-src data:; style-src 'sha256-{digest}'",
        charts=_charts(report),
        colour=colour,
        most_classes=MOST_CLASSES,
        shades=range(1, SHADES + 1),
        version=__version__,
    )


def _environment() -> Environment:
    try:
        from jinja2 import Environment, PackageLoader, StrictUndefined
    except ModuleNotFoundError as error:
        raise MissingPartError.package("a report", _PACKAGE) from error
    environment = Environment(
        loader=PackageLoader("edgeexit.reports"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    for word in (words.percent, words.points, words.decimals, words.count, words.threshold):
        environment.filters[word.__name__] = word
    return environment


def _charts(report: Report) -> dict[str, Any]:
    """Every chart as markup that is not escaped again."""
    evidence = report.evidence
    each = range(evidence.exits)
    compared = bool(report.tradeoff.curves)
    return {
        "cost": [(size, _safe(cost_chart(report.tradeoff, box))) for size, box in (("wide", WIDE), ("narrow", NARROW))],
        "behind": [
            (size, _safe(behind_chart(report.tradeoff, box))) for size, box in (("wide", WIDE), ("narrow", NARROW))
        ]
        if compared
        else [],
        "scatter": [_safe(score_scatter(evidence, k, report.drawn)) for k in each],
        "reliability": [
            _safe(reliability_chart(name, found))
            for name, found in zip(evidence.names, report.reliabilities, strict=True)
        ],
        "hits": [_safe(hits_chart(report.hits[k], _asked(report, k))) for k in each],
        "confusion": [(found, _heatmap(report, found)) for found in report.confusions],
        "confusion_all": [(found, _heatmap(report, found)) for found in report.confusions_all],
    }


def _asked(report: Report, exit_index: int) -> float | None:
    """The confidence that an exit asks for, where its score is one."""
    limit = report.evidence.thresholds[exit_index]
    score, probability = report.evidence.judgement.score[exit_index], report.evidence.judgement.probability[exit_index]
    return limit if np.isfinite(limit) and np.array_equal(score, probability) else None


def _heatmap(report: Report, found: Confusion) -> str | None:
    if found.matrix is None or not found.samples:
        return None
    return _safe(heatmap(found.matrix, report.evidence.classes, found.name))


def _safe(markup: str) -> str:
    from markupsafe import Markup

    return Markup(markup)  # made by us, with every name in it escaped
