from __future__ import annotations

import json
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from pipeline.report.source import Build
from pipeline.review.blind_sample import Sample, draw_sample
from pipeline.review.labels import read_labels
from pipeline.review.review_page import render_sheet
from pipeline.review.score import score
from schemas.review import ReviewSettings
from tests.browser import EXECUTABLE, Browser
from tests.pipeline.report.fake import HOSTILE
from tests.pipeline.review.builds import make_build

pytestmark = pytest.mark.skipif(EXECUTABLE is None, reason="needs Chromium or Chrome on the path")


@pytest.fixture(scope="module")
def build(tmp_path_factory: pytest.TempPathFactory) -> Build:
    return make_build(tmp_path_factory.mktemp("build"))


@pytest.fixture(scope="module")
def sample(build: Build) -> Sample:
    return draw_sample(build, ReviewSettings(pairs=4))


@pytest.fixture
def browser() -> Iterator[Browser]:
    """A browser that keeps nothing of an earlier test."""
    with Browser() as browser:
        yield browser


@pytest.fixture
def page(sample: Sample, tmp_path: Path) -> Path:
    path = tmp_path / "review.html"
    path.write_text(render_sheet(sample.sheet), encoding="utf-8")
    return path


def sign(browser: Browser, name: str) -> None:
    """Type a reviewer's name, and leave its field."""
    browser.click("#reviewer")
    browser.type(name)
    browser.evaluate("document.activeElement.blur()")


def exported(browser: Browser, folder: Path) -> Path:
    """Click on export, and return the file when it has arrived."""
    browser.send("Browser.setDownloadBehavior", behavior="allow", downloadPath=str(folder))
    browser.click("#export")
    deadline = time.monotonic() + 30
    while not (found := [*folder.glob("labels*.json")]):
        assert time.monotonic() < deadline, "nothing was downloaded"
        time.sleep(0.05)
    return found[0]


def said(browser: Browser) -> str:
    return str(browser.evaluate("document.getElementById('said').textContent"))


def current(browser: Browser) -> list[Any]:
    """Return pair and dimension of the question in turn."""
    found: list[Any] = browser.evaluate(
        "[document.querySelector('article').dataset.pair, document.querySelector('[aria-current]').dataset.slug]"
    )
    return found


@pytest.mark.parametrize(
    ("style", "heading", "ask", "who"),
    [
        ("peer", "Post", "Which reply shows more of: ", "The writer "),
        ("assistant", "Message", "Which reply suits this person better: ", "The person "),
    ],
)
def test_the_questions_are_those_of_the_style(
    browser: Browser, tmp_path: Path, style: str, heading: str, ask: str, who: str
) -> None:
    sheet = draw_sample(make_build(tmp_path / "out", style=style), ReviewSettings(pairs=4)).sheet
    path = tmp_path / "review.html"
    path.write_text(render_sheet(sheet), encoding="utf-8")

    browser.open(path, 820)

    assert browser.complaints == []
    assert browser.evaluate("document.querySelector('article h3').textContent") == heading
    first = browser.evaluate("document.querySelector('[data-slug]').textContent")
    assert first.startswith(ask)
    assert who in first
    assert ("Which" in first.removeprefix(ask)) == (style == "peer")


@pytest.mark.parametrize("width", [360, 820, 1280])
def test_the_page_opens_without_complaint_and_stays_within_its_width(
    browser: Browser, page: Path, sample: Sample, width: int
) -> None:
    browser.open(page, width)
    assert browser.complaints == []
    assert browser.requested == [page.as_uri()]
    assert browser.evaluate("document.scrollingElement.scrollWidth <= innerWidth")
    first = sample.sheet.pairs[0]
    shown = browser.evaluate("[...document.querySelectorAll('.prose')].map((text) => text.textContent)")
    assert shown == [first.prompt, *first.replies]


def test_keys_answer_all_questions_and_the_export_is_scored(
    browser: Browser, page: Path, build: Build, sample: Sample, tmp_path: Path
) -> None:
    browser.open(page)
    sign(browser, "Ann 1")
    keys = {1: "1", -1: "2"}
    for pair in sample.sheet.pairs:
        for slug in pair.questions:
            assert current(browser) == [pair.id, slug]
            question = sample.key[pair.id, slug]
            browser.press(keys[question.first * question.asked])
    number = len(sample.key)
    assert said(browser) == f"{number} of {number} questions answered"
    labels = read_labels(exported(browser, tmp_path / "exports"))
    found = score(build, {"labels.json": labels})
    assert [(one.reviewer, one.answers, one.share) for one in found.reviewers] == [("Ann 1", number, 1.0)]
    assert browser.complaints == []


