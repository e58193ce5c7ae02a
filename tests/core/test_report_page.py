"""The page of a report: one file, safe, whole, and with the figures that were computed."""

from __future__ import annotations

import base64
import hashlib
import html
import re
import sys
from dataclasses import replace
from html.parser import HTMLParser
from typing import Any

import numpy as np
import pytest

from core.evidence import random_evidence
from edgeexit.comparison import Row
from edgeexit.errors import MissingPartError
from edgeexit.reports import words
from edgeexit.reports.content import Comparison, Report, compose
from edgeexit.reports.gallery import choose_pictures
from edgeexit.reports.page import render
from edgeexit.reports.thumbnails import data_address

HOSTILE = '<img src=x onerror="alert(1)">&\'"</style></svg>'
VOID = {"meta", "link", "img", "br", "path", "rect", "circle"}
SECTIONS = ["cost", "exits", "reliability", "agreement", "confusion", "pictures", "savings"]


class Page(HTMLParser):
    """What is in a page: tags with their attributes, text, and whether everything opened was closed."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.text = ""
        self.feed(page)
        self.close()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))

    def handle_endtag(self, tag: str) -> None:
        if tag not in VOID:
            assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.text += data

    def attributes(self, name: str) -> list[str]:
        return [value for _, attributes in self.tags for key, value in attributes.items() if key == name and value]


def report(*, compared: bool = True, pictures: bool = False, name: str = "model.eexit", **how: Any) -> Report:
    manifest, evidence, _ = random_evidence(**how)
    rows = [
        Row(policy, "joint", budget, 0.9 - 0.01 * k - 0.1 * (0.8 - budget), 0.01, budget - 0.01, 0.01, 1, True, "")
        for k, policy in enumerate(["pooled", "max-probability", "entropy", "patience", "vote"])
        for budget in (0.4, 0.6, 0.8)
    ]
    gallery = None
    if pictures:
        chosen = choose_pictures(evidence)
        pixels = np.random.default_rng(0).integers(0, 256, (8, 8, 3), np.uint8)
        gallery = replace(chosen, images={row: data_address(pixels) for row in chosen.rows})
    return compose(
        manifest,
        evidence,
        name=name,
        facts=[("policy", "max-probability")],
        notes=["A note."],
        comparison=Comparison(rows, "Fitted on five samples.", "vote") if compared else None,
        gallery=gallery,
    )


def test_the_page_is_one_file_that_asks_nothing_of_anybody() -> None:
    page = render(report(pictures=True))
    assert not re.search(r"<script|<iframe|<object|<embed|@import|url\(|https?://(?!www\.w3\.org)", page)
    assert all(value.startswith("data:") for value in Page(page).attributes("src"))
    assert all(value.startswith(("#", "data:")) for value in Page(page).attributes("href"))


def test_the_page_forbids_itself_everything_but_its_own_style_and_pictures() -> None:
    page = render(report())
    (policy,) = [a["content"] for tag, a in Page(page).tags if a.get("http-equiv") == "Content-Security-Policy"]
    style = re.search(r"<style>(.*?)</style>", page, re.DOTALL)
    assert style is not None
    digest = base64.b64encode(hashlib.sha256(style[1].encode()).digest()).decode()
    assert policy == f"default-src 'none'; img-src data:; style-src 'sha256-{digest}'"


def test_the_page_needs_no_style_attribute_and_no_handler() -> None:
    for _, attributes in Page(render(report(pictures=True))).tags:
        assert "style" not in attributes
        assert not [name for name in attributes if name.startswith("on")]


def test_every_tag_is_closed_and_every_id_is_used_once() -> None:
    found = Page(render(report(pictures=True)))
    assert found.open == []
    ids = found.attributes("id")
    assert len(ids) == len(set(ids))


def test_every_section_is_there_and_linked() -> None:
    found = Page(render(report(pictures=True)))
    assert [a["id"] for tag, a in found.tags if tag == "section" and "id" in a] == SECTIONS
    assert [value for value in found.attributes("href") if value != "data:,"] == [f"#{name}" for name in SECTIONS]


def test_where_the_samples_are_no_pictures_that_section_is_left_out() -> None:
    page = render(report(pictures=False))
    assert "#pictures" not in page
    assert "<img" not in page


@pytest.mark.parametrize("classes", [3, 40])
def test_names_are_text_whatever_they_are(classes: int) -> None:
    names = [f"{HOSTILE}{i}" for i in range(classes)]
    page = render(report(classes=names, pictures=True, name=HOSTILE, samples=400))
    assert "<img src=x" not in page
    found = Page(page)
    assert found.open == []
    assert HOSTILE in found.text
    assert {a.get("onerror") for _, a in found.tags} == {None}


def test_the_figures_on_the_page_are_those_computed() -> None:
    made = report()
    text = Page(render(made)).text
    for figure in (made.headline.accuracy, made.headline.full_accuracy):
        assert words.percent(figure, 2) in text
    assert words.decimals(made.headline.mean_cost) in text
    for row, honest in zip(made.exits, made.reliabilities, strict=True):
        assert words.percent(row.share) in text
        assert words.percent(row.accuracy) in text
        assert f"ECE {words.percent(honest.error)}" in text
    assert made.savings.text() in html.unescape(text)
    assert words.percent(made.overthinking.share) in text


def test_the_table_of_policies_has_every_figure_and_a_dash_for_a_budget_out_of_reach() -> None:
    manifest, evidence, _ = random_evidence()
    rows = [
        Row("a", "joint", 0.4, 0.8123, 0.0, 0.391, 0.0, 1, True, ""),
        Row("a", "joint", 0.6, 0.8456, 0.0, 0.587, 0.0, 1, True, ""),
        Row("b", "joint", 0.4, None, None, None, None, 1, False, "too small"),
        Row("b", "joint", 0.6, 0.8345, 0.0, 0.575, 0.0, 1, True, ""),
    ]
    page = render(compose(manifest, evidence, name="m", comparison=Comparison(rows, "So.", None)))
    table = page.partition("a dash is a budget")[2].partition("</table>")[0]
    assert re.sub(r"<[^>]+>", " ", table.partition("<tbody>")[2]).split() == [
        *("a", "81.23", "0.391", "84.56", "0.587"),
        *("b", "–", "83.45", "0.575"),
    ]
    assert table.count("<strong>") == 2


def test_where_no_budget_can_be_kept_the_page_says_so() -> None:
    manifest, evidence, _ = random_evidence()
    rows = [Row("a", "joint", 0.1, None, None, None, None, 1, False, "too small")]
    page = render(compose(manifest, evidence, name="m", comparison=Comparison(rows, "So.", None)))
    assert "None of the budgets can be kept" in page


def test_without_a_comparison_only_the_bundle_is_shown() -> None:
    page = render(report(compared=False))
    assert "How far behind the best" not in page
    assert "What a given cost buys" in page


def test_notes_are_on_the_page() -> None:
    assert "A note." in Page(render(report())).text


@pytest.mark.parametrize(
    "how",
    [
        pytest.param({"classes": ["no", "yes"]}, id="two classes"),
        pytest.param({"classes": [f"c{i}" for i in range(30)]}, id="thirty classes"),
        pytest.param({"exits": 2}, id="two exits"),
        pytest.param({"samples": 1}, id="one sample"),
        pytest.param({"thresholds": (0.999999, float("inf"))}, id="nobody leaves early"),
        pytest.param({"thresholds": (0.0, 0.5)}, id="everybody leaves at once"),
        pytest.param({"samples": 30, "thresholds": (0.9705, 0.9)}, id="few at an exit"),
    ],
)
def test_odd_cascades_have_a_page(how: dict[str, Any]) -> None:
    page = render(report(**how, pictures=True))
    assert Page(page).open == []
    assert not re.search(r"\bnan\b|\binf\b|None\b(?! of)", Page(page).text)


def test_many_exits_and_a_thousand_classes_stay_below_three_megabytes() -> None:
    page = render(report(exits=24, classes=[f"class {i}" for i in range(1000)], samples=3000, pictures=True))
    assert len(page.encode()) < 3_000_000
    assert "There are too many classes" in page


def test_equal_evidence_makes_equal_pages() -> None:
    assert render(report(pictures=True)) == render(report(pictures=True))


def test_the_document_has_the_figures() -> None:
    made = report()
    document = made.document()
    assert document["accuracy"] == made.headline.accuracy
    assert [row["name"] for row in document["exits"]] == list(made.evidence.names)
    assert sum(sum(row["who_is_right"].values()) for row in document["exits"]) == made.headline.samples
    assert document["savings"]["mean_macs"] == made.savings.mean_macs


def test_without_jinja_the_error_names_the_package(monkeypatch: pytest.MonkeyPatch) -> None:
    made = report()
    monkeypatch.setitem(sys.modules, "jinja2", None)
    with pytest.raises(MissingPartError, match=re.escape("edgeexit-runtime[report]")):
        render(made)


def test_the_style_sheet_has_a_rule_for_every_class_of_the_charts() -> None:
    page = render(report(pictures=True))
    style = page.partition("<style>")[2].partition("</style>")[0]
    used = {
        css
        for tag, attributes in Page(page).tags
        if tag in {"path", "rect", "circle", "text"}
        for css in (attributes.get("class") or "").split()
    }
    unknown = {css for css in used if not re.search(rf"\.{css}\b", style)}
    assert unknown == set()
