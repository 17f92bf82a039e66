"""What a build will take, as tables in a terminal."""

from __future__ import annotations

from collections.abc import Iterator

from rich.console import Console
from rich.table import Table

from pipeline.console.phases import duration
from pipeline.driver.forecast import Forecast, Range
from schemas.terminal import print_table, say


def show_forecast(found: Forecast, console: Console) -> None:
    """Print what is built, what it takes, and what rented machines would take."""
    pairs = ", ".join(f"{split} {number}" for split, number in found.pairs.items())
    users = f" of {found.users} users" if found.users else ""
    say(
        console,
        f"{found.name}: {sum(found.pairs.values())} pairs{users} ({pairs}) in {found.shards} shards, at most "
        f"{found.examples} examples, by {found.model}",
    )
    basis = "a trial" if found.basis == "trial" else "a rehearsal that asked no model"
    say(console, f"by {basis} of {found.basis_pairs} pairs; in brackets 95 % intervals, or the upper end")
    table = Table("stage", "requests", "questions", "prompt tokens", "completion tokens")
    names = ("requests", "questions", "prompt_tokens", "completion_tokens")
    for stage, figures in found.stages.items():
        table.add_row(stage, *(_range(figures[name]) if name in figures else "" for name in names))
    print_table(console, table)
    for name, text in _facts(found):
        say(console, f"  {name:<9} {text}")
    for note in found.notes:
        say(console, f"  note      {note}")
    rented = Table("on rented machines, by outside figures", "machine", "GPU-hours", "USD on Dataflow")
    for row in found.rented:
        rented.add_row(row.model, row.machine, bounds_text(row.gpu_hours), bounds_text(row.cost))
    print_table(console, rented)


def _facts(found: Forecast) -> Iterator[tuple[str, str]]:
    yield "tokens", _range(found.tokens)
    if found.accepted_share is not None:
        share = found.accepted_share
        yield "accepted", f"{share.value:.0%} of attempts ({share.low:.0%} to {share.high:.0%})"
    if found.hours is not None:
        low, high = (duration(3600 * bound) for bound in (found.hours.low, found.hours.high))
        yield "time", f"{duration(3600 * found.hours.value)} ({low} to {high})"
    if found.cost is not None:
        yield "cost", f"{found.currency} {_range(found.cost)}"
    yield "disk", f"{found.disk_bytes / 2**20:,.0f} MiB"
    yield "memory", f"{found.memory_mib:.0f} MiB for each process of the build, without the model's server"


def _range(found: Range) -> str:
    value, low, high = (number_text(number) for number in (found.value, found.low, found.high))
    return value if low == high else f"{value} ({low} to {high})"


def bounds_text(bounds: tuple[float | None, float | None]) -> str:
    """Return a figure of which one bound may be unknown."""
    low, high = bounds
    if low is None:
        return "" if high is None else f"at most {number_text(high)}"
    if high is None:
        return f"at least {number_text(low)}"
    return number_text(low) if low == high else f"{number_text(low)} to {number_text(high)}"


def number_text(number: float) -> str:
    """Return a number with the digits that matter."""
    return f"{number:,.0f}" if number >= 20 else f"{number:.1f}" if number >= 2 else f"{number:.3g}"
