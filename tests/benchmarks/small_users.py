"""A small finished build with users, made from the promises alone: 96 users of 4 pairs, 32 of them in two splits."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import yaml

Row = dict[str, Any]
SLUGS = [f"d{d}" for d in range(10)] + ["t0", "t1"]
"""The last two are interest tags."""
PAIRS = 4
USERS = {"train": range(64), "validation": range(64, 80), "test": range(80, 96), "test_seen_users": range(32)}
CONFIG: Row = {
    "mirror": True,
    "portrait": "template",
    "users": {"count": 96, "pairs_per_user": PAIRS, "active": {"min": 3, "max": 5}, "min_items": 1},
    "splits": {"train": 0.5, "validation": 0.125, "test": 0.125, "test_seen_users": 0.25},
    "kinds": {"near": 0.25, "max_flips": 1, "restraint": 0.125},
    "history": {"ugc": 1, "pair": 2, "min_support": 0},
    "sampling": {
        "min_active": 2,
        "max_active": 3,
        "dimensions": None,
        "marginals": {},
        "correlations": [],
        "forbidden": [],
    },
}


@dataclass
class Made:
    """The build before it is written. Tests change it; `derive` then makes the rows of its pairs again."""

    pairs: list[Row]
    rows: list[Row] = field(default_factory=list)
    config: Row = field(default_factory=lambda: json.loads(json.dumps(CONFIG)))
    counts: Row = field(default_factory=dict)

    def derive(self) -> None:
        """Make all rows, and count."""
        self.rows = [row for pair in self.pairs for row in rows_of(pair, self.pairs)]
        kinds = Counter(pair["kind"] for pair in self.pairs)
        numbers = {"pairs_asked": len(self.pairs), "pairs_lost": 0, "examples": len(self.rows)}
        self.counts = numbers | {"kinds": dict(kinds)}

    def of(self, **fields: Any) -> list[Row]:
        """Return the pairs with these fields."""
        return [pair for pair in self.pairs if fields.items() <= pair.items()]

    def rows_of(self, pair: Row) -> list[Row]:
        """Return the rows of a pair, the mirrored one last."""
        return [row for row in self.rows if row["pair_id"] == pair["pair_id"]]

    def write(self, folder: Path) -> Path:
        """Write what a finished build has, in one shard of each split."""
        dimensions = [
            {"slug": s, "group": "all", "topical": s[0] == "t", **{p: {"label": label(s, p)} for p in POLES}}
            for s in SLUGS
        ]
        (folder / "preference_space.yaml").write_text(yaml.safe_dump({"name": "small", "dimensions": dimensions}))
        (folder / "manifest.json").write_text(json.dumps({"config": self.config, "counts": self.counts}))
        for name, schema, rows in (("pool", POOL, self.pairs), ("data", DATA, self.rows)):
            (folder / name).mkdir()
            for split in USERS:
                table = pa.Table.from_pylist([row for row in rows if row["split"] == split], schema)
                pq.write_table(table, folder / name / f"{split}-00000-of-00001.parquet")
        return folder


def made() -> Made:
    """Return a build that keeps all promises."""
    rng = np.random.default_rng(0)
    users = [draw_user(rng) for _ in range(CONFIG["users"]["count"])]
    build = Made([draw_pair(rng, split, u, users[u], k) for split in USERS for u in USERS[split] for k in range(PAIRS)])
    build.derive()
    return build


def draw_user(rng: np.random.Generator) -> list[int]:
    """Return a direction with 3 to 5 active dimensions."""
    direction = np.zeros(len(SLUGS), dtype=int)
    active = rng.choice(len(SLUGS), rng.integers(3, 6), replace=False)
    direction[active] = rng.choice([-1, 1], len(active))
    return direction.tolist()


def draw_pair(rng: np.random.Generator, split: str, user: int, direction: Sequence[int], place: int) -> Row:
    """Return a pair of a user."""
    name = f"{split}-{user}-{place}"
    topics = [[], ["t0"], ["t1"]][rng.integers(3)]
    fits = [d for d, level in enumerate(direction) if level and (SLUGS[d][0] == "d" or SLUGS[d] in topics)]
    part = rng.choice(fits, min(len(fits), int(rng.integers(2, 4))), replace=False).tolist()
    kind = str(rng.choice(["opposite", "near", "restraint"], p=[0.625, 0.25, 0.125]))
    kind = "opposite" if kind == "near" and len(part) == 1 else kind
    flipped = part[:1] if kind == "near" else part
    return {
        "split": split,
        "source": "sampled",
        "kind": kind,
        "user_id": f"f-u{user:07d}",
        "user_direction": list(direction),
        "pair_id": f"f-{name}",
        "post_id": f"post-{name}",
        "prompt": f"Post {name}?",
        "chosen": f"Chosen {name}.",
        "rejected": f"Rejected {name}.",
        "topics": topics,
        "direction": only(direction, flipped),
        "traits": only(direction, part) if kind == "near" else [],
        "asked_direction": [],
    }


def only(direction: Sequence[int], part: Sequence[int]) -> list[int]:
    """Return a direction with the dimensions of `part` alone."""
    return [level * (d in part) for d, level in enumerate(direction)]


def rows_of(pair: Row, pairs: Sequence[Row]) -> list[Row]:
    """Return the row of a pair and, if it has one, its mirror image."""
    return [make_row(pair, side, pairs) for side in ((1,) if pair["kind"] == "restraint" else (1, -1))]


def make_row(pair: Row, side: int, pairs: Sequence[Row]) -> Row:
    """Return a pair's row from one side."""
    own = [other for other in pairs if (other["split"], other["user_id"]) == (pair["split"], pair["user_id"])]
    opposite, near = ([p for p in own if p["kind"] == kind and p is not pair] for kind in ("opposite", "near"))
    # One of three items is a comment, which a near pair cannot be; so there are two near pairs at most.
    others = [*near[:2], *opposite]
    last = opposite[-1:] if len(others) == 3 else []
    row = {
        **item(pair, side),
        **{name: pair[name] for name in ("split", "source", "kind", "pair_id", "post_id", "topics")},
        "id": f"{pair['pair_id']}-{'ab'[side < 0]}",
        "mirrored": side < 0,
        "user_id": f"{pair['user_id']}-{'ab'[side < 0]}",
        "user_direction": released(pair["user_direction"], side),
        "user_pairs": len(own),
        "Demographic Information": f"This is {pair['user_id']} from side {side}.",
        "Pair-wise Comparative Feedback": [item(p, side) for p in others if p not in last],
        "User-Generated Content": [comment(p, side) for p in last],
    }
    finish(row)
    return row


