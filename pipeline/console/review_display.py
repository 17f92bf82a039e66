"""Prints the score of a review. Texts of a dataset and of labels are escaped, never interpreted."""

from __future__ import annotations

from rich.console import Console
from rich.table import Table
from rich.text import Text

from schemas.report import Estimate
from schemas.review import Agreement, Disagreement, ReviewScore
from schemas.terminal import print_table, safe, say

_DIMENSIONS, _DISAGREEMENTS, _CHARACTERS = 10, 5, 300
"""Most dimensions, disagreements, and characters of a text that are printed; `--json` has all."""


def show_score(score: ReviewScore, console: Console) -> None:
    """Print a score: agreements, reviewers, the worst dimensions, and disagreements to look at."""
    print_table(console, _agreements(score))
    files, people = sum(reviewer.files for reviewer in score.reviewers), len(score.reviewers)
    say(console, f"{_many(files, 'file')} of labels by {_many(people, 'reviewer')}")
    for reviewer in score.reviewers:
        share = "" if reviewer.share is None else f", {reviewer.share:.0%} as asked"
        answers = f"{reviewer.answers} of {reviewer.questions} answers, {reviewer.cannot_tell} cannot tell"
        say(console, f"{reviewer.reviewer}: {answers}{share}")
    if score.between:
        between = score.between
        say(console, f"among reviewers: alpha {_interval(between.alpha, 2)} of {between.questions} shared questions")
    worst = [one for one in score.dimensions if one.disagree][:_DIMENSIONS]
    if worst:
        table = Table(title="worst dimensions", title_justify="left")
        for name in ("dimension", "agree", "disagree", "cannot tell"):
            table.add_column(name, justify="left" if name == "dimension" else "right")
        for one in worst:
            table.add_row(Text(safe(one.name)), str(one.agree), str(one.disagree), str(one.cannot_tell))
        print_table(console, table)
    for disagreement in score.disagreements[:_DISAGREEMENTS]:
        _show_disagreement(disagreement, console)
    if len(score.disagreements) > _DISAGREEMENTS:
        say(console, f"{len(score.disagreements) - _DISAGREEMENTS} more disagreements: --json has all")


def _agreements(score: ReviewScore) -> Table:
    table = Table(title=Text(safe(f"review of {score.name}")), title_justify="left")
    table.add_column("answers compared with")
    for name in ("agree", "disagree", "unclear", "agreement, 95 %", "kappa, 95 %", "kappa, decided"):
        table.add_column(name, justify="right")
    judge = f"the judge, {score.judge}" if score.judge else "the judge"
    rows: list[tuple[str, Agreement | None]] = [
        ("what was asked, before filtering", score.before),
        ("the dataset", score.after),
        ("what was asked, where it was dropped", score.dropped),
        (judge, score.with_judge),
    ]
    for name, found in rows:
        if found:
            counts = [str(number) for number in (found.agree, found.disagree, found.unclear)]
            shares = [_interval(found.share, 0), _interval(found.kappa, 2), _interval(found.decided_kappa, 2)]
            table.add_row(Text(safe(name)), *counts, *shares)
    return table


def _many(number: int, name: str) -> str:
    return f"{number} {name}" if number == 1 else f"{number} {name}s"


def _interval(estimate: Estimate | None, places: int) -> str:
    """Return an estimate as a share in percent (`places` 0) or a number, with its interval."""

    def number(value: float) -> str:
        return f"{value:.{places}f}" if places else f"{value:.0%}"

    if estimate is None:
        return "-"
    if estimate.low is None or estimate.high is None:
        return number(estimate.value)
    return f"{number(estimate.value)} [{number(estimate.low)}, {number(estimate.high)}]"


def _show_disagreement(found: Disagreement, console: Console) -> None:
    margin = "" if found.margin is None else f", judge's margin {found.margin:+.2f}"
    dropped = ", dropped by verification" if found.was_dropped else ""
    say(
        console,
        f"\n{found.pair}, {found.dimension}: asked '{found.asked}', {found.reviewer} saw '{found.seen}'"
        f"{margin}{dropped}",
    )
    for name, text in (("post", found.post), ("chosen", found.chosen), ("rejected", found.rejected)):
        one_line = " ".join(text.split())
        cut = one_line if len(one_line) <= _CHARACTERS else f"{one_line[: _CHARACTERS - 3]}..."
        say(console, f"  {name:9} {cut}")
