from __future__ import annotations

import io
from pathlib import Path

import pytest
from PIL import Image
from rich.console import Console

from everyuser_train.figure import figure
from everyuser_train.metrics import Estimate
from everyuser_train.report import (
    Contrast,
    Flip,
    Kind,
    KindResult,
    PoleResult,
    Report,
    Result,
    UserResult,
    save,
    show,
)
from schemas.base import UserError
from schemas.records import Kind as PairKind

HOSTILE = "[bold]x[/bold] $\\frac \x1b[31m\n_"
METRICS = {
    name: Estimate(value=0.61, low=0.55, high=0.7)
    for name in ("alignment", "alignment_per_token", "absolute", "absolute_per_token", "reference_absolute", "margin")
}
ALONE = {name: Estimate(value=0.61, low=None, high=None) for name in METRICS}


def result(kind: Kind, items: int | None = 4) -> Result:
    return Result(
        kind=kind,
        parts=() if kind == "none" else ("ugc", "pair"),
        direction=None,
        items=items,
        cases=12,
        posts=6,
        dropped=0,
        shortened=0,
        mean_items=3.5,
        metrics=METRICS if items else ALONE,
    )


def make_report(
    results: tuple[Result, ...] = (
        result("persona"),
        result("length", 0),
        result("length", 8),
        result("shuffled"),
        result("none", None),
    ),
    poles: int = 40,
) -> Report:
    return Report(
        model=HOSTILE,
        reference="reference",
        data=HOSTILE,
        split="test",
        method="ica",
        dtype="float32",
        seed=0,
        level=0.95,
        examples=12,
        seconds=3.2,
        results=results,
        contrasts=(Contrast(kind="shuffled", direction=None, cases=12, metrics=METRICS),),
        kinds=(),
        users=(),
        flips=(Flip(direction="target", cases=12, posts=6, metrics={"reversed": METRICS["margin"]}),),
        dimensions=tuple(
            PoleResult(dimension=k, slug=f"{k} {HOSTILE}", label=HOSTILE, level=level, cases=k, metrics=METRICS)
            for k in range(poles)
            for level in (1, -1)
        ),
        notes=(HOSTILE,),
    )


def printed(report: Report) -> str:
    text = io.StringIO()
    show(report, Console(file=text, width=300, force_terminal=False))
    return text.getvalue()


def test_the_terminal_shows_all_of_it_and_obeys_none() -> None:
    text = printed(make_report())
    for cell in ("61.0 ", "[55.0, 70.0]", "+0.61 ", "[+0.55, +0.70]"):
        assert cell in text
    for words in ("ugc+pair, 8 items", "someone else's persona", "no persona", "own minus someone else's persona"):
        assert words in text
    assert "[bold]x[/bold]" in text
    assert "\x1b" not in text
    assert "clustered by post" in text


def test_no_tables_without_contents() -> None:
    report = make_report(poles=0).model_copy(update={"flips": (), "contrasts": ()})
    assert "dimension" not in printed(report)
    assert "flip" not in printed(report)


def test_what_is_saved_can_be_read(tmp_path: Path) -> None:
    report = make_report()
    save(report, tmp_path / "new")
    assert Report.model_validate_json((tmp_path / "new" / "report.json").read_bytes()) == report
    with Image.open(tmp_path / "new" / "report.png") as image:
        assert image.size[0] > image.size[1] / 2 > 100
    assert {path.name for path in (tmp_path / "new").iterdir()} == {"report.json", "report.png"}


def test_the_figure_has_a_curve_and_the_busiest_dimensions() -> None:
    curve, bars = figure(make_report()).axes
    assert list(curve.lines[0].get_xdata()) == [0, 8]
    assert list(curve.lines[0].get_ydata()) == [0.61, 0.61]
    assert len(bars.patches) == 60
    names = [label.get_text() for label in bars.get_yticklabels()]
    assert len(names) == 30
    assert names[0].startswith("10 ")


def test_the_figure_of_a_report_without_either_shows_the_results() -> None:
    (bars,) = figure(make_report((result("persona"), result("none", None)), poles=0)).axes
    assert len(bars.patches) == 2


def test_a_skewed_interval_can_be_drawn() -> None:
    beside = {name: Estimate(value=0.5, low=0.6, high=0.7) for name in METRICS}
    entry = result("length").model_copy(update={"metrics": beside})
    assert figure(make_report((entry,), poles=0)).axes


def test_a_folder_that_cannot_be_written_is_reported(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(UserError, match=r"report\.json cannot be written"):
        save(make_report(), tmp_path / "file")


def by_user(known: int | None, kind: PairKind | None = None) -> UserResult:
    worst = {name: Estimate(value=0.21, low=None, high=None) for name in METRICS}
    return UserResult(
        known=known, parts=("ugc",), direction=None, kind=kind, cases=99, users=40, mean=METRICS, worst=worst
    )


def test_users_and_kinds_have_a_table_and_a_curve() -> None:
    report = make_report(poles=0).model_copy(
        update={
            "kinds": (KindResult(kind="restraint", cases=7, metrics=METRICS),),
            "users": (by_user(None), by_user(None, "near"), by_user(0), by_user(4), by_user(4, "mined")),
        }
    )

    text = printed(report)

    for words in ("restraint", "By user", "whole persona", "alignment, worst tenth", "21.0"):
        assert words in text
    assert "near" in text and "mined" not in text
    _, curve = figure(report).axes
    assert list(curve.lines[0].get_xdata()) == [0, 4]
    assert [label.get_text() for label in curve.get_legend().get_texts()] == [
        "alignment, mean", "alignment, worst tenth", "absolute, mean", "absolute, worst tenth",
    ]  # fmt: skip