def test_clicks_answer_and_a_question_takes_one_answer(
    browser: Browser, page: Path, sample: Sample, tmp_path: Path
) -> None:
    browser.open(page)
    pair = sample.sheet.pairs[0]
    slug = next(iter(pair.questions))
    for answer in ("second", "cannot tell"):
        browser.click(f"li[data-slug={slug}] button[data-answer='{answer}']")
    pressed = browser.evaluate("[...document.querySelectorAll('[aria-pressed=true]')].map((n) => n.dataset.answer)")
    assert pressed == ["cannot tell"]
    sign(browser, "Ann")
    assert read_labels(exported(browser, tmp_path / "exports")).answers == {pair.id: {slug: "cannot tell"}}


def test_labels_without_a_name_are_not_exported(browser: Browser, page: Path) -> None:
    browser.open(page)
    sign(browser, " ")
    browser.evaluate("window.links = 0; HTMLAnchorElement.prototype.click = () => window.links++;")
    browser.click("#export")
    assert browser.evaluate("document.getElementById('reviewer').validationMessage").startswith("Type your name")
    assert browser.evaluate("window.links") == 0
    sign(browser, "Ann")
    browser.click("#export")
    assert browser.evaluate("window.links") == 1


def test_answers_survive_a_reload_and_the_first_open_question_is_next(
    browser: Browser, page: Path, sample: Sample
) -> None:
    browser.open(page)
    first, second = sample.sheet.pairs[:2]
    for _ in first.questions:
        browser.press("1")
    browser.open(page)
    assert said(browser) == f"{len(first.questions)} of {len(sample.key)} questions answered"
    assert current(browser) == [second.id, next(iter(second.questions))]


def test_arrows_turn_questions_and_pairs(browser: Browser, page: Path, sample: Sample) -> None:
    browser.open(page)
    first, second = sample.sheet.pairs[:2]
    one, other, *_ = first.questions
    browser.press("ArrowDown")
    assert current(browser) == [first.id, other]
    browser.press("ArrowUp")
    browser.press("ArrowUp")
    assert current(browser) == [first.id, one]
    browser.press("ArrowRight")
    assert current(browser) == [second.id, next(iter(second.questions))]
    browser.press("ArrowLeft")
    assert current(browser) == [first.id, one]
    assert said(browser).startswith("0 of ")


def test_digits_in_the_name_are_no_answers(browser: Browser, page: Path) -> None:
    browser.open(page)
    browser.click("#reviewer")
    browser.press("1")
    assert said(browser).startswith("0 of ")


def test_memory_of_something_else_is_ignored(browser: Browser, page: Path, sample: Sample) -> None:
    browser.open(page)
    pair = sample.sheet.pairs[0]
    slug = next(iter(pair.questions))
    for kept in ("no JSON", json.dumps({"reviewer": 7, "answers": {pair.id: {slug: "<b>"}, "x": {"y": "first"}}})):
        name = json.dumps(f"everyuser review {sample.sheet.digest}")
        browser.evaluate(f"localStorage.setItem({name}, {json.dumps(kept)})")
        browser.open(page)
        assert said(browser).startswith("0 of ")
        assert browser.complaints == []


def test_hostile_texts_are_shown_as_text(browser: Browser, sample: Sample, tmp_path: Path) -> None:
    document = sample.sheet.model_dump(mode="json")
    document["name"] = HOSTILE
    for pair in document["pairs"]:
        pair |= {"prompt": HOSTILE, "replies": [HOSTILE + "1", HOSTILE + "2"]}
    for dimension in document["dimensions"].values():
        dimension |= {"name": HOSTILE, "question": HOSTILE}
        dimension["positive"] = dimension["negative"] = {"label": HOSTILE, "description": HOSTILE}
    path = tmp_path / "hostile.html"
    path.write_text(render_sheet(type(sample.sheet).model_validate_json(json.dumps(document))), encoding="utf-8")
    for width in (360, 1280):
        browser.open(path, width)
        assert browser.complaints == []
        assert browser.requested == [path.as_uri()]
        assert browser.evaluate("window.broken === undefined")
        assert browser.evaluate("document.querySelectorAll('img, svg').length === 0")
        assert browser.evaluate("document.scrollingElement.scrollWidth <= innerWidth")
