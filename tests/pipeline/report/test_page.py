from __future__ import annotations

import base64
import hashlib
import importlib.resources
import re
from html.parser import HTMLParser
from pathlib import Path

import pytest

from pipeline.report.page import render_page, write_page
from schemas.report import Report
from tests.pipeline.report import fake

WEB = importlib.resources.files("pipeline.report").joinpath("web")


class Elements(HTMLParser):
    """The elements of a page with their attributes, and the text inside of styles and scripts."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.found: list[tuple[str, dict[str, str | None]]] = []
        self.raw: list[str] = []
        self._is_raw = False
        self.feed(page)
        self.close()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.found.append((tag, dict(attrs)))
        self._is_raw = tag in ("style", "script")
        if self._is_raw:
            self.raw.append("")

    def handle_endtag(self, tag: str) -> None:
        self._is_raw = False

    def handle_data(self, data: str) -> None:
        if self._is_raw:
            self.raw[-1] += data


def sources(suffix: str) -> str:
    return "\n".join(file.read_text("utf-8") for file in sorted(WEB.iterdir(), key=str) if file.name.endswith(suffix))


def hashed(text: str) -> str:
    return f"'sha256-{base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()}'"


@pytest.mark.parametrize("report", [fake.report, fake.hostile, fake.empty])
def test_the_page_has_the_same_elements_whatever_the_texts_are(report: fake.Made) -> None:
    elements = Elements(render_page(report()))
    tags = [tag for tag, _ in elements.found]
    assert tags == [tag for tag, _ in Elements(render_page(fake.report())).found]
    assert tags.count("script") == 2
    assert "img" not in tags
    # The style, the data and the script: only the data differ, and they are the report.
    _, data, _ = elements.raw
    assert Report.model_validate_json(data) == report()
    assert not set("<>&\u2028\u2029") & set(data)


def test_the_policy_allows_this_style_and_this_script_alone() -> None:
    elements = Elements(render_page(fake.hostile()))
    style, _, script = elements.raw
    [policy] = [attributes["content"] for _, attributes in elements.found if "http-equiv" in attributes]
    assert policy is not None
    directives = dict(directive.strip().split(" ", 1) for directive in policy.split(";"))
    assert directives == {
        "default-src": "'none'",
        "style-src": hashed(style),
        "script-src": hashed(script),
        "base-uri": "'none'",
        "form-action": "'none'",
        "require-trusted-types-for": "'script'",
        "trusted-types": "'none'",
    }


def test_nothing_is_loaded_and_no_text_is_parsed() -> None:
    script = sources(".js")
    assert re.findall(r"\bhttps?://[^\s\"'`)]*", script + sources(".css") + sources(".html")) == [
        "http://www.w3.org/2000/svg"  # a namespace, never fetched
    ]
    parsing = r"innerHTML|outerHTML|insertAdjacentHTML|document\.write|DOMParser|srcdoc"
    assert not re.findall(rf"{parsing}|\beval\b|new Function|fetch\(|import\(", script)
    assert not re.findall(r"url\(|@import|expression\(", sources(".css"))
    # Texts that would end their elements.
    assert "</script" not in script
    assert "<!--" not in script
    assert "</style" not in sources(".css")


def test_every_field_of_the_contract_is_shown() -> None:
    script = sources(".js")
    assert [name for name in fake.field_names(Report) if not re.search(rf"\b{name}\b", script)] == []


def test_both_files_are_written(tmp_path: Path) -> None:
    write_page(fake.report(), tmp_path)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["report.html", "report.json"]
    assert (tmp_path / "report.html").read_text("utf-8") == render_page(fake.report())
    assert Report.model_validate_json((tmp_path / "report.json").read_text("utf-8")) == fake.report()
