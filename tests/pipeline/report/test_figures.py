from __future__ import annotations

import xml.etree.ElementTree as ET
from pathlib import Path

import pytest

from pipeline.report.figures import write_figures
from schemas.report import Figure
from tests.pipeline.report import fake

SVG = "{http://www.w3.org/2000/svg}"


def marks(path: Path, color: str) -> list[ET.Element]:
    return [element for element in ET.parse(path).iter() if element.get("fill") == color]  # noqa: S314 (our own file)


def test_the_pictures_are_written_and_named(tmp_path: Path) -> None:
    figures = write_figures(fake.report(), tmp_path)
    assert [figure.path for figure in figures] == [
        f"figures/{name}.svg" for name in ("balance", "correlations", "history", "funnel")
    ]
    assert figures[-1] == Figure(
        "figures/funnel.svg",
        "19\u202f902 pairs accepted of 20\u202f000 configured, with 7\u202f846 rejections, most often "
        "validate/unfinished.",
    )
    for figure in figures:
        root = ET.parse(tmp_path / figure.path).getroot()  # noqa: S314
        assert root.tag == f"{SVG}svg"
        assert root.findtext(f"{SVG}title") == figure.alt
        # Readable on a dark page too: dark on a ground of its own.
        assert root.find(f"{SVG}rect[@fill='#ffffff']") is not None
        assert (tmp_path / figure.path).stat().st_size < 100_000


def test_bars_are_as_long_as_their_numbers(tmp_path: Path) -> None:
    write_figures(fake.report(), tmp_path)
    blue = [float(box.get("width", "")) for box in marks(tmp_path / "figures/balance.svg", "#2166ac")]
    orange = [float(box.get("width", "")) for box in marks(tmp_path / "figures/balance.svg", "#b35806")]
    active = [d for d in fake.report().dimensions if d.positive + d.negative]
    by_group = sorted(active, key=lambda d: _groups().index(d.group))
    longest, most = max(blue + orange), max(max(d.positive, d.negative) for d in by_group)
    assert blue == pytest.approx([longest * d.positive / most for d in by_group], abs=0.02)
    assert orange == pytest.approx([longest * d.negative / most for d in by_group], abs=0.02)


def _groups() -> list[str]:
    return list(dict.fromkeys(d.group for d in fake.report().dimensions))


def test_equal_reports_give_equal_bytes(tmp_path: Path) -> None:
    figures = write_figures(fake.report(), tmp_path / "one")
    write_figures(fake.report(), tmp_path / "two")
    for figure in figures:
        assert (tmp_path / "one" / figure.path).read_bytes() == (tmp_path / "two" / figure.path).read_bytes()


def test_hostile_names_are_text(tmp_path: Path) -> None:
    for figure in write_figures(fake.hostile(), tmp_path):
        root = ET.parse(tmp_path / figure.path).getroot()  # noqa: S314
        assert {element.tag.removeprefix(SVG) for element in root.iter()} <= {"svg", "title", "rect", "text", "path"}
        said = figure.alt + "".join(text for element in root.iter() for text in (element.text or "",))
        assert all(character.isprintable() or character in "\n\u202f" for character in said)
        assert len(figure.alt) < 300


def test_what_there_are_no_figures_for_is_left_out(tmp_path: Path) -> None:
    assert write_figures(fake.empty(), tmp_path) == ()
    assert list(tmp_path.iterdir()) == []
