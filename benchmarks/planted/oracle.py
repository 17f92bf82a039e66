"""Accuracy of a reader who knows the language: the most that a model can reach from the same history."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq

from benchmarks.planted.grammar import poles_of

Row = Mapping[str, Any]


def accuracies(data: Path, split: str, items: Sequence[int]) -> list[float]:
    """Return the share of a split's pairs that the reader gets right from so many history items; a tie is half."""
    rows = pq.read_table(sorted((data / "data").glob(f"{split}-*.parquet"))).to_pylist()
    return [float(np.mean([_is_right(row, count) for row in rows])) for count in items]


def _is_right(row: Row, items: int) -> float:
    """Return 1, 0.5 or 0. Items are of both kinds, as in `everyuser_train.personas.evaluation_persona`."""
    ugc, pair = row["User-Generated Content"], row["Pair-wise Comparative Feedback"]
    comments = items * len(ugc) // max(len(ugc) + len(pair), 1)
    votes = Counter[str]()
    for item in ugc[:comments]:
        votes.update(poles_of(item["comment"]))
    for item in pair[: items - comments]:
        votes.update(poles_of(item["chosen"]))
    # The rejected replies are by opposite persons, and say nothing more.
    score = sum(np.sign(votes[slug]) * level for slug, level in poles_of(row["chosen"]).items())
    return float((np.sign(score) + 1) / 2)
