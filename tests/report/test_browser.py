"""The pages as a person meets them: in a real browser, from disk."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from sls_deploy.report.compare import compare_reports
from sls_deploy.report.comparison_page import render_comparison
from sls_deploy.report.page import render_report
from tests.report.browser import open_browser, opened
from tests.report.sample import sample_images, sample_report

if TYPE_CHECKING:
    from playwright.sync_api import Browser, Page

pytestmark = pytest.mark.browser
_PICTURE = ".compare:visible >> nth=0"
_COLOURS = """() => [...document.querySelectorAll(
  'p, li, td, th, h1, h2, h3, h4, dt, dd, a, summary, figcaption, caption, button, select, code, .n'
)].filter(one => one.checkVisibility() && one.textContent.trim()).map(one => {
  let behind = one;
  const opaque = colour => !/rgba\\(.*, 0\\)|transparent/.test(colour);
  while (behind.parentElement && !opaque(getComputedStyle(behind).backgroundColor))
    behind = behind.parentElement;
  return [getComputedStyle(one).color, getComputedStyle(behind).backgroundColor];
})"""


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    with open_browser() as found:
        yield found


@pytest.fixture(scope="module")
def report(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The page of a run with everything that a run can have."""
    shown = sample_report((0.5, 0.125), layers=12)
    file = tmp_path_factory.mktemp("page") / "report.html"
    file.write_text(render_report(shown, sample_images(shown)), "utf-8")
    return file


