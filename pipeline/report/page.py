"""`report.html`: the whole report as one file that needs no network.

The report's texts are hostile. The page holds them once, as JSON that cannot end the script element, and its script
adds them to the document as text only. The page's policy allows its own style and script by hash, and nothing else.
"""

from __future__ import annotations

import base64
import hashlib
import importlib.resources
import re
from collections.abc import Iterable

from pipeline.io.storage import AnyPath, write_text
from schemas.report import Report

_SCRIPTS = (
    "basics.js",
    "figures.js",
    "plots.js",
    "checks.js",
    "overview.js",
    "space.js",
    "texts.js",
    "verification.js",
    "kinds.js",
    "users.js",
    "building.js",
    "rows.js",
    "browse.js",
    "page.js",
)

# Characters that HTML could read as markup, and two line breaks that JSON allows and older scripts did not.
_ESCAPES = {ord(character): f"\\u{ord(character):04x}" for character in "<>&\u2028\u2029"}


def render_page(report: Report) -> str:
    """Return the whole page as HTML."""
    return compose(read_web("page.html"), read_web("page.css"), map(read_web, _SCRIPTS), report.model_dump_json())


def compose(html: str, style: str, scripts: Iterable[str], data: str) -> str:
    """Return a page that needs no network and runs no other script.

    Args:
        html: The page with the places `{{policy}}`, `{{style}}`, `{{script}}` and `{{data}}`.
        style: Style sheet.
        scripts: Scripts, which share one scope.
        data: JSON with any texts; it cannot end its element.
    """
    script = '"use strict";\n(() => {\n' + "\n".join(scripts) + "})();\n"
    parts = {"policy": _policy(style, script), "style": style, "script": script, "data": data.translate(_ESCAPES)}
    # In one pass, so that a text of the dataset that looks like a placeholder is not filled.
    return re.sub(r"\{\{(\w+)\}\}", lambda match: parts[match[1]], html)


def write_page(report: Report, folder: AnyPath) -> None:
    """Write `report.json` and `report.html` into `folder`."""
    write_text(folder / "report.json", report.model_dump_json(indent=1) + "\n")
    write_text(folder / "report.html", render_page(report))


def _policy(style: str, script: str) -> str:
    """Return a Content-Security-Policy that forbids loading anything and running any other script."""
    return (
        f"default-src 'none'; style-src {_hash(style)}; script-src {_hash(script)}; base-uri 'none'; "
        "form-action 'none'; require-trusted-types-for 'script'; trusted-types 'none'"
    )


def _hash(text: str) -> str:
    return f"'sha256-{base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()}'"


def read_web(name: str) -> str:
    """Return a file of the report's page."""
    return importlib.resources.files("pipeline.report").joinpath("web", name).read_text(encoding="utf-8")
