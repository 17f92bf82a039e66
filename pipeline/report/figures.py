"""The main figures of a report as SVG pictures for the dataset's card.

SVG is sharp at any size, takes a few kilobytes and needs no plotting library. Equal reports give equal bytes. The Hub
and GitHub show the pictures as images, in which no script runs. A picture cannot know the page's colours, so each has
a light background.
"""

from __future__ import annotations

import itertools
import math
import xml.etree.ElementTree as ET
from collections.abc import Callable, Iterable, Sequence
from typing import NamedTuple

from pipeline.io.storage import AnyPath, write_text
from schemas.report import DimensionFigures, Figure, Report

_INK, _SOFT, _LINE, _PAPER = "#1b1d20", "#596067", "#e2e2de", "#ffffff"
_BAR, _POSITIVE, _NEGATIVE = "#8793a0", "#2166ac", "#b35806"
_FONT = "system-ui, -apple-system, 'Segoe UI', Roboto, 'Helvetica Neue', Arial, sans-serif"
_MARGIN = 24
_TOP = 78
"""Top of a drawing, below the title and the line that explains it."""

_DIMENSIONS_MOST = 100
_REASONS_MOST = 12
_SHADES = 10


class _Drawing(NamedTuple):
    svg: ET.Element
    alt: str


def write_figures(report: Report, folder: AnyPath) -> tuple[Figure, ...]:
    """Write the pictures into `folder/figures` and return them. A picture without data is left out."""
    made = []
    for name, draw in _DRAWINGS.items():
        drawn = draw(report)
        if drawn is not None:
            path = f"figures/{name}.svg"
            write_text(folder / path, ET.tostring(drawn.svg, encoding="unicode") + "\n")
            made.append(Figure(path, drawn.alt))
    return tuple(made)


