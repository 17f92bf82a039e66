"""The report of an evaluation: a record, tables on a terminal, JSON and a figure."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any, Literal

from rich.console import Console
from rich.table import Table
from rich.text import Text

from everyuser_train.config import Part
from everyuser_train.files import replacing
from everyuser_train.metrics import Estimate
from everyuser_train.personas import Source
from schemas.base import Record
from schemas.terminal import print_table, safe

Kind = Literal["persona", "length", "shuffled", "none"]

REPORT_FILE = "report.json"
FIGURE_FILE = "report.png"

_TABLE_METRICS = ("alignment", "alignment_per_token", "absolute", "absolute_per_token", "reference_absolute", "margin")
_MAX_BARS = 30
"""Most dimensions in the figure; those with the most cases are kept."""


class Result(Record):
    """Metrics of all cases under one way to show the persona.

    Attributes:
        kind: Parts of the persona (`persona`), its first `items` of each kind (`length`), another person's persona
            (`shuffled`), or `none`.
        direction: PBA's direction.
        dropped: Cases beyond the length limit.
        shortened: Cases with history items cut.
        mean_items: Mean number of history items before the cut.
    """

    kind: Kind
    parts: tuple[Part, ...]
    direction: Source | None
    items: int | None
    cases: int
    posts: int
    dropped: int
    shortened: int
    mean_items: float
    metrics: dict[str, Estimate]


class Contrast(Record):
    """The result with the own persona minus that of a control, case by case."""

    kind: Literal["shuffled", "none"]
    direction: Source | None
    cases: int
    metrics: dict[str, Estimate]


class Flip(Record):
    """Effect of reversed history and target pairs on the order of the replies, see `metrics.flips`."""

    direction: Source | None
    cases: int
    posts: int
    metrics: dict[str, Estimate]


class PoleResult(Record):
    """Metrics of the cases whose direction has one pole in one dimension."""

    dimension: int
    slug: str
    label: str
    level: Literal[1, -1]
    cases: int
    metrics: dict[str, Estimate]


class Report(Record):
    """An evaluation. Intervals come from a percentile bootstrap over posts, with coverage `level`."""

    model: str
    reference: str
    data: str
    split: str
    method: Literal["ica", "pba"]
    dtype: str
    seed: int
    level: float
    examples: int
    seconds: float
    results: tuple[Result, ...]
    contrasts: tuple[Contrast, ...]
    flips: tuple[Flip, ...]
    dimensions: tuple[PoleResult, ...]
    notes: tuple[str, ...]


def show(report: Report, console: Console) -> None:
    """Print the report as tables."""
    title = f"{report.model} against {report.reference}, {report.method.upper()}, {report.data} ({report.split})"
    table = Table("persona", "cases", "items", *map(_heading, _TABLE_METRICS), title=_text(title))
    for result in report.results:
        items = f"{result.mean_items:.1f}"
        table.add_row(_name(result), str(result.cases), items, *_cells(result.metrics, _TABLE_METRICS))
    for contrast in report.contrasts:
        name = f"own minus {_KINDS[contrast.kind]}{_suffix(contrast.direction)}"
        table.add_row(name, str(contrast.cases), "", *_cells(contrast.metrics, _TABLE_METRICS, signed=True))
    print_table(console, table)
    if report.flips:
        names = tuple(report.flips[0].metrics)
        table = Table("flip", "cases", *map(_heading, names), title="History and target pairs reversed")
        for flip in report.flips:
            source = flip.direction or "pairs"
            table.add_row(source, str(flip.cases), *_cells(flip.metrics, names))
        print_table(console, table)
    if report.dimensions:
        names = ("alignment", "absolute")
        table = Table("dimension", "pole", "cases", *map(_heading, names), title="By dimension and direction")
        for pole in report.dimensions:
            label = _text(f"{'+' if pole.level > 0 else '-'} {pole.label}")
            table.add_row(_text(pole.slug), label, str(pole.cases), *_cells(pole.metrics, names))
        print_table(console, table)
    for note in report.notes:
        console.print(_text(f"note: {note}"), soft_wrap=True)
    console.print(
        f"{report.examples} examples, {report.seconds:.0f} s; {report.level:.0%} intervals, clustered by post",
        soft_wrap=True,
    )


def save(report: Report, folder: Path) -> None:
    """Write `report.json` and `report.png`, each atomically. Raises `UserError` if the folder cannot be written."""
    with replacing(folder / REPORT_FILE) as path:
        path.write_text(report.model_dump_json(indent=2) + "\n", encoding="utf-8")
    with replacing(folder / FIGURE_FILE) as path:
        figure(report).savefig(path, format="png", dpi=150)


def figure(report: Report) -> Any:
    """Return a matplotlib figure: accuracy by history length and by dimension; by persona if it has neither."""
    # A slow import that only this function needs.
    from matplotlib.figure import Figure

    lengths = [result for result in report.results if result.kind == "length"]
    panels: list[tuple[float, Callable[[Any], None]]] = []
    if lengths:
        panels.append((4.5, lambda axes: _draw_lengths(axes, report, lengths)))
    if report.dimensions:
        busiest = sorted(report.dimensions, key=lambda pole: -pole.cases)
        slugs = set(list(dict.fromkeys(pole.slug for pole in busiest))[:_MAX_BARS])
        poles = [pole for pole in report.dimensions if pole.slug in slugs]
        panels.append((max(4.5, 0.28 * len(slugs) + 1), lambda axes: _draw_poles(axes, poles)))
    if not panels:
        panels.append((4.5, lambda axes: _draw_results(axes, report.results)))
    drawing = Figure(figsize=(7 * len(panels), max(height for height, _ in panels)), layout="constrained")
    for axes, (_, draw) in zip(drawing.subplots(1, len(panels), squeeze=False)[0], panels, strict=True):
        draw(axes)
    title = f"{report.model} against {report.reference}, {report.method.upper()}"
    drawing.suptitle(_safe(title), parse_math=False, fontsize="medium")
    return drawing


def _draw_lengths(axes: Any, report: Report, lengths: Sequence[Result]) -> None:
    for source in dict.fromkeys(result.direction for result in lengths):
        line = [result for result in lengths if result.direction == source]
        for metric in ("alignment", "absolute"):
            values = [result.metrics[metric] for result in line]
            axes.errorbar(
                [result.items for result in line],
                [estimate.value for estimate in values],
                yerr=_errors(values),
                marker="o",
                capsize=3,
                label=f"{_heading(metric)}{_suffix(source)}",
            )
    for result in report.results:
        if result.kind in ("shuffled", "none"):
            colour = "tab:gray" if result.kind == "none" else "tab:red"
            name = f"alignment, {_name(result)}"
            axes.axhline(result.metrics["alignment"].value, linestyle="--", linewidth=1, color=colour, label=name)
    axes.axhline(0.5, linestyle=":", linewidth=1, color="black")
    axes.set_xticks(sorted({result.items or 0 for result in lengths}))
    axes.set_xlabel("history items of each kind")
    axes.set_ylabel("accuracy")
    axes.legend(fontsize="small")


def _draw_poles(axes: Any, poles: Sequence[PoleResult]) -> None:
    slugs = list(dict.fromkeys(pole.slug for pole in poles))
    for level, offset, colour in ((1, -0.2, "tab:blue"), (-1, 0.2, "tab:orange")):
        these = [pole for pole in poles if pole.level == level]
        values = [pole.metrics["alignment"] for pole in these]
        axes.barh(
            [slugs.index(pole.slug) + offset for pole in these],
            [estimate.value for estimate in values],
            xerr=_errors(values),
            height=0.38,
            color=colour,
            error_kw={"elinewidth": 0.8, "ecolor": "black"},
            label="positive" if level > 0 else "negative",
        )
    axes.axvline(0.5, linestyle=":", linewidth=1, color="black")
    axes.set_yticks(range(len(slugs)))
    axes.set_yticklabels(map(_safe, slugs), parse_math=False, fontsize="small")
    axes.invert_yaxis()
    axes.set_xlim(0, 1)
    axes.set_xlabel("alignment accuracy")
    axes.legend(fontsize="small")


def _draw_results(axes: Any, results: Sequence[Result]) -> None:
    values = [result.metrics["alignment"] for result in results]
    axes.barh(range(len(results)), [estimate.value for estimate in values], xerr=_errors(values))
    axes.axvline(0.5, linestyle=":", linewidth=1, color="black")
    axes.set_yticks(range(len(results)))
    axes.set_yticklabels([_name(result) for result in results], fontsize="small")
    axes.invert_yaxis()
    axes.set_xlim(0, 1)
    axes.set_xlabel("alignment accuracy")


def _errors(values: Sequence[Estimate]) -> list[list[float]]:
    """Return the error bars for matplotlib: distances below and above, 0 without an interval."""
    return [
        [max(0.0, e.value - e.low) if e.low is not None else 0.0 for e in values],
        [max(0.0, e.high - e.value) if e.high is not None else 0.0 for e in values],
    ]


_KINDS = {"shuffled": "someone else's persona", "none": "no persona"}


def _name(result: Result) -> str:
    if result.kind in _KINDS:
        return _KINDS[result.kind] + _suffix(result.direction)
    parts = "+".join(result.parts) or "true direction"
    items = f", {result.items} items" if result.kind == "length" else ""
    return parts + items + (_suffix(result.direction) if result.parts else "")


def _suffix(direction: Source | None) -> str:
    return {None: "", "target": " (true direction)", "history": " (direction of the history)"}[direction]


def _heading(metric: str) -> str:
    return metric.replace("_", " ")


def _cells(metrics: dict[str, Estimate], names: Iterable[str], *, signed: bool = False) -> list[str]:
    return [_cell(metrics[name], percent=name != "margin", signed=signed) if name in metrics else "" for name in names]


def _cell(estimate: Estimate, *, percent: bool, signed: bool) -> str:
    scale, digits = (100, 1) if percent else (1, 2)
    style = f"{'+' if signed or not percent else ''}.{digits}f"
    value = f"{estimate.value * scale:{style}}"
    if estimate.low is None or estimate.high is None:
        return value
    # On a second line, since a row with both is wider than most terminals.
    return f"{value}\n[{estimate.low * scale:{style}}, {estimate.high * scale:{style}}]"


def _text(text: str) -> Text:
    return Text(_safe(text))


def _safe(text: str) -> str:
    """Return a text of a dataset in one line, safe for a terminal or a figure."""
    return safe(text).replace("\n", " ")
