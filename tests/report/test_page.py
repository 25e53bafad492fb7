"""The report's page as a text: what it says and what it must never hold."""

from __future__ import annotations

import base64
import hashlib
import re
from dataclasses import replace
from html.parser import HTMLParser
from itertools import pairwise

import pytest

from sls_deploy.report.compare import compare_reports
from sls_deploy.report.comparison_page import render_comparison
from sls_deploy.report.page import render_report
from sls_deploy.report.schema import History, RunReport
from sls_deploy.validate.figures import Validation
from tests.report.sample import HOSTILE, sample_images, sample_report

REPORT = sample_report((0.5, 0.125), layers=20)
Attributes = dict[str, str | None]


class Reader(HTMLParser):
    """The elements of a page with their attributes, and its text."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.elements: list[tuple[str, Attributes]] = []
        self.text: dict[str, list[str]] = {}
        self._open = ""
        self.feed(page)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, dict(attrs)))
        self._open = tag

    def handle_data(self, data: str) -> None:
        self.text.setdefault(self._open, []).append(data)

    def all(self, tag: str) -> list[Attributes]:
        return [attributes for name, attributes in self.elements if name == tag]


@pytest.fixture(scope="module")
def page() -> str:
    return render_report(REPORT, sample_images(REPORT))


@pytest.fixture(scope="module")
def compared() -> str:
    other = replace(sample_report((0.5, 0.25), layers=20), run="runs/<b>other</b>")
    return render_comparison(compare_reports(REPORT, other))


@pytest.fixture(params=["page", "compared"])
def either(request: pytest.FixtureRequest) -> str:
    return str(request.getfixturevalue(request.param))


def _words(page: str) -> str:
    """What is to be read, on one line."""
    body = re.sub(r"<(style|script|svg)\b.*?</\1>", " ", page, flags=re.DOTALL)
    return " ".join(re.sub(r"<[^>]*>", " ", body).replace("&#39;", "'").split())


def _one_folder(change: dict[str, object]) -> RunReport:
    """The report of one budget, measured on one folder, with something else about it."""
    budget = REPORT.budgets[0]
    validation: Validation = replace(budget.validations[0], crops=(), **change)
    return replace(REPORT, budgets=(replace(budget, validations=(validation,)),))


def test_the_page_loads_nothing(either: str) -> None:
    reader = Reader(either)
    sources = [value for _, one in reader.elements for key, value in one.items() if key == "src"]
    assert all(str(source).startswith("data:image/png;base64,") for source in sources)
    links = [value for _, one in reader.elements for key, value in one.items() if "href" in key]
    assert all(str(link).startswith("#") for link in links)
    assert not reader.all("link")
    assert set(re.findall(r"https?://[^\"' ]+", either)) == {"http://www.w3.org/2000/svg"}


def test_the_policy_lets_only_its_own_script_and_style_through(either: str) -> None:
    policy = next(one["content"] for one in Reader(either).all("meta") if "http-equiv" in one)
    for tag in ("script", "style"):
        (text,) = re.findall(rf"<{tag}>(.*?)</{tag}>", either, flags=re.DOTALL)
        digest = base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()
        assert f"{tag}-src 'sha256-{digest}'" in str(policy)
    assert str(policy).startswith("default-src 'none'; img-src data:;")


def test_no_element_has_a_style_or_a_handler_of_its_own(either: str) -> None:
    names = {name for _, one in Reader(either).elements for name in one}
    assert not {name for name in names if name == "style" or name.startswith("on")}


def test_text_from_files_stays_text(page: str, compared: str) -> None:
    assert HOSTILE not in page
    assert len(Reader(page).all("script")) == len(Reader(compared).all("script")) == 1
    assert "&lt;script&gt;document.title" in page
    assert "<b>other" not in compared


def test_headings_go_down_one_level_at_a_time(either: str) -> None:
    levels = [int(tag[1]) for tag, _ in Reader(either).elements if re.fullmatch(r"h[1-6]", tag)]
    assert levels[0] == 1
    assert levels.count(1) == 1
    assert all(after <= before + 1 for before, after in pairwise(levels))


def test_every_id_is_one_of_a_kind_and_every_reference_finds_it(either: str) -> None:
    elements = Reader(either).elements
    ids = [one["id"] for _, one in elements if "id" in one]
    assert len(ids) == len(set(ids))
    named = [str(one["aria-labelledby"]).split() for _, one in elements if "aria-labelledby" in one]
    targets = [str(one["href"])[1:] for tag, one in elements if tag == "a"]
    assert {*targets, *(one for names in named for one in names)} <= set(ids)


def test_every_picture_has_words(either: str) -> None:
    reader = Reader(either)
    assert all("alt" in one for one in reader.all("img"))
    for one in reader.all("svg"):
        assert one.get("aria-hidden") == "true" or one.get("aria-labelledby")


def test_every_table_has_a_caption_and_its_heads_a_scope(either: str) -> None:
    reader = Reader(either)
    assert len(reader.all("table")) == len(reader.all("caption"))
    assert all("scope" in one for one in reader.all("th"))


def test_the_verdict_and_every_budget_stand_on_top(page: str) -> None:
    top = _words(page.partition('id="gates"')[0])
    assert REPORT.verdict in top
    for told in ("Budget 0.5", "0.021 dB lost", "95 %: 0.018 to 0.024", "82.7 % saved"):
        assert told in top
    assert "L1 : these weights are in the engine, byte for byte" in top


def test_a_card_never_shows_more_evidence_than_there_is(page: str) -> None:
    top = page.partition('id="gates"')[0]
    assert top.count('<span class="reached">L1</span>') == 2
    assert '<span class="reached">L2</span>' not in top


def test_a_gate_that_failed_names_its_culprit(page: str) -> None:
    words = _words(page)
    assert "Loss on B100 , limit 0.3 dB: sparse PyTorch 0.541;" in words
    assert "Cause: pruning . Picture: 12055.png. Layer: block_1.c3_r ." in words


def test_what_did_not_run_says_why(page: str) -> None:
    assert "TensorRT sm86-int8 not run: it was built from another export" in _words(page)
    assert "not run: no NVIDIA GPU is visible" in _words(page)


def test_every_dense_layer_has_its_reason(page: str) -> None:
    for row in REPORT.budgets[0].layers:
        if row.reason:
            assert re.search(rf'<th scope="row">{re.escape(row.name)}</th>.*{row.reason}', page)


def test_commands_versions_and_hashes_are_there(page: str) -> None:
    for told in (*REPORT.commands, REPORT.network.sha256, "2.13.0"):
        assert told in page


def test_three_budgets_on_two_folders_stay_below_6_mb() -> None:
    whole = sample_report()
    assert len(render_report(whole, sample_images(whole)).encode()) < 6e6


def test_the_same_report_makes_the_same_page(page: str) -> None:
    assert render_report(REPORT, sample_images(REPORT)) == page


def test_a_run_that_was_only_searched_has_a_page() -> None:
    bare = replace(
        REPORT.budgets[0],
        validations=(),
        engines=(),
        benches=(),
        competitors=(),
        level="none",
        history=History((), 4, ()),
    )
    report = replace(REPORT, budgets=(bare,), curves=(), passed=None, verdict="Not validated yet.")
    words = _words(render_report(report, {}))
    for told in ("Not validated yet", "held-out crops", "No engine was built", "Nothing was timed"):
        assert told in words


def test_a_run_without_budgets_has_a_page() -> None:
    bare = replace(REPORT, budgets=(), curves=(), passed=None, done=(), commands=())
    assert "<h1" in render_report(bare, {})


def test_without_truth_fidelity_is_told_instead() -> None:
    stages = tuple(
        replace(
            stage,
            quality=None,
            pictures=tuple(replace(picture, quality=None) for picture in stage.pictures),
        )
        for stage in REPORT.budgets[0].validations[0].stages
    )
    report = _one_folder({"stages": stages, "losses": (), "totals": ()})
    top = _words(render_report(report, {}).partition('id="gates"')[0])
    assert "Set5, no truth 36.40 dB to dense" in top


def test_one_picture_has_no_interval() -> None:
    totals = tuple(
        replace(one, low_db=None, high_db=None) for one in REPORT.budgets[0].validations[0].totals
    )
    assert "one picture, no interval" in _words(render_report(_one_folder({"totals": totals}), {}))


def test_a_gain_is_not_called_a_loss() -> None:
    totals = tuple(replace(one, mean_db=-0.0123) for one in REPORT.budgets[0].validations[0].totals)
    assert "0.012 dB gained" in _words(render_report(_one_folder({"totals": totals}), {}))


def test_a_comparison_tells_the_gain_and_what_differs(compared: str) -> None:
    words = _words(compared)
    assert "budget 0.125: only rlfn has it" in words
    assert "Comparison of two runs" in words