def _balance(report: Report) -> _Drawing | None:
    """Draw how often each pole is active: two columns of diverging bars, by group."""
    occur = sorted((d for d in report.dimensions if d.positive + d.negative), key=_activity)[:_DIMENSIONS_MOST]
    if not occur:
        return None
    order = {group: k for k, group in enumerate(dict.fromkeys(d.group for d in report.dimensions))}
    place = {d.slug: k for k, d in enumerate(report.dimensions)}
    occur.sort(key=lambda d: (order[d.group], place[d.slug]))
    rows: list[str | DimensionFigures] = []
    for group, members in itertools.groupby(occur, lambda d: d.group):
        rows += [_spaced(group), *members]
    most = max(max(d.positive, d.negative) for d in occur)
    tall = math.ceil(len(rows) / 2)
    alt = (
        f"Examples in which each pole of {len(occur)} dimensions is active; from "
        f"{_count(min(min(d.positive, d.negative) for d in occur))} to {_count(most)} a pole."
    )
    svg = _panel(
        900,
        _TOP + 15 * tall + _MARGIN,
        "Which preferences do the examples express?",
        f"Examples by dimension: negative pole to the left, positive to the right; the longest bar is {_count(most)}.",
        alt,
    )
    for k, row in enumerate(rows):
        left, y = _MARGIN + 436 * (k // tall), _TOP + 15 * (k % tall)
        if isinstance(row, str):
            _label(svg, left, y + 11, _text(row, 50), weight="600", size=11)
            continue
        middle = left + 308
        _label(svg, left, y + 11, _text(row.name, 31), size=11)
        for level, number, color in ((-1, row.negative, _NEGATIVE), (1, row.positive, _POSITIVE)):
            width = 105 * number / most
            _box(svg, middle - width if level < 0 else middle + 1, y + 3, width, 9, color)
    return _Drawing(svg, alt)


def _activity(dimension: DimensionFigures) -> int:
    return -(dimension.positive + dimension.negative)


def _funnel(report: Report) -> _Drawing | None:
    """Draw the accepted pairs and the reasons of the rejections."""
    counts = report.counts
    if not counts.pairs_accepted and not counts.rejected:
        return None
    reasons = sorted(counts.rejected.items(), key=lambda reason: -reason[1])
    shown, rest = reasons[:_REASONS_MOST], sum(number for _, number in reasons[_REASONS_MOST:])
    if rest:
        shown.append((f"{len(reasons) - _REASONS_MOST} other reasons", rest))
    rejected = sum(counts.rejected.values())
    alt = (
        f"{_count(counts.pairs_accepted)} pairs accepted of {_count(counts.pairs_asked)} configured, with "
        f"{_count(rejected)} rejections" + (f", most often {_text(reasons[0][0], 60)}." if reasons else ".")
    )
    title = f"{_count(counts.pairs_accepted)} pairs accepted, and rejections by reason."
    svg = _panel(720, _TOP + 24 * (len(shown) + 1) + _MARGIN, "What became of the attempts?", title, alt)
    most = max(counts.pairs_accepted, *(number for _, number in shown), 1)
    bars = [("accepted pairs", counts.pairs_accepted, _POSITIVE), *((*reason, _BAR) for reason in shown)]
    for k, (name, number, color) in enumerate(bars):
        y = _TOP + 24 * k
        width = 310 * number / most
        _label(svg, _MARGIN, y + 14, _text(name, 36))
        _box(svg, 290, y + 3, width, 14, color)
        _label(svg, 298 + width, y + 14, _count(number), color=_SOFT)
    return _Drawing(svg, alt)


def _correlations(report: Report) -> _Drawing | None:
    """Draw the triangle of correlations, with the names of groups beside the diagonal."""
    slugs, matrix = report.correlation.slugs, report.correlation.matrix
    if len(slugs) < 2:
        return None
    group = {d.slug: d.group for d in report.dimensions}
    rank = {name: k for k, name in enumerate(dict.fromkeys(group.values()))}
    order = sorted(range(len(slugs)), key=lambda k: rank.get(group.get(slugs[k], ""), len(rank)))
    end = _scale_end(matrix)
    cell = max(2, 630 // len(slugs))
    side = cell * len(slugs)
    below = report.correlation.below_half
    strongest = report.correlation.strongest[:1]
    names = {d.slug: _text(d.name, 50) for d in report.dimensions}
    alt = f"Correlations of {len(slugs)} dimensions." + "".join(
        f" Strongest: {names.get(p.a, p.a)} and {names.get(p.b, p.b)}, {p.correlation:+.2f}." for p in strongest
    )
    below_half = "" if below is None else f"{_percent(below)} of all pairs are below 0.5 in absolute value. "
    svg = _panel(
        2 * _MARGIN + max(side, 560),
        _TOP + side + 62,
        "Do preferences come in clusters?",
        f"{below_half}Blue is positive, orange negative.",
        alt,
    )
    for shade, path in _shades(matrix, order, end, cell).items():
        color = "#f1f1ee" if shade == 0 else _POSITIVE if shade > 0 else _NEGATIVE
        opacity = 1 if shade == 0 else abs(shade) / _SHADES
        _add(svg, "path", d=path, fill=color, fill_opacity=opacity, transform=f"translate({_MARGIN} {_TOP})")
    _group_names(svg, [group.get(slugs[k], "") for k in order], cell)
    _scale(svg, _TOP + side + 22, end)
    return _Drawing(svg, alt)


def _scale_end(matrix: Sequence[Sequence[float]]) -> float:
    """Return the end of the colour scale: the 99.5th percentile, so that a few strong ones do not pale the rest."""
    sizes = sorted(abs(row[j]) for i, row in enumerate(matrix) for j in range(i))
    return min(1.0, max(0.1, math.ceil(20 * sizes[int(0.995 * (len(sizes) - 1))]) / 20))


def _shades(matrix: Sequence[Sequence[float]], order: Sequence[int], end: float, cell: int) -> dict[int, str]:
    """Return one path for all cells of a shade; adjacent cells of a row are one rectangle."""
    paths: dict[int, list[str]] = {}
    for i, row in enumerate(order):
        levels = [round(max(-1.0, min(1.0, matrix[row][order[j]] / end)) * _SHADES) for j in range(i)]
        at = 0
        for shade, run in itertools.groupby(levels):
            length = len(list(run))
            paths.setdefault(shade, []).append(f"M{at * cell} {i * cell}h{length * cell}v{cell}h-{length * cell}z")
            at += length
    return {shade: "".join(parts) for shade, parts in sorted(paths.items())}


def _group_names(svg: ET.Element, groups: Sequence[str], cell: int) -> None:
    start = 0
    for name, members in itertools.groupby(groups):
        end = start + len(list(members))
        side = cell * len(groups)
        if end < len(groups):
            corner = f"M0 {end * cell}h{end * cell}V{side}"
            place = f"translate({_MARGIN} {_TOP})"
            _add(svg, "path", d=corner, fill="none", stroke=_SOFT, stroke_width=0.7, transform=place)
        middle = (start + end) / 2 * cell
        room = int((side - middle) / 7)
        if (end - start) * cell >= 12 and room > 5:
            _label(svg, _MARGIN + middle + 10, _TOP + middle, _text(_spaced(name), min(30, room)), color=_SOFT)
        start = end


def _scale(svg: ET.Element, y: float, end: float) -> None:
    _label(svg, _MARGIN, y + 10, f"\u2264 \u2212{end:.2f}", color=_SOFT)
    for k in range(-_SHADES, _SHADES + 1):
        color = "#f1f1ee" if k == 0 else _POSITIVE if k > 0 else _NEGATIVE
        _box(svg, _MARGIN + 60 + 9 * (k + _SHADES), y, 9, 11, color, 1 if k == 0 else abs(k) / _SHADES)
    _label(svg, _MARGIN + 257, y + 10, f"\u2265 +{end:.2f}", color=_SOFT)


def _history(report: Report) -> _Drawing | None:
    """Draw the examples by the share of their dimensions that the history supports."""
    support = report.history.support
    if not sum(support.counts) or not sum(report.history.items[1:]):
        return None
    alt = (
        f"Share of an example's dimensions that its history supports: {_percent(support.mean)} on average, "
        f"{_percent(support.median)} at the median."
    )
    line = f"Examples by the share of their dimensions that an item supports; {_percent(support.mean)} on average."
    svg = _panel(720, 360, "How much of the direction does the history support?", line, alt)
    bottom, left, wide = 310, _MARGIN + 44, 720 - 2 * _MARGIN - 44
    most = max(support.counts)
    step = wide / len(support.counts)
    for value in _ticks(most):
        y = bottom - (bottom - _TOP - 10) * value / most
        _add(svg, "path", d=f"M{left} {y:.1f}h{wide}", stroke=_LINE if value else _SOFT, stroke_width=1)
        _label(svg, left - 8, y + 4, _count(value), color=_SOFT, anchor="end")
    for k, number in enumerate(support.counts):
        height = (bottom - _TOP - 10) * number / most
        _box(svg, left + k * step + 2, bottom - height, step - 4, height, _BAR)
    every = math.ceil(len(support.counts) / 10)
    for k in range(0, len(support.edges), every):
        _label(svg, left + k * step, bottom + 20, f"{support.edges[k]:g}", color=_SOFT, anchor="middle")
    return _Drawing(svg, alt)


_DRAWINGS: dict[str, Callable[[Report], _Drawing | None]] = {
    "balance": _balance,
    "correlations": _correlations,
    "history": _history,
    "funnel": _funnel,
}


def _panel(width: float, height: float, title: str, line: str, alt: str) -> ET.Element:
    """Return a picture with its background, its title and the line below it."""
    svg = ET.Element(
        "svg",
        {
            "xmlns": "http://www.w3.org/2000/svg",
            "viewBox": f"0 0 {width:g} {height:g}",
            "width": f"{width:g}",
            "height": f"{height:g}",
            "font-family": _FONT,
            "font-size": "12.5",
            "role": "img",
        },
    )
    ET.SubElement(svg, "title").text = alt
    _add(svg, "rect", x=0.5, y=0.5, width=width - 1, height=height - 1, rx=8, fill=_PAPER, stroke=_LINE)
    _label(svg, _MARGIN, 36, title, weight="650", size=17)
    _label(svg, _MARGIN, 57, line, color=_SOFT)
    return svg


def _add(parent: ET.Element, tag: str, **attributes: float | str) -> ET.Element:
    """Add an element. Underscores in attribute names become hyphens, and numbers are rounded."""
    written = {
        name.replace("_", "-"): value if isinstance(value, str) else f"{round(value, 2):g}"
        for name, value in attributes.items()
    }
    return ET.SubElement(parent, tag, written)


def _box(svg: ET.Element, x: float, y: float, width: float, height: float, color: str, opacity: float = 1) -> None:
    faded = {"fill_opacity": opacity} if opacity != 1 else {}
    _add(svg, "rect", x=x, y=y, width=width, height=height, fill=color, **faded)


def _label(
    svg: ET.Element,
    x: float,
    y: float,
    text: str,
    color: str = _INK,
    anchor: str = "start",
    weight: str = "400",
    size: float = 12.5,
) -> None:
    _add(svg, "text", x=x, y=y, fill=color, text_anchor=anchor, font_weight=weight, font_size=size).text = text


def _text(text: str, length: int) -> str:
    """Return a text of at most `length` characters, without those that XML forbids or that change the direction."""
    plain = " ".join("".join(c if c.isprintable() else " " for c in text[: 4 * length]).split())
    return plain if len(plain) <= length else plain[: length - 1].rstrip() + "\u2026"


def _spaced(name: str) -> str:
    return name[:1].upper() + name[1:].replace("_", " ")


def _count(number: int) -> str:
    return f"{number:,}".replace(",", "\u202f")


def _percent(share: float) -> str:
    """Return a share in percent. Only 0 and 1 are shown as 0 and 100 %."""
    if share in (0, 1):
        return f"{100 * share:.0f}\u202f%"
    return f"{min(99.9, max(0.1, 100 * share)):.1f}\u202f%"


def _ticks(most: int) -> Iterable[int]:
    """Return 0 and at most five round numbers up to `most`."""
    power: int = 10 ** int(math.log10(max(1, most / 5)))
    step = next(factor * power for factor in (1, 2, 5, 10) if factor * power >= most / 5)
    return range(0, most + 1, step)
