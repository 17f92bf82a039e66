"""Aims of training on planted truth, and whether an evaluation reaches them."""

from __future__ import annotations

from itertools import pairwise
from typing import Any, NamedTuple

Report = dict[str, Any]

_ACCURACIES = ("alignment", "absolute")


class Aim(NamedTuple):
    """A figure in percent, and the range that it is to be in."""

    name: str
    value: float
    low: float
    high: float = 100.0

    @property
    def line(self) -> str:
        """Return the figure as a row of a Markdown table."""
        reached = "yes" if self.low <= self.value <= self.high else "no"
        return f"| {self.name} | {self.value:.1f} | {self.low:g} to {self.high:g} | {reached} |"


def aims(report: Report) -> list[Aim]:
    """Return the aims of an evaluation's method. `report` is the content of `report.json`."""
    of_kind = {result["kind"]: result["metrics"] for result in reversed(report["results"])}
    own = of_kind["persona"]
    if report["method"] == "pba":
        return [Aim("alignment, true direction", _percent(own["alignment"]), 90)]
    found = [Aim(name, _percent(own[name]), 85) for name in _ACCURACIES]
    for kind, name in (("shuffled", "someone else's persona"), ("none", "no persona")):
        found += [Aim(f"{metric}, {name}", _percent(of_kind[kind][metric]), 45, 55) for metric in _ACCURACIES]
    # Users know exact numbers of items; else an item of each kind is added at a time.
    kind = "known" if "known" in of_kind else "length"
    curve = [_percent(result["metrics"]["alignment"]) for result in report["results"] if result["kind"] == kind]
    listed = ", ".join(f"{value:.1f}" for value in curve)
    found.append(Aim(f"smallest step of alignment by items ({listed})", min(b - a for a, b in pairwise(curve)), -2))
    reversals = [_percent(flip["metrics"]["reversed"]) for flip in report["flips"]]
    return found + [Aim("order reversed by the flip", value, 70) for value in reversals]


def _percent(estimate: dict[str, Any]) -> float:
    # Rounded as it is printed: 100 * 0.55 is above 55.
    return round(100.0 * float(estimate["value"]), 1)