def item(pair: Row, side: int) -> Row:
    """Return a pair as a history item, from one side."""
    replies = (pair["chosen"], pair["rejected"])[::side]
    return {
        "prompt": pair["prompt"],
        "chosen": replies[0],
        "rejected": replies[1],
        DIRECTION: released(pair["direction"], side),
    }


def comment(pair: Row, side: int) -> Row:
    """Return a pair as a comment, from one side."""
    whole = item(pair, side)
    return {"prompt": whole["prompt"], "comment": whole["chosen"], DIRECTION: whole[DIRECTION]}


def finish(row: Row) -> None:
    """Set what follows from a row's direction and history."""
    active = [(d, level) for d, level in enumerate(row[DIRECTION]) if level != 0.5]
    items = [*row["User-Generated Content"], *row["Pair-wise Comparative Feedback"]]
    shown = [any(i[DIRECTION][d] == level for i in items) for d, level in active]
    row["history_support"] = sum(shown) / len(shown)
    row["profile"] = ", ".join(label(SLUGS[d], POLES[level == 0]) for d, level in active)


def label(slug: str, pole: str) -> str:
    """Return the label of a pole."""
    return f"{slug} {pole}"


def released(levels: Sequence[int], side: int) -> list[float]:
    """Return levels as the released numbers, of the opposite person from side -1."""
    return [(side * level + 1) / 2 for level in levels]


DIRECTION = "Preference Direction"
POLES = ("positive", "negative")
_TEXT, _TEXTS, _LEVELS, _NUMBERS = pa.string(), pa.list_(pa.string()), pa.list_(pa.int8()), pa.list_(pa.float64())
_SHARED = {
    **dict.fromkeys(("pair_id", "post_id", "prompt", "chosen", "rejected", "kind", "user_id", "source"), _TEXT),
    "topics": _TEXTS,
}
POOL = pa.schema(
    {**_SHARED, **dict.fromkeys(("direction", "asked_direction", "traits", "user_direction"), _LEVELS)}.items()
)
_ITEM = {"prompt": _TEXT, DIRECTION: _NUMBERS}
DATA = pa.schema(
    {
        **_SHARED,
        **dict.fromkeys(("id", "profile", "Demographic Information"), _TEXT),
        **dict.fromkeys((DIRECTION, "user_direction", "direction_margin"), _NUMBERS),
        **dict.fromkeys(("history_support", "verified", "quality_chosen", "quality_rejected"), pa.float64()),
        "mirrored": pa.bool_(),
        "user_pairs": pa.int64(),
        "User-Generated Content": pa.list_(pa.struct({**_ITEM, "comment": _TEXT}.items())),
        "Pair-wise Comparative Feedback": pa.list_(pa.struct({**_ITEM, "chosen": _TEXT, "rejected": _TEXT}.items())),
    }.items()
)