@pytest.fixture(scope="module")
def comparison(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The page that compares two runs."""
    a, b = sample_report((0.5,), layers=12), sample_report((0.5, 0.25), layers=12)
    file = tmp_path_factory.mktemp("page") / "comparison.html"
    other = replace(b, run="runs/other", config='[search]\nmethod = "sls"\n')
    file.write_text(render_comparison(compare_reports(a, other)), "utf-8")
    return file


def _widest(page: Page) -> int:
    return int(page.evaluate("document.documentElement.scrollWidth"))


def _contrast(one: str, other: str) -> float:
    """Ratio of contrast of two CSS colours (WCAG 2.2, relative luminance)."""

    def luminance(colour: str) -> float:
        parts = [int(part) / 255 for part in re.findall(r"\d+", colour)[:3]]
        linear = [
            part / 12.92 if part <= 0.04045 else ((part + 0.055) / 1.055) ** 2.4 for part in parts
        ]
        return sum(w * part for w, part in zip((0.2126, 0.7152, 0.0722), linear, strict=True))

    low, high = sorted((luminance(one), luminance(other)))
    return (high + 0.05) / (low + 0.05)


def _border(page: Page) -> str:
    """Where the border between the two stages lies, as the over picture is cut."""
    return str(page.locator(f"{_PICTURE} >> .over").evaluate("x => getComputedStyle(x).clipPath"))


def test_it_opens_from_disk_without_a_word_or_a_request(browser: Browser, report: Path) -> None:
    with opened(browser, report) as page:
        assert page.title() == "rlfn: runs/rlfn, sls-deploy report"
        assert page.locator(".compare:visible").count() == 4


def test_the_first_screen_tells_the_result(browser: Browser, report: Path) -> None:
    with opened(browser, report) as page:
        for selector in (".verdict", ".card .number", ".card .saved", ".card .ladder"):
            for box in [one.bounding_box() for one in page.locator(selector).all()]:
                assert box is not None
                assert box["y"] + box["height"] <= 800


def test_the_border_follows_the_mouse(browser: Browser, report: Path) -> None:
    with opened(browser, report) as page:
        frame = page.locator(f"{_PICTURE} >> .frame")
        frame.scroll_into_view_if_needed()
        before, box = _border(page), frame.bounding_box()
        assert box is not None
        middle = box["y"] + box["height"] / 2
        page.mouse.move(box["x"] + box["width"] / 2, middle)
        page.mouse.down()
        page.mouse.move(box["x"] + box["width"] * 0.9, middle, steps=4)
        page.mouse.up()
        value = int(frame.locator("input").input_value())
        assert value > 80
        assert _border(page) != before
        assert f"{100 - value}%" in _border(page)


def test_the_border_follows_the_arrow_keys(browser: Browser, report: Path) -> None:
    with opened(browser, report) as page:
        border = page.locator(f"{_PICTURE} >> input")
        border.focus()
        before = _border(page)
        page.keyboard.press("ArrowRight")
        assert border.input_value() == "51"
        assert border.get_attribute("aria-valuetext") == "51 % dense PyTorch, the rest ONNX int8"
        assert _border(page) != before


def test_the_selects_choose_the_pictures(browser: Browser, report: Path) -> None:
    with opened(browser, report) as page:
        under = page.locator(f"{_PICTURE} >> .under")
        before = under.get_attribute("src")
        page.locator(f"{_PICTURE} >> select.right").select_option("truth")
        truth = page.locator('.strip li[data-stage="truth"] figure img').first
        assert under.get_attribute("src") == truth.get_attribute("src") != before
        assert under.get_attribute("alt") == "12055.png, truth"


def test_differences_to_dense_are_shown_eight_times_as_strong(
    browser: Browser, report: Path
) -> None:
    with opened(browser, report) as page:
        shown = page.locator('.strip >> nth=0 >> li[data-stage="ONNX fp32"] .difference')
        assert shown.evaluate("x => getComputedStyle(x).filter") == "brightness(8)"
        blend = "x => getComputedStyle(x.children[1]).mixBlendMode"
        assert shown.evaluate(blend) == "difference"
        assert "ONNX fp32 to dense PyTorch" in str(shown.locator("img").first.get_attribute("alt"))


@pytest.mark.parametrize("dark", [False, True])
def test_all_text_stands_out(browser: Browser, report: Path, *, dark: bool) -> None:
    with opened(browser, report, dark=dark) as page:
        pairs = {tuple(pair) for pair in page.evaluate(_COLOURS)}
        assert len(pairs) > 5
        assert {pair: _contrast(*pair) for pair in pairs if _contrast(*pair) < 4.5} == {}


def test_the_button_changes_the_colours(browser: Browser, report: Path) -> None:
    with opened(browser, report) as page:
        ground = "getComputedStyle(document.body).backgroundColor"
        light = page.evaluate(ground)
        page.get_by_role("button", name="Dark").click()
        dark = page.evaluate(ground)
        page.get_by_role("button", name="Light").click()
        assert page.evaluate(ground) == light != dark


def test_a_dark_system_gets_a_dark_page_and_charts(browser: Browser, report: Path) -> None:
    mark = "getComputedStyle(document.querySelector('.chart [fill^=var]')).fill"
    with opened(browser, report) as light, opened(browser, report, dark=True) as dark:
        assert light.evaluate(mark) != dark.evaluate(mark)


def test_a_phone_never_scrolls_sideways(browser: Browser, report: Path, comparison: Path) -> None:
    for file in (report, comparison):
        with opened(browser, file, width=360) as page:
            page.evaluate("document.querySelectorAll('details').forEach(one => one.open = true)")
            assert _widest(page) == 360


def test_paper_has_everything_open_and_no_controls(browser: Browser, report: Path) -> None:
    from playwright.sync_api import expect

    with opened(browser, report, dark=True) as page:
        closed = page.locator("details:not([open])").count()
        page.emulate_media(media="print")
        expect(page.locator("details:not([open])")).to_have_count(0)
        assert page.locator(".bar:visible, .compare:visible, .selects:visible").count() == 0
        ground = page.evaluate("getComputedStyle(document.body).backgroundColor")
        assert ground == "rgb(255, 255, 255)"
        page.emulate_media(media="screen")
        expect(page.locator("details:not([open])")).to_have_count(closed)
        assert closed > 0


def test_a_budget_can_be_shown_alone(browser: Browser, report: Path) -> None:
    with opened(browser, report) as page:
        page.locator(".budget-filter").select_option(label="0.125")
        assert page.locator(".card:visible h2").all_inner_texts() == ["Budget 0.125"]


def test_the_table_of_layers_sorts(browser: Browser, report: Path) -> None:
    with opened(browser, report) as page:
        page.get_by_text("Table of the layers").first.click()
        table = page.locator("table.sortable").first
        button = table.get_by_role("button", name="Sensitivity")
        button.click()
        button.click()
        cells = table.locator("tbody td:nth-child(8)")
        values = [float(str(cell.get_attribute("data-value"))) for cell in cells.all()]
        assert values == sorted(values, reverse=True)
        head = table.locator("th", has=page.get_by_role("button", name="Sensitivity"))
        assert head.get_attribute("aria-sort") == "descending"


def test_a_mark_of_a_chart_tells_its_figures(browser: Browser, report: Path) -> None:
    with opened(browser, report) as page:
        mark = page.locator(".drawing [data-told*='by pruning']").first
        mark.scroll_into_view_if_needed()
        mark.hover(force=True)
        assert page.locator(".tip").inner_text() == mark.get_attribute("data-told")


def test_a_comparison_opens_from_disk(browser: Browser, comparison: Path) -> None:
    with opened(browser, comparison) as page:
        assert page.locator("h1").inner_text() == "other beside rlfn"


@pytest.mark.parametrize("name", ["report", "comparison"])
def test_axe_finds_nothing(browser: Browser, name: str, request: pytest.FixtureRequest) -> None:
    axe = pytest.importorskip(
        "axe_playwright_python.sync_playwright",
        reason="axe-core is missing: `pip install axe-playwright-python`",
    )
    with opened(browser, request.getfixturevalue(name)) as page:
        found = axe.Axe().run(page).response["violations"]
        assert [(one["id"], one["nodes"][0]["html"][:200]) for one in found] == []
