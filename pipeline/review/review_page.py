"""`review.html`: the sheet as one file that needs no network, with the look and the policy of the report's page."""

from __future__ import annotations

import importlib.resources

from pipeline.report.page import compose, read_web
from schemas.review import ReviewPage, Sheet


def render_sheet(sheet: Sheet) -> str:
    """Return the whole page as HTML."""
    style = read_web("page.css") + _read("review.css")
    scripts = (read_web("basics.js"), _read("review.js"))
    data = ReviewPage(digest=sheet.digest, sheet=sheet).model_dump_json()
    return compose(_read("review.html"), style, scripts, data)


def _read(name: str) -> str:
    return importlib.resources.files("pipeline.review").joinpath("web", name).read_text(encoding="utf-8")
