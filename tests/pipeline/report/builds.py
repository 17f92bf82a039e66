"""Finished builds of plain rows, and plain computations to compare figures with."""

from __future__ import annotations

import hashlib
import pickle
import random
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol, Self, TypeVar

import pyarrow as pa

from pipeline.assembly.examples import EXAMPLE_SCHEMA
from pipeline.io.manifests import write_manifest
from pipeline.io.shards import write_shard
from pipeline.io.storage import write_text
from pipeline.report.measure import measure
from pipeline.report.settings import ReportSettings
from pipeline.report.source import Batch
from pipeline.runtime.results import PAIR_SCHEMA, REJECTION_SCHEMA
from preference_space.space import Dimension, Pole, PreferenceSpace
from schemas.config import BuildConfig
from schemas.manifest import Counts, FileEntry, Run
from schemas.report import Report
from tests.pipeline.helpers import made_manifest

Row = dict[str, Any]
T = TypeVar("T")

SLUGS = ("tone", "length", "humour", "order", "risk")
SPACE = PreferenceSpace(
    name="small",
    dimensions=tuple(
        Dimension(
            slug=slug,
            name=slug.title(),
            group="style",
            source="here",
            question=f"Which {slug}?",
            positive=Pole(label=f"Likes much {slug} (more of it)", description=f"wants much {slug}", hint="more"),
            negative=Pole(label=f"Likes little {slug}", description=f"wants little {slug}", hint="less"),
        )
        for slug in SLUGS
    ),
)
WORDS = [f"{one}{two}" for one in ("ta", "ke", "mi", "so", "ru", "pé") for two in ("lo", "na", "x", "ver", "\u2019s")]


def direction(**levels: int) -> list[int]:
    """Return a direction by slugs."""
    return [levels.get(slug, 0) for slug in SLUGS]


def released(levels: Sequence[int]) -> list[float]:
    return [(level + 1) / 2 for level in levels]


def comment(levels: Sequence[int], prompt: str = "An older post.", text: str = "A comment on it.") -> Row:
    return {"prompt": prompt, "comment": text, "Preference Direction": released(levels)}


def feedback(levels: Sequence[int], prompt: str = "Another post.", chosen: str = "Yes.", rejected: str = "No.") -> Row:
    return {"prompt": prompt, "chosen": chosen, "rejected": rejected, "Preference Direction": released(levels)}


def pair(
    name: str,
    levels: Sequence[int] = (1, 0, 0, 0, 0),
    *,
    prompt: str | None = None,
    chosen: str | None = None,
    rejected: str | None = None,
    portraits: tuple[str, str] = ("A portrait.", "The opposite portrait."),
    comments: Sequence[Row] = (),
    pairs: Sequence[Row] = (),
    support: float = 1.0,
    mirror: bool = True,
    kind: str = "opposite",
    user: str = "",
    user_levels: Sequence[int] = (),
    user_pairs: int = 0,
) -> list[Row]:
    """Return a pair's row and its mirror image, with unique texts where none are given. Restraint pairs have none."""
    replies = (chosen or f"Reply one of {name}.", rejected or f"Reply two of {name}.")
    rows = []
    for side, sign in (("a", 1), ("b", -1))[: 1 + (mirror and kind != "restraint")]:
        rows.append(
            {
                "prompt": prompt or f"The post of {name}.",
                "chosen": replies[sign < 0],
                "rejected": replies[sign > 0],
                "Preference Direction": released([sign * level for level in levels]),
                "Demographic Information": portraits[sign < 0],
                "User-Generated Content": [
                    item | {"Preference Direction": [0.5 + sign * (v - 0.5) for v in item["Preference Direction"]]}
                    for item in comments
                ],
                "Pair-wise Comparative Feedback": [
                    item | {"Preference Direction": [0.5 + sign * (v - 0.5) for v in item["Preference Direction"]]}
                    for item in pairs
                ],
                "profile": "as the direction says",
                "id": f"{name}-{side}",
                "pair_id": name,
                "post_id": f"post of {name}",
                "mirrored": sign < 0,
                "source": "sampled",
                "topics": [],
                "history_support": support,
                "model": "stub",
                "direction_margin": [],
                "verified": None,
                "quality_chosen": None,
                "quality_rejected": None,
                "judge": "",
                "kind": kind,
                "user_id": user and f"{user}-{side}",
                "user_direction": released([sign * level for level in user_levels]),
                "user_pairs": user_pairs,
            }
        )
    return rows


def rejection(name: str, stage: str = "validate", reason: str = "too_short", **keys: Any) -> Row:
    return {
        "record_id": name,
        "stage": stage,
        "reason": reason,
        "detail": "2 words",
        "attempt": 0,
        "final": False,
        "post_id": "p",
        "prompt": "A post.",
        "direction": direction(tone=1),
        "texts": ["Oh no.", ""],
        "cleaned": [],
        "direction_margin": [],
        "kind": "opposite",
        "may_pass": False,
    } | keys


def pooled(attempt: int, **keys: Any) -> Row:
    """Return a pair of the pool; `keys` are the columns that matter."""
    texts = ("pair_id", "post_id", "prompt", "chosen", "rejected", "source", "model", "judge")
    levels = ("direction", "chosen_levels", "rejected_levels", "asked_direction", "traits", "user_direction")
    lists = ("topics", "direction_margin", *levels)
    empty: dict[str, Any] = dict.fromkeys(texts, "") | {name: [] for name in lists}
    empty |= {"kind": "opposite", "user_id": "", "prompt_tokens": 0, "completion_tokens": 0, "margin": 0.0}
    return empty | {"attempt": attempt} | keys


