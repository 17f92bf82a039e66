"""Prints examples of a build, and spaces. Texts of a dataset may be hostile: they are escaped, never interpreted."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pyarrow.compute as pc
from rich.console import Console
from rich.panel import Panel
from rich.table import Table
from rich.text import Text

from pipeline.io import storage
from pipeline.io.manifests import load_manifest
from pipeline.io.shards import open_shard
from pipeline.io.storage import AnyPath
from pipeline.runtime.inputs import read_space
from preference_space.coverage import Coverage
from preference_space.direction import from_released, verbalise
from preference_space.space import Dimension, PreferenceSpace
from schemas.base import UsageError
from schemas.terminal import print_table, safe, say


def find_examples(
    folder: AnyPath, example_id: str | None, count: int
) -> Iterator[tuple[PreferenceSpace, dict[str, Any]]]:
    """Yield rows of a build, each with its space: the one with `example_id`, or the first `count`.

    Raises:
        UsageError: If the folder holds no build, no finished shard, or no such row.
    """
    manifest = load_manifest(folder)
    files = [folder / "data" / name for name in storage.list_names(folder / "data") if name.endswith(".parquet")]
    if not files:
        raise UsageError(f"{folder} holds no finished shard (no data/*.parquet there)")
    space = read_space(folder, manifest.parts["space"])
    shown = 0
    for path in files:
        try:
            with open_shard(path, fingerprint=manifest.fingerprint) as file:
                for batch in file.iter_batches(batch_size=256):
                    chosen = batch.filter(pc.equal(batch["id"], example_id)) if example_id is not None else batch
                    for row in chosen.slice(0, count - shown).to_pylist():
                        yield space, row
                        shown += 1
                    if shown >= count:
                        return
        except FileNotFoundError:
            # A broken link is listed too.
            raise UsageError(f"{path} is missing; run the same build command again to make it") from None
    if example_id is not None and not shown:
        raise UsageError(f"{folder} has no example with id '{example_id}'")


def show(found: tuple[PreferenceSpace, dict[str, Any]], console: Console) -> None:
    """Print one example."""
    space, row = found
    direction = from_released(row["Preference Direction"])

    def panel(title: str, text: str, style: str = "none") -> None:
        console.print(Panel(Text(safe(text)), title=title, title_align="left", border_style=style))

    console.rule(Text(safe(row["id"])))
    panel("post", row["prompt"])
    panel("chosen", row["chosen"], "green")
    panel("rejected", row["rejected"], "red")
    panel("direction", _bullets(verbalise(space, direction), space, direction))
    if row["user_id"]:
        user = from_released(row["user_direction"])
        panel(f"user {safe(row['user_id'])}", _bullets(verbalise(space, user), space, user))
    panel("portrait", row["Demographic Information"])
    for item in row["User-Generated Content"]:
        words = verbalise(space, from_released(item["Preference Direction"]))
        panel("history: comment", f"{item['prompt']}\n\n> {item['comment']}\n\n({words})", "dim")
    for item in row["Pair-wise Comparative Feedback"]:
        words = verbalise(space, from_released(item["Preference Direction"]))
        panel("history: pair", f"{item['prompt']}\n\n+ {item['chosen']}\n\n- {item['rejected']}\n\n({words})", "dim")
    say(
        console,
        f"kind {row['kind']}; history supports {row['history_support']:.0%} of the direction; model {row['model']}",
    )


def show_space(space: PreferenceSpace, console: Console) -> None:
    """Print a space as a table."""
    table = Table("", title=Text(f"{safe(space.name)}: {len(space)} dimensions"))
    table.add_column("slug", no_wrap=True)
    for name in ("positive", "negative", "group"):
        table.add_column(name)
    for position, dimension in enumerate(space.dimensions):
        table.add_row(
            str(position),
            dimension.slug,
            Text(safe(dimension.positive.label)),
            Text(safe(dimension.negative.label)),
            Text(safe(dimension.group + (", topical" if dimension.topical else ""))),
        )
    print_table(console, table)


def show_dimension(dimension: Dimension, console: Console) -> None:
    """Print all fields of a dimension."""
    say(console, f"{dimension.name} ({dimension.slug}; {dimension.group}, {dimension.source})")
    say(console, f"asks      {dimension.question}")
    for name, pole in (("positive", dimension.positive), ("negative", dimension.negative)):
        say(console, f"{name}  {pole.label}\n  person  {pole.description}\n  reply   {pole.hint}")
        if pole.service:
            say(console, f"  answer  {pole.service}")


def show_coverage(coverage: Coverage, console: Console) -> None:
    """Print the coverage of a sample."""
    table = Table(title=f"{coverage.points} points")
    table.add_column("slug", no_wrap=True)
    for name in ("positive", "negative"):
        table.add_column(name)
    for d, dimension in enumerate(coverage.space.dimensions):
        table.add_row(dimension.slug, str(coverage.positive[d]), str(coverage.negative[d]))
    print_table(console, table)
    active = ", ".join(f"{k}: {number}" for k, number in enumerate(coverage.active) if number)
    unseen = coverage.unseen()
    say(console, f"active dimensions a point: {active}")
    say(console, f"pairs of poles seen: {coverage.pair_share():.1%}")
    say(console, f"poles never seen: {', '.join(unseen) or 'none'}")


def _bullets(words: str, space: PreferenceSpace, direction: Any) -> str:
    return (
        "\n".join(
            f"- {space.dimensions[d].name}: {space.dimensions[d].pole(int(direction[d])).label}"
            for d in direction.nonzero()[0]
        )
        or words
    )
