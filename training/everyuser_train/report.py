"""The report of an evaluation: a record, tables on a terminal, and files."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Literal

from rich.console import Console
from rich.table import Table
from rich.text import Text

from everyuser_train.config import Method, Part, Source
from everyuser_train.files import replacing
from everyuser_train.metrics import Estimate
from schemas.base import Record
from schemas.records import Kind as PairKind
from schemas.terminal import print_table, safe

Kind = Literal["persona", "length", "known", "shuffled", "none"]

REPORT_FILE = "report.json"
FIGURE_FILE = "report.png"

_REWARD_METRICS = ("accuracy", "margin")
_METRICS = ("alignment", "alignment_per_token", "absolute", "absolute_per_token", "reference_absolute", "margin")


class Result(Record):
    """Metrics of all cases under one way to show the persona.

    Attributes:
        kind: Parts of the persona (`persona`), its first `items` of each kind (`length`) or of both kinds together
            (`known`), another person's persona (`shuffled`), or `none`.
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


class KindResult(Record):
    """Metrics of the pairs of one kind under the first way to show the persona."""

    kind: PairKind
    cases: int
    metrics: dict[str, Estimate]


class UserResult(Record):
    """Metrics by user. Each user counts the same; a user and its mirror image are two, and one cluster of intervals.

    Attributes:
        known: Items of the user's history in the prompt, without the portrait; None for the whole persona.
        kind: Kind of the pairs; None for all.
        mean: Means over users of their own means.
        worst: Means over the tenth of users whose own mean is lowest, at least one user; with an interval from 200
            users on.
    """

    known: int | None
    parts: tuple[Part, ...]
    direction: Source | None
    kind: PairKind | None
    cases: int
    users: int
    mean: dict[str, Estimate]
    worst: dict[str, Estimate]


class PoleResult(Record):
    """Metrics of the cases whose direction has one pole in one dimension."""

    dimension: int
    slug: str
    label: str
    level: Literal[1, -1]
    cases: int
    metrics: dict[str, Estimate]


class Report(Record):
    """An evaluation. Intervals have coverage `level` and are by post, see `metrics.estimates`.

    Attributes:
        reference: The reference; None for a reward model.
    """

    model: str
    reference: str | None
    data: str
    split: str
    method: Method
    dtype: str
    seed: int
    level: float
    examples: int
    seconds: float
    results: tuple[Result, ...]
    contrasts: tuple[Contrast, ...]
    kinds: tuple[KindResult, ...]
    users: tuple[UserResult, ...]
    flips: tuple[Flip, ...]
    dimensions: tuple[PoleResult, ...]
    notes: tuple[str, ...]

    @property
    def columns(self) -> tuple[str, ...]:
        """Return the metrics of the main table."""
        return _REWARD_METRICS if self.reference is None else _METRICS

    @property
    def accuracies(self) -> tuple[str, ...]:
        """Return the metrics of small tables and of the figure, the main one first."""
        return ("accuracy",) if self.reference is None else ("alignment", "absolute")

    @property
    def title(self) -> str:
        """Return what was evaluated, in words."""
        model = f"reward model {self.model}" if self.reference is None else f"{self.model} against {self.reference}"
        return f"{model}, {self.method.upper()}"


def show(report: Report, console: Console) -> None:
    """Print the report as tables."""
    columns, accuracies = report.columns, report.accuracies
    title = f"{report.title}, {report.data} ({report.split})"
    table = Table("persona", "cases", "items", *map(heading, columns), title=_text(title))
    for result in report.results:
        items = f"{result.mean_items:.1f}"
        table.add_row(name_of(result), str(result.cases), items, *_cells(result.metrics, columns))
    for contrast in report.contrasts:
        name = f"own minus {_KINDS[contrast.kind]}{suffix_of(contrast.direction)}"
        table.add_row(name, str(contrast.cases), "", *_cells(contrast.metrics, columns, signed=True))
    print_table(console, table)
    if report.kinds:
        table = Table("kind", "cases", *map(heading, accuracies), title="By kind of pairs")
        for entry in report.kinds:
            table.add_row(entry.kind, str(entry.cases), *_cells(entry.metrics, accuracies))
        print_table(console, table)
    if report.users:
        _show_users(report, console)
    if report.flips:
        names = tuple(report.flips[0].metrics)
        table = Table("flip", "cases", *map(heading, names), title="History and target pairs reversed")
        for flip in report.flips:
            source = flip.direction or "pairs"
            table.add_row(source, str(flip.cases), *_cells(flip.metrics, names))
        print_table(console, table)
    if report.dimensions:
        table = Table("dimension", "pole", "cases", *map(heading, accuracies), title="By dimension and direction")
        for pole in report.dimensions:
            label = _text(f"{'+' if pole.level > 0 else '-'} {pole.label}")
            table.add_row(_text(pole.slug), label, str(pole.cases), *_cells(pole.metrics, accuracies))
        print_table(console, table)
    for note in report.notes:
        console.print(_text(f"note: {note}"), soft_wrap=True)
    console.print(
        f"{report.examples} examples, {report.seconds:.0f} s; {report.level:.0%} intervals, clustered by post",
        soft_wrap=True,
    )


def _show_users(report: Report, console: Console) -> None:
    columns = [f"{heading(name)}, {which}" for name in report.accuracies for which in ("mean", "worst tenth")]
    table = Table("known items", "pairs", "users", "cases", *columns, title="By user, intervals by user")
    for entry in report.users:
        # By known items and kind the table would be long; report.json has both.
        if entry.known is not None and entry.kind is not None:
            continue
        known = "whole persona" if entry.known is None else str(entry.known)
        cells = [
            cell for name in report.accuracies for side in (entry.mean, entry.worst) for cell in _cells(side, (name,))
        ]
        name = known + suffix_of(entry.direction)
        table.add_row(name, entry.kind or "all", str(entry.users), str(entry.cases), *cells)
    print_table(console, table)


def save(report: Report, folder: Path) -> None:
    """Write `report.json` and `report.png`, each atomically. Raises `UserError` if the folder cannot be written."""
    # A slow import, of matplotlib, that only this function needs.
    from everyuser_train.figure import figure

    with replacing(folder / REPORT_FILE) as path:
        path.write_text(report.model_dump_json(indent=2) + "\n", encoding="utf-8")
    with replacing(folder / FIGURE_FILE) as path:
        figure(report).savefig(path, format="png", dpi=150)


_KINDS = {"shuffled": "someone else's persona", "none": "no persona"}


def name_of(result: Result) -> str:
    """Return how a result shows the persona, in words."""
    if result.kind in _KINDS:
        return _KINDS[result.kind] + suffix_of(result.direction)
    parts = "+".join(result.parts) or "true direction"
    items = {"length": f", {result.items} items", "known": f", {result.items} items in all"}.get(result.kind, "")
    return parts + items + (suffix_of(result.direction) if result.parts else "")


def suffix_of(direction: Source | None) -> str:
    """Return what to append to a name for the origin of PBA's direction."""
    return {
        None: "",
        "target": " (true direction)",
        "history": " (direction of the history)",
        "user": " (direction of the user)",
    }[direction]


def heading(metric: str) -> str:
    """Return the name of a metric in words."""
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
    return Text(one_line(text))


def one_line(text: str) -> str:
    """Return a text of a dataset in one line, safe for a terminal or a figure."""
    return safe(text).replace("\n", " ")
