"""The figure of an evaluation."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from typing import Any

from matplotlib.figure import Figure

from everyuser_train.metrics import Estimate
from everyuser_train.report import (
    PoleResult,
    Report,
    Result,
    heading,
    name_of,
    one_line,
    suffix_of,
)

_MAX_BARS = 30
"""Most dimensions in the figure; those with the most cases are kept."""


def figure(report: Report) -> Any:
    """Return a matplotlib figure: accuracy by history length, by known items and by dimension, or else by persona."""
    lengths = [result for result in report.results if result.kind == "length"]
    panels: list[tuple[float, Callable[[Any], None]]] = []
    if lengths:
        panels.append((4.5, lambda axes: _draw_lengths(axes, report, lengths)))
    if any(entry.known is not None for entry in report.users):
        panels.append((4.5, lambda axes: _draw_users(axes, report)))
    if report.dimensions:
        busiest = sorted(report.dimensions, key=lambda pole: -pole.cases)
        slugs = set(list(dict.fromkeys(pole.slug for pole in busiest))[:_MAX_BARS])
        poles = [pole for pole in report.dimensions if pole.slug in slugs]
        panels.append((max(4.5, 0.28 * len(slugs) + 1), lambda axes: _draw_poles(axes, poles, report.accuracies[0])))
    if not panels:
        panels.append((4.5, lambda axes: _draw_results(axes, report)))
    drawing = Figure(figsize=(7 * len(panels), max(height for height, _ in panels)), layout="constrained")
    for axes, (_, draw) in zip(drawing.subplots(1, len(panels), squeeze=False)[0], panels, strict=True):
        draw(axes)
    drawing.suptitle(one_line(report.title), parse_math=False, fontsize="medium")
    return drawing


def _draw_lengths(axes: Any, report: Report, lengths: Sequence[Result]) -> None:
    for source in dict.fromkeys(result.direction for result in lengths):
        line = [result for result in lengths if result.direction == source]
        for metric in report.accuracies:
            points = {result.items or 0: result.metrics[metric] for result in line}
            _draw_curve(axes, points, f"{heading(metric)}{suffix_of(source)}")
    main = report.accuracies[0]
    for result in report.results:
        if result.kind in ("shuffled", "none"):
            colour = "tab:gray" if result.kind == "none" else "tab:red"
            name = f"{main}, {name_of(result)}"
            axes.axhline(result.metrics[main].value, linestyle="--", linewidth=1, color=colour, label=name)
    _label_curves(axes, {result.items or 0 for result in lengths}, "history items of each kind", "accuracy")


def _draw_users(axes: Any, report: Report) -> None:
    whole = [entry for entry in report.users if entry.known is not None and entry.kind is None]
    for source in dict.fromkeys(entry.direction for entry in whole):
        line = [entry for entry in whole if entry.direction == source]
        for metric in report.accuracies:
            for style, name in (("-", "mean"), ("--", "worst tenth")):
                points = {entry.known or 0: (entry.mean if name == "mean" else entry.worst)[metric] for entry in line}
                _draw_curve(axes, points, f"{metric}, {name}{suffix_of(source)}", style)
    _label_curves(axes, {entry.known or 0 for entry in whole}, "known items of the user's history", "accuracy by user")


def _draw_curve(axes: Any, points: Mapping[int, Estimate], label: str, style: str = "-") -> None:
    """Draw estimates by number of items, with their intervals."""
    values = [estimate.value for estimate in points.values()]
    errors = _errors([*points.values()])
    axes.errorbar([*points], values, yerr=errors, marker="o", capsize=3, linestyle=style, label=label)


def _label_curves(axes: Any, items: Collection[int], items_are: str, values_are: str) -> None:
    axes.axhline(0.5, linestyle=":", linewidth=1, color="black")
    axes.set_xticks(sorted(items))
    axes.set_xlabel(items_are)
    axes.set_ylabel(values_are)
    axes.legend(fontsize="small")


def _draw_poles(axes: Any, poles: Sequence[PoleResult], metric: str) -> None:
    slugs = list(dict.fromkeys(pole.slug for pole in poles))
    for level, offset, colour in ((1, -0.2, "tab:blue"), (-1, 0.2, "tab:orange")):
        these = [pole for pole in poles if pole.level == level]
        values = [pole.metrics[metric] for pole in these]
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
    axes.set_yticklabels(map(one_line, slugs), parse_math=False, fontsize="small")
    axes.invert_yaxis()
    axes.set_xlim(0, 1)
    axes.set_xlabel(_accuracy(metric))
    axes.legend(fontsize="small")


def _draw_results(axes: Any, report: Report) -> None:
    results, metric = report.results, report.accuracies[0]
    values = [result.metrics[metric] for result in results]
    axes.barh(range(len(results)), [estimate.value for estimate in values], xerr=_errors(values))
    axes.axvline(0.5, linestyle=":", linewidth=1, color="black")
    axes.set_yticks(range(len(results)))
    axes.set_yticklabels([name_of(result) for result in results], fontsize="small")
    axes.invert_yaxis()
    axes.set_xlim(0, 1)
    axes.set_xlabel(_accuracy(metric))


def _accuracy(metric: str) -> str:
    return metric if metric == "accuracy" else f"{heading(metric)} accuracy"


def _errors(values: Sequence[Estimate]) -> list[list[float]]:
    """Return the error bars for matplotlib: distances below and above, 0 without an interval."""
    return [
        [max(0.0, e.value - e.low) if e.low is not None else 0.0 for e in values],
        [max(0.0, e.high - e.value) if e.high is not None else 0.0 for e in values],
    ]
