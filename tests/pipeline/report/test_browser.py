from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from pipeline.report.page import write_page
from schemas.report import Estimate, Report, ShownExample, ShownRejection
from tests.browser import EXECUTABLE, Browser
from tests.pipeline.report import fake

pytestmark = pytest.mark.skipif(EXECUTABLE is None, reason="needs Chromium or Chrome on the path")

WIDTHS = (360, 820, 1280)
FIGURES = """
How large are the splits?
Do the replies show what was asked?
Is a larger margin more often right?
Do replies differ where nobody asked?
Are both replies equally good?
What was judged?
What does a judge find who is asked anew?
Does the preference follow the portrait?
What is the rejected reply?
Do all kinds show what was asked?
How many users are in each split?
Which preferences do the users have?
How many dimensions does a user have?
How alike are the users?
How much of a user does the history show?
Which preferences do the examples express?
How many dimensions are active in an example?
Do preferences come in clusters?
Which dimensions move together most?
How long are the texts?
Does length reveal the preference?
What was read before pairs were mined?
What was left out?
What became of the attempts?
Which attempt gave the pair?
Why were rows rejected?
Do texts occur twice?
What do near-duplicates look like?
How much of the direction does the history support?
How many items does a history have?
How much do replies differ?
Does the dataset contain texts of benchmarks?
What is shared with alignx_test.jsonl?
Do replies repeat the words that describe the person?
What was copied?
What did the build use?
How fast was the build?
Which runs made it?
""".strip().splitlines()
WITHOUT_MARKS = {
    "How large are the splits?": "tbody tr",
    "Are both replies equally good?": "tbody tr",
    "What was judged?": "tbody tr",
    "What does a judge find who is asked anew?": "tbody tr",
    "Does the preference follow the portrait?": "tbody tr",
    "Do all kinds show what was asked?": "tbody tr",
    "How many users are in each split?": "tbody tr",
    "Do texts occur twice?": "tbody tr",
    "What do near-duplicates look like?": "blockquote",
    "How much do replies differ?": "tbody tr",
    "Does the dataset contain texts of benchmarks?": "tbody tr",
    "What is shared with alignx_test.jsonl?": "blockquote",
    "What was copied?": "blockquote",
    "What did the build use?": "tbody tr",
    "Which runs made it?": "tbody tr",
}
"""Figures that are tables or quotations, and what they are made of."""


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    with Browser() as browser:
        yield browser


