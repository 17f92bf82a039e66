"""`review.html`: the sheet as one file that needs no network, with the look and the policy of the report's page."""

from __future__ import annotations

import importlib.resources

from pipeline.io import storage
from pipeline.io.storage import AnyPath
from pipeline.report.page import compose, read_web
from schemas.base import UsageError
from schemas.review import ReviewPage, Sheet

_MARK = b'<meta name="generator" content="everyuser review">'
"""In the first bytes of every page, and in no other file."""
_HEAD_BYTES = 2048


def write_sheet(sheet: Sheet, path: AnyPath) -> None:
    """Write the page. Raise `UsageError` for a path that has another file, since its content would be lost."""
    if storage.is_file(path):
        with storage.open_binary(path) as file:
            if _MARK not in file.read(_HEAD_BYTES):
                raise UsageError(f"{path} exists and is no review page; name another --output, or remove it")
    storage.write_text(path, render_sheet(sheet))


def render_sheet(sheet: Sheet) -> str:
    """Return the whole page as HTML."""
    style = read_web("page.css") + _read("review.css")
    scripts = (read_web("basics.js"), _read("review.js"))
    data = ReviewPage(digest=sheet.digest, sheet=sheet).model_dump_json()
    return compose(_read("review.html"), style, scripts, data)


def _read(name: str) -> str:
    return importlib.resources.files("pipeline.review").joinpath("web", name).read_text(encoding="utf-8")
