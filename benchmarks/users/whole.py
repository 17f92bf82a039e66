"""Users of a build as Markdown: what they are like, and all their pairs as they came out."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np

from benchmarks.users.tables import Build, Levels, Pairs, read_build, read_pairs


def print_users(folder: Path, number: int) -> None:
    """Print users of a finished build, the first of each of so many shards that lie apart."""
    build, shards = read_build(folder), sorted((folder / "pool").glob("*.parquet"))
    for path in shards[:: max(1, len(shards) // number)][:number]:
        pairs = read_pairs(path, len(build.dimensions))
        print("\n".join(_lines(build, pairs, pairs.texts["user_id"][0])))


def _lines(build: Build, pairs: Pairs, user: str) -> Iterator[str]:
    own = np.flatnonzero(pairs.texts["user_id"] == user)
    yield f"### {user}\n"
    yield f"{len(own)} pairs; {_words(build, pairs.levels['user_direction'][own[0]])}.\n"
    for k in own:
        claims = _words(build, pairs.levels["direction"][k]) or "nothing of the person"
        yield f"**{pairs.texts['kind'][k]}**: {claims}\n"
        for name in ("prompt", "chosen", "rejected"):
            text = "\n> ".join(pairs.texts[name][k].splitlines())
            yield f"> *{'post' if name == 'prompt' else name}:* {text}\n>"
        yield ""


def _words(build: Build, direction: Levels) -> str:
    poles = {-1: "negative", 1: "positive"}
    active = [(build.dimensions[d], poles[int(direction[d])]) for d in np.flatnonzero(direction)]
    return ", ".join(f"{dimension['slug']} {pole} ({dimension[pole]['label']})" for dimension, pole in active)