@pytest.fixture(scope="module")
def pages(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    folder = tmp_path_factory.mktemp("reports")
    made = {"whole": fake.report(), "hostile": fake.hostile(), "empty": fake.empty()}
    for name, report in made.items():
        write_page(report, folder / name)
    return {name: folder / name / "report.html" for name in made}


def choose(browser: Browser, name: str, start: str) -> None:
    """Choose the option of a filter by the start of its text."""
    browser.evaluate(
        f"""(() => {{
          const select = document.getElementById({json.dumps(name)});
          const texts = [...select.options].map((option) => option.text);
          select.selectedIndex = texts.findIndex((text) => text.startsWith({json.dumps(start)}));
          select.dispatchEvent(new Event("change"));
        }})()"""
    )


def listed(browser: Browser) -> list[str]:
    """Return the ids of all rows in the list, which draws the last ones when it is scrolled."""
    browser.evaluate("document.getElementById('list').focus()")
    browser.press("End")
    found: list[str] = browser.evaluate(
        "[...document.querySelectorAll('#list [role=option]')].map((n) => n.dataset.id)"
    )
    return found


def wanted(rows: tuple[Any, ...], keep: Callable[[Any], bool]) -> list[str]:
    ids = [row.id for row in rows if keep(row)]
    assert 0 < len(ids) < len(rows)
    return ids


def text_of(browser: Browser, selector: str) -> str:
    return str(browser.evaluate(f"document.querySelector({json.dumps(selector)}).textContent"))


def focused(browser: Browser) -> str:
    return str(browser.evaluate("document.activeElement.id"))


@pytest.mark.parametrize("name", ["whole", "hostile", "empty"])
@pytest.mark.parametrize("width", WIDTHS)
def test_a_report_opens_without_complaint_and_stays_within_its_width(
    browser: Browser, pages: dict[str, Path], name: str, width: int
) -> None:
    browser.open(pages[name], width)
    assert browser.complaints == []
    assert browser.requested == [pages[name].as_uri()]
    assert browser.evaluate("document.scrollingElement.scrollWidth <= innerWidth")


def test_every_figure_is_drawn(browser: Browser, pages: dict[str, Path]) -> None:
    browser.open(pages["whole"])
    titles = "[...document.querySelectorAll('figure h3')].map((title) => title.textContent)"
    assert browser.evaluate(titles) == FIGURES
    drawn = browser.evaluate(
        """Object.fromEntries([...document.querySelectorAll("figure")].map((figure) => [
          figure.querySelector("h3").textContent,
          [...figure.querySelectorAll(".mark, tbody tr, blockquote")].filter((mark) => {
            const box = mark.getBoundingClientRect();
            return box.width > 0 && box.height > 0;
          }).map((mark) => mark.matches(".mark") ? ".mark" : mark.matches("tr") ? "tbody tr" : "blockquote"),
        ]))"""
    )
    for title in FIGURES:
        assert WITHOUT_MARKS.get(title, ".mark") in drawn[title], title
    poles = [number for d in fake.report().dimensions for number in (d.positive, d.negative)]
    assert len(drawn["Which preferences do the examples express?"]) == sum(number > 0 for number in poles)


def test_dimensions_without_an_example_are_named_apart(browser: Browser, pages: dict[str, Path]) -> None:
    browser.open(pages["whole"])
    apart = "#coverage .parts > details"
    assert text_of(browser, f"{apart} summary") == "1 dimension without an example"
    browser.click(f"{apart} summary")
    browser.settle()
    assert text_of(browser, f"{apart} p") == "fashion"
    assert "89 of 90 dimensions occur" in text_of(browser, "#coverage .answer")


def test_bars_are_as_long_as_their_numbers(browser: Browser, pages: dict[str, Path]) -> None:
    browser.open(pages["whole"])
    widths = browser.evaluate(
        """[...document.querySelectorAll("#coverage .pole")].map((row) => [
          row.querySelector(".name").textContent,
          ...["negative", "positive"].map((kind) => row.querySelector(`.mark.${kind}`).getBoundingClientRect().width),
        ])"""
    )
    by_name = {d.name: d for d in fake.report().dimensions}
    longest = max(max(negative, positive) for _, negative, positive in widths)
    most = max(max(d.negative, d.positive) for d in by_name.values())
    for name, negative, positive in widths:
        assert negative / longest == pytest.approx(by_name[name].negative / most, abs=0.02)
        assert positive / longest == pytest.approx(by_name[name].positive / most, abs=0.02)


def test_the_recovery_of_every_pole_is_where_it_belongs(browser: Browser, pages: dict[str, Path]) -> None:
    browser.open(pages["whole"])
    browser.click("#verification .dots ~ .plain")
    places = browser.evaluate(
        """Object.fromEntries([...document.querySelectorAll("#verification .dots li")].map((row) => {
          const track = row.querySelector(".track").getBoundingClientRect();
          const place = (dot) => dot.getBoundingClientRect().left + dot.getBoundingClientRect().width / 2;
          return [row.querySelector(".name").textContent,
            [...row.querySelectorAll(".dot")].map((dot) => (place(dot) - track.left) / track.width)];
        }))"""
    )
    found = fake.report().verification
    assert found is not None
    names = {d.slug: d.name for d in fake.report().dimensions}
    asked = [d for d in found.dimensions if d.positive or d.negative]
    assert len(places) == len(asked)
    for dimension in asked:
        shares = sorted(pole.recovery.value for pole in (dimension.positive, dimension.negative) if pole)
        assert places[names[dimension.slug]] == pytest.approx(shares, abs=0.01)
    # The worst dimension comes first.
    assert next(iter(places.values()))[0] == pytest.approx(
        min(pole.recovery.value for d in asked for pole in (d.positive, d.negative) if pole), abs=0.01
    )
    assert "83.6" in text_of(browser, "#verification .answer")


@pytest.mark.parametrize(
    ("low", "high", "number", "word"),
    [(-0.1, 0.14, 10, "look"), (-0.2, -0.1, 10, "problem"), (0.01, 0.2, 10, "fine"), (-0.1, 0.14, 9, "fine")],
)
def test_a_pole_that_replies_do_not_show_is_marked(
    browser: Browser, tmp_path: Path, low: float, high: float, number: int, word: str
) -> None:
    whole = fake.report()
    assert whole.verification is not None
    first, *rest = whole.verification.dimensions
    assert first.positive is not None
    margin = Estimate(value=(low + high) / 2, low=low, high=high, number=number)
    ignored = first.model_copy(update={"positive": first.positive.model_copy(update={"margin": margin})})
    found = whole.verification.model_copy(update={"dimensions": (ignored, *rest), "made_neutral": 0})
    write_page(whole.model_copy(update={"verification": found}), tmp_path)
    browser.open(tmp_path / "report.html")

    marked = browser.evaluate(
        """(() => {
          document.querySelector("#verification .dots ~ .plain").click();
          return [...document.querySelectorAll("#verification .dots .far .name")].map((name) => name.textContent);
        })()"""
    )
    check = browser.evaluate(
        """[...document.querySelectorAll(".checks li")]
          .find((check) => check.textContent.includes("Poles that replies do not show")).textContent"""
    )

    assert marked == ([] if word == "fine" else [whole.dimensions[0].name])
    assert check.startswith(word)
    assert ("1 of" in check) == (word != "fine")
    assert (f"not so {whole.dimensions[0].positive_label};" in check) == (word != "fine")
    assert browser.complaints == []


def test_a_build_without_a_judge_says_so(browser: Browser, pages: dict[str, Path]) -> None:
    browser.open(pages["empty"])
    assert "No judge has checked" in text_of(browser, "#verification .none")


def test_the_heat_map_is_read_out_by_arrow_keys(browser: Browser, pages: dict[str, Path]) -> None:
    browser.open(pages["whole"])
    correlation = fake.report().correlation
    names = {d.slug: d.name for d in fake.report().dimensions}
    browser.evaluate("document.querySelector('.heat svg').focus()")
    # The first cell is that of the first two dimensions; then down to the third, and to its second cell.
    for keys, (row, column) in {("ArrowDown",): (1, 0), ("ArrowDown", "ArrowRight"): (2, 1)}.items():
        for key in keys:
            browser.press(key)
        said = text_of(browser, "#tip")
        assert names[correlation.slugs[row]] in said
        assert names[correlation.slugs[column]] in said
        assert said.endswith(f"{correlation.matrix[row][column]:+.2f}".replace("-", "\u2212"))
    browser.press("Escape")
    assert not browser.evaluate("document.getElementById('tip').classList.contains('on')")


def test_the_search_narrows_the_list(browser: Browser, pages: dict[str, Path]) -> None:
    browser.open(pages["whole"])
    shown = fake.report().shown

    def holds(row: ShownExample, *words: str) -> bool:
        items = [text for item in row.history for text in (item.prompt, item.chosen, item.rejected, item.profile)]
        texts = [row.id, row.prompt, row.chosen, row.rejected, row.portrait, row.profile, *items]
        return all(word in "\n".join(texts).lower() for word in words)

    browser.click("#search")
    browser.type("Ballet LIBRARY")
    expected = wanted(shown, lambda row: holds(row, "ballet", "library"))
    assert listed(browser) == expected
    assert text_of(browser, ".said") == f"{len(expected)} of {len(shown)}"
    assert "library" in text_of(browser, "#row mark").lower() or "ballet" in text_of(browser, "#row mark").lower()
    browser.click("#search")
    browser.type(" nowhere-to-be-found")
    assert listed(browser) == []
    assert text_of(browser, "#row") == "No row matches."
    browser.click("#clear")
    assert len(listed(browser)) == len(shown)


def test_filters_give_the_rows_that_they_say(browser: Browser, pages: dict[str, Path]) -> None:
    browser.open(pages["whole"])
    report = fake.report()
    dimension = next(d for d in report.dimensions if d.slug == "age_group")
    assert len(listed(browser)) == len(report.shown)

    choose(browser, "split", "test")
    assert listed(browser) == wanted(report.shown, lambda row: row.split == "test")
    choose(browser, "split", "All")
    choose(browser, "dimension", dimension.name)
    assert listed(browser) == wanted(report.shown, lambda row: "age_group" in row.direction)
    choose(browser, "direction", f"\u2212 {dimension.negative_label}")
    assert listed(browser) == wanted(report.shown, lambda row: row.direction.get("age_group") == -1)

    # The choice stays for the rejections, which have one filter more.
    browser.click("[data-kind=rejections]")
    browser.evaluate("document.getElementById('search').value = ''")
    choose(browser, "direction", "Either")
    assert listed(browser) == wanted(report.rejections, lambda row: "age_group" in row.direction)
    choose(browser, "dimension", "All")
    choose(browser, "reason", "validate/copied")
    assert listed(browser) == wanted(report.rejections, lambda row: row.reason == "validate/copied")
    assert text_of(browser, "#row .two > div:nth-child(2) .text:nth-child(2) h4").startswith("Text 2, cleaned")
    choose(browser, "split", "train")

    def both(row: ShownRejection) -> bool:
        return row.reason == "validate/copied" and row.split == "train"

    assert listed(browser) == wanted(report.rejections, both)
    assert browser.complaints == []


def test_a_user_is_shown_with_all_pairs(browser: Browser, pages: dict[str, Path]) -> None:
    browser.open(pages["whole"])
    report = fake.report()
    labels = {
        (d.slug, level): f"{sign} {label}"
        for d in report.dimensions
        for level, sign, label in ((1, "+", d.positive_label), (-1, "\u2212", d.negative_label))
    }
    first = next(row for row in report.shown if row.user_id)
    choose(browser, "user", first.user_id.partition("-")[2])

    own = wanted(report.shown, lambda row: row.user_id == first.user_id)
    assert listed(browser) == own
    assert text_of(browser, "#user-card h4") == first.user_id
    assert text_of(browser, "#user-card .prose") == first.portrait
    chips = browser.evaluate("[...document.querySelectorAll('#user-card .chips li')].map((chip) => chip.textContent)")
    assert chips == [labels[each] for each in first.user_direction.items()]
    assert "of 8 pairs" in text_of(browser, "#user-card .meta")

    # From a row to all of its user's.
    browser.click("#clear")
    assert text_of(browser, "#user-card") == ""
    other = next(k for k, row in enumerate(report.shown) if row.user_id not in ("", first.user_id))
    browser.click(f"#list li:nth-child({other + 1})")
    browser.click("#row article .plain")
    assert listed(browser) == wanted(report.shown, lambda row: row.user_id == report.shown[other].user_id)
    browser.click("#clear")
    browser.click("#search")
    browser.type(first.user_id)
    assert listed(browser) == own
    assert browser.complaints == []


def test_a_row_says_what_its_kind_means(browser: Browser, pages: dict[str, Path]) -> None:
    browser.open(pages["whole"])
    report = fake.report()
    for kind, meaning in (("restraint", "the chosen reply answers plainly"), ("near", "a near neighbour")):
        choose(browser, "kind", kind)
        assert listed(browser) == [row.id for row in report.shown if row.kind == kind] != []
        assert meaning in text_of(browser, "#row .why")
    choose(browser, "kind", "opposite")
    assert browser.evaluate("document.querySelector('#row .why') === null")


def test_a_matched_build_has_no_users_and_no_kinds(browser: Browser, tmp_path: Path) -> None:
    whole = fake.report()
    nobody = {"kind": "opposite", "user_id": "", "user_direction": {}, "user_pairs": 0}
    shown = tuple(row.model_copy(update=nobody) for row in whole.shown)
    write_page(whole.model_copy(update={"users": None, "kinds": whole.kinds[:1], "shown": shown}), tmp_path)
    browser.open(tmp_path / "report.html")

    assert browser.evaluate("document.querySelector('#users, #kinds') === null")
    assert browser.evaluate("document.getElementById('user').closest('label').hidden")
    assert browser.evaluate("document.getElementById('kind').closest('label').hidden")
    assert browser.evaluate("document.querySelector('#row article .plain') === null")
    assert browser.complaints == []


@pytest.mark.parametrize(
    ("changes", "name", "word"),
    [
        ({}, "Users in two splits", "fine"),
        ({"leaked": 1}, "Users in two splits", "problem"),
        ({"shared": 250}, "Users of test_seen_users in train", "fine"),
        ({"shared": 249}, "Users of test_seen_users in train", "look"),
        ({"distinct_directions": 2500}, "Different directions of users", "fine"),
        ({"distinct_directions": 2499}, "Different directions of users", "look"),
    ],
)
def test_users_where_they_must_not_be_are_marked(
    browser: Browser, tmp_path: Path, changes: dict[str, int], name: str, word: str
) -> None:
    whole = fake.report()
    assert whole.users is not None
    write_page(whole.model_copy(update={"users": whole.users.model_copy(update=changes)}), tmp_path)
    browser.open(tmp_path / "report.html")

    check = browser.evaluate(
        f"""[...document.querySelectorAll(".checks li")]
          .find((check) => check.textContent.includes({json.dumps(name)})).textContent"""
    )
    assert check.startswith(word)


def test_the_browser_works_by_the_keyboard(browser: Browser, pages: dict[str, Path]) -> None:
    browser.open(pages["whole"])
    shown = fake.report().shown
    browser.evaluate("document.getElementById('search').focus()")
    order = []
    for _ in range(6):
        browser.press("Tab")
        order.append(focused(browser))
    # The direction is no filter before there is a dimension; then comes the button that clears them.
    assert order == ["split", "dimension", "kind", "user", "clear", "list"]
    for key, at in {"ArrowDown": 1, "PageDown": 11, "ArrowUp": 10, "End": len(shown) - 1, "Home": 0}.items():
        browser.press(key)
        assert text_of(browser, "#list [aria-selected=true] .line") == shown[at].prompt.split("\n")[0][:120]
        assert text_of(browser, "#row h3") == shown[at].id
    browser.press("Enter")
    assert focused(browser) == "row"
    browser.press("Escape")
    assert focused(browser) == "list"
    browser.press("Escape")
    assert focused(browser) == "search"
    # From a bar of the coverage to its examples.
    browser.evaluate("document.querySelector('#coverage .pole').focus()")
    browser.press("ArrowDown")
    assert browser.evaluate("document.activeElement.querySelector('.name').textContent") == "Gender"
    browser.press("Enter")
    assert focused(browser) == "list"
    assert listed(browser) == wanted(shown, lambda row: "gender" in row.direction)


def test_hostile_texts_are_shown_and_do_nothing(browser: Browser, pages: dict[str, Path]) -> None:
    browser.open(pages["hostile"], 360)
    for details in ("#row details", "details.numbers"):
        browser.evaluate(f"document.querySelectorAll('{details}').forEach((each) => each.open = true)")
    browser.settle()
    for tab in ("rejections", "examples"):
        browser.click(f"[data-kind={tab}]")
        for _ in range(9):
            browser.evaluate("document.getElementById('list').focus()")
            browser.press("ArrowDown")
    choose(browser, "split", fake.HOSTILE[:20])
    browser.evaluate("document.getElementById('search').value = '<img ${'")
    browser.evaluate("document.getElementById('search').dispatchEvent(new Event('input'))")
    browser.settle()
    assert text_of(browser, "#row mark") == "<img"
    assert browser.complaints == []
    assert browser.requested == [pages["hostile"].as_uri()]
    assert browser.evaluate("window.broken === undefined")
    assert browser.evaluate("document.querySelectorAll('img, iframe, object, link, body script:not([id])').length") == 1
    assert browser.evaluate("document.scrollingElement.scrollWidth <= innerWidth")
    whole = browser.evaluate("document.getElementById('main').innerText + document.title")
    unseen = {character for character in whole if not (character.isprintable() or character in "\n\t\u202f\u00a0")}
    assert unseen == set()
    assert "\u27e8U+001B\u27e9[31mred" in whole
    assert "\u27e8U+202E\u27e9evil" in whole


def test_not_even_a_mistake_could_load_or_run_anything(browser: Browser, pages: dict[str, Path]) -> None:
    browser.open(pages["whole"])
    assert (
        browser.evaluate(
            """new Promise((done) => {
          document.addEventListener("securitypolicyviolation", (event) => done(event.effectiveDirective));
          new Image().src = "data:image/gif;base64,R0lGODlhAQABAAAAACw=";
        })"""
        )
        == "img-src"
    )
    assert "TrustedHTML" in browser.evaluate(
        "(() => { try { document.body.innerHTML = '<b>x</b>' } catch (error) { return error.message } })()"
    )
    browser.evaluate(
        """(() => {
          const script = document.createElement("script");
          try { script.text = "window.broken = 1" } catch { script.append("window.broken = 1") }
          document.body.append(script);
        })()"""
    )
    assert browser.evaluate("window.broken === undefined")


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_every_text_is_legible(browser: Browser, pages: dict[str, Path], scheme: str) -> None:
    browser.open(pages["whole"], scheme=scheme)
    browser.click("#list li:nth-child(2)")
    faint = browser.evaluate(
        """(() => {
          const numbers = (color) => color.match(/[\\d.]+/g).map(Number);
          const luminance = (color) => {
            const [r, g, b] = numbers(color).slice(0, 3).map((value) => value / 255)
              .map((value) => (value <= 0.04045 ? value / 12.92 : ((value + 0.055) / 1.055) ** 2.4));
            return 0.2126 * r + 0.7152 * g + 0.0722 * b;
          };
          const behind = (node) => {
            for (; node; node = node.parentElement) {
              const color = getComputedStyle(node).backgroundColor;
              if ((numbers(color)[3] ?? 1) === 1) return color;
            }
            return "rgb(255, 255, 255)";
          };
          const contrast = (node) => {
            const style = getComputedStyle(node);
            const front = luminance(node instanceof SVGElement ? style.fill : style.color);
            const back = luminance(behind(node));
            return (Math.max(front, back) + 0.05) / (Math.min(front, back) + 0.05);
          };
          const texts = [...document.querySelectorAll("body *")].filter((node) =>
            !node.closest("script, style, :disabled, #tip, noscript") &&
            [...node.childNodes].some((child) => child.nodeType === 3 && child.data.trim()));
          if (texts.length < 500) throw new Error(`only ${texts.length} texts`);
          return texts.filter((node) => contrast(node) < 4.5)
            .map((node) => `${node.tagName}.${node.getAttribute("class")} ${contrast(node).toFixed(2)}`);
        })()"""
    )
    assert faint == []
    # The scheme was followed at all.
    background = browser.evaluate("getComputedStyle(document.body).backgroundColor")
    assert (background == "rgb(255, 255, 255)") == (scheme == "light")


def test_the_theme_can_be_chosen(browser: Browser, pages: dict[str, Path]) -> None:
    browser.open(pages["whole"], scheme="dark")
    background = "getComputedStyle(document.body).backgroundColor"
    dark = browser.evaluate(background)
    browser.click("#theme")
    assert text_of(browser, "#theme") == "Theme: light"
    assert browser.evaluate(background) == "rgb(255, 255, 255)"
    browser.click("#theme")
    assert browser.evaluate(background) == dark


def test_a_report_without_rows_says_so(browser: Browser, pages: dict[str, Path]) -> None:
    browser.open(pages["empty"])
    said = browser.evaluate("[...document.querySelectorAll('.none')].map((each) => each.textContent)")
    assert "There are no examples to check." in said
    assert "There are no rows to show." in said
    assert Report.model_validate_json(text_of(browser, "#data")) == fake.empty()
