"""Finished builds with planted directions, and reviewers with planted answers."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from pipeline.report.source import Build, open_build
from pipeline.review.blind_sample import Question, Sample, draw_sample
from schemas.config import BuildConfig
from schemas.records import Kind
from schemas.review import Answer, Labels, ReviewSettings
from tests.pipeline.report.builds import direction, pair, pooled, rejection, write_build

ASKED = direction(tone=1, length=-1, humour=1)
KEPT = direction(tone=1, length=-1)
"""The direction after filtering, which made `humour` neutral."""
MARGINS = [0.8, -0.6, -0.2, None, 0.1]
"""The judge recovers `tone` and `length`, is against `humour`, and was asked about `risk` for drift."""
ALL = ReviewSettings(pairs=1_000)


def swapped(levels: Sequence[float | None]) -> list[Any]:
    return [None if level is None else -level for level in levels]


def make_build(
    folder: Path,
    kept: int = 12,
    refused: int = 12,
    mined: int = 0,
    mode: str = "filter",
    swap: bool = False,
    style: str = "peer",
    kind: Kind = "opposite",
) -> Build:
    """Write a build of pairs that were all asked for `ASKED`, and open it. `swap` swaps the roles of their replies.

    No judge saw the mined ones. The others are of one `kind`.
    """

    def levels(of: Sequence[Any]) -> list[Any]:
        return swapped(of) if swap else [*of]

    def replies(name: str) -> list[str]:
        texts = [f"Reply one of {name}.", f"Reply two of {name}."]
        return texts[::-1] if swap else texts

    rows: dict[str, list[dict[str, Any]]] = {"train-00000-of-00001": [], "test-00000-of-00001": []}
    pool: dict[str, list[dict[str, Any]]] = {name: [] for name in rows}
    rejected: dict[str, list[dict[str, Any]]] = {name: [] for name in rows}
    for number in range(kept):
        name, shard = f"pair {number}", [*rows][number % 4 == 3]
        chosen, other = replies(name)
        stored = {"filter": KEPT}.get(mode, ASKED)
        for row, sign in zip(pair(name, levels(stored), chosen=chosen, rejected=other), (1, -1), strict=True):
            margins = levels(MARGINS) if sign > 0 else swapped(levels(MARGINS))
            judged = {} if mode == "off" else {"direction_margin": margins, "judge": "a judge"}
            if sign > 0 or kind != "restraint":
                rows[shard].append(row | judged | {"kind": kind})
        pool[shard].append(pooled(0, pair_id=name, asked_direction=levels(ASKED), kind=kind))
    for number in range(mined):
        name = f"mined {number}"
        chosen, other = replies(name)
        rows["train-00000-of-00001"] += pair(name, levels(ASKED), chosen=chosen, rejected=other)
        pool["train-00000-of-00001"].append(pooled(0, pair_id=name, asked_direction=[]))
    for number in range(refused):
        name = f"refused {number}"
        extra = {"prompt": f"The post of {name}.", "post_id": f"post of {name}", "cleaned": replies(name)}
        found = {"direction": levels(ASKED), "direction_margin": levels(MARGINS), "kind": kind}
        rejected["train-00000-of-00001"].append(rejection(name, "verify", "too_few_dimensions", **extra, **found))
        # Neither of these was judged.
        rejected["train-00000-of-00001"].append(rejection(f"unanswered {number}", "verify", "timeout"))
        rejected["train-00000-of-00001"].append(rejection(f"short {number}"))
    config = BuildConfig.model_validate(
        {"name": "small", "pairs": 100, "style": style, "verification": {"mode": mode, "min_margin": 0.1}}
    )
    write_build(folder, rows, rejected=rejected, pool=pool, config=config.model_dump(mode="json"))
    return open_build(folder)


def labels_of(sample: Sample, level: Callable[[Question], int], reviewer: str = "ann", **keys: Any) -> Labels:
    """Return the labels of a reviewer who finds the pole of `level` more in the chosen reply."""
    answers: dict[str, dict[str, Answer]] = {}
    for (name, slug), question in sample.key.items():
        found = level(question) * question.first
        answers.setdefault(name, {})[slug] = "first" if found > 0 else "second" if found < 0 else "cannot tell"
    labels = Labels(
        review_version=1,
        fingerprint=sample.sheet.fingerprint,
        digest=sample.sheet.digest,
        settings=sample.sheet.settings,
        reviewer=reviewer,
        answers=answers,
    )
    return labels.model_copy(update=keys)


def slug_of(build: Build, question: Question) -> str:
    return build.space.dimensions[question.dimension].slug


def sample_all(build: Build) -> Sample:
    return draw_sample(build, ALL)