def write_build(
    folder: Path,
    shards: Mapping[str, Sequence[Row]],
    *,
    rejected: Mapping[str, Sequence[Row]] | None = None,
    pool: Mapping[str, Sequence[Row]] | None = None,
    mirror: bool = True,
    group: int = 8,
    **keys: Any,
) -> Path:
    """Write a finished build of shards by name ("train-00000-of-00001"); rejections and the pool are by shard too."""
    meta = {"fingerprint": "f" * 64}
    write_text(folder / "preference_space.yaml", SPACE.to_yaml())
    entries = []
    for name, rows in shards.items():
        path = folder / "data" / f"{name}.parquet"
        table = pa.Table.from_pylist([*rows], schema=EXAMPLE_SCHEMA)
        write_shard(path, EXAMPLE_SCHEMA, (table.slice(k, group) for k in range(0, len(rows), group)), meta)
        digest = hashlib.sha256(path.read_bytes()).hexdigest()
        size = path.stat().st_size
        entries.append(FileEntry(path=f"data/{name}.parquet", rows=len(rows), bytes=size, sha256=digest))
        for kind, of_kind in (("pairs", (rejected or {}).get(name, ())), ("examples", ())):
            rejections = pa.Table.from_pylist([*of_kind], schema=REJECTION_SCHEMA)
            write_shard(folder / "rejected" / kind / f"{name}.parquet", REJECTION_SCHEMA, [rejections], meta)
        pairs = pa.Table.from_pylist([*(pool or {}).get(name, ())], schema=PAIR_SCHEMA)
        write_shard(folder / "pool" / f"{name}.parquet", PAIR_SCHEMA, [pairs], meta)
    given = {"name": "small", "mirror": mirror, "pairs": 100}
    manifest = made_manifest(
        parts={"space": SPACE.fingerprint, "templates": {}},
        config=BuildConfig.model_validate(given).model_dump(mode="json"),
        counts=Counts(prompt_tokens=9000, completion_tokens=1000),
        runs=(run(60.0, 600), run(40.0, 400)),
        files=tuple(entries),
    )
    write_manifest(folder, manifest.model_copy(update=keys))
    return folder


def run(seconds: float, completion_tokens: int) -> Run:
    return Run(
        started="2026-01-01T00:00:00+00:00",
        seconds=seconds,
        status="complete",
        requests_sent=1,
        requests_replayed=0,
        prompt_tokens=1,
        completion_tokens=completion_tokens,
        server_restarts=0,
    )


def random_shards(pairs: int = 60, seed: int = 0) -> dict[str, list[Row]]:
    """Return shards of three splits with random texts, directions and histories, some of them repeated."""
    rng = random.Random(seed)
    posts = [text_of(rng, 12) for _ in range(pairs // 2)]
    replies = [text_of(rng, rng.randint(3, 30)) for _ in range(pairs * 2)]
    names = ["train-00000-of-00002", "train-00001-of-00002", "validation-00000-of-00001", "test-00000-of-00001"]
    shards: dict[str, list[Row]] = {name: [] for name in names}
    for number in range(pairs):
        chosen, rejected = rng.sample(replies, 2)
        shards[names[number % 4]] += pair(
            f"p{number}",
            some_levels(rng),
            prompt=rng.choice(posts),
            chosen=chosen,
            rejected=rejected,
            portraits=(text_of(rng, 9), text_of(rng, 9)),
            comments=[comment(some_levels(rng), rng.choice(posts), rng.choice(replies)) for _ in range(number % 3)],
            pairs=[feedback(some_levels(rng), rng.choice(posts), *rng.sample(replies, 2)) for _ in range(2)],
            support=rng.randint(0, 4) / 4,
            kind={3: "near", 7: "restraint"}.get(number % 10, "opposite"),
        )
    return shards


def some_levels(rng: random.Random) -> list[int]:
    """Return one to three active dimensions of the first four; the second follows the first."""
    levels = [0] * len(SLUGS)
    for d in rng.sample(range(4), rng.randint(1, 3)):
        levels[d] = rng.choice((-1, 1))
    if levels[0] and rng.random() < 0.7:
        levels[1] = levels[0]
    return levels


def text_of(rng: random.Random, words: int) -> str:
    return " ".join(rng.choice(WORDS) for _ in range(words)) + rng.choice((".", "!", " 猫 犬", ""))


def rows_of(shards: Mapping[str, Sequence[Row]]) -> list[tuple[str, Row]]:
    """Return split and row of all shards in order."""
    return [(name.split("-")[0], row) for name, rows in shards.items() for row in rows]


def batch_of(rows: Iterable[Row], split: int = 0, shard: int = 0) -> Batch:
    return Batch(split, shard, 0, pa.Table.from_pylist([*rows], schema=EXAMPLE_SCHEMA))


class Tally(Protocol):
    """Figures of rows, which are counted in parts."""

    def add(self, batch: Batch) -> None: ...

    def merge(self, other: Self) -> None: ...


TallyT = TypeVar("TallyT", bound=Tally)


def merged(make: Callable[[], TallyT], *parts: Sequence[Row]) -> TallyT:
    """Return the tally of some rows, each part of which is counted alone."""
    total = make()
    for rows in parts:
        tally = make()
        tally.add(batch_of(rows))
        total.merge(tally)
    return total


def sent(thing: T) -> T:
    """Return an object as another process receives it."""
    copy: T = pickle.loads(pickle.dumps(thing))  # noqa: S301 # our own bytes
    return copy


def report_of(folder: Path, **settings: Any) -> Report:
    """Return the report, measured in this process and without output."""
    return measure(folder, ReportSettings(**{"workers": 1} | settings), lambda what, done, of: None)
