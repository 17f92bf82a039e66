"""Figures of a judge who was asked about a sample of a finished build."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from pipeline.reading.text import hash_texts
from pipeline.report.intervals import GROUPS, estimate_share, group_of
from pipeline.report.judging.sample import SampledPair
from pipeline.report.judging.swap import Preferences, swap_figures
from pipeline.report.source import Build
from pipeline.report.verification import VerificationTally
from pipeline.runtime.results import PAIR_SCHEMA
from schemas.arrow import to_table
from schemas.records import Pair
from schemas.report import Estimate, SecondJudgeFigures, VerificationFigures


class JudgedPair(NamedTuple):
    """A sampled pair, the same pair with this judge's findings in place of the build's, and the preferences.

    These are None for a restraint pair, about which persona swap says nothing: a plain answer suits every person.
    """

    sampled: SampledPair
    pair: Pair
    preferences: Preferences | None


def second_figures(judged: Sequence[JudgedPair], sampled: int, build: Build) -> SecondJudgeFigures:
    """Return the figures of the pairs that the judge answered about, of a sample of `sampled` pairs."""
    # The judge is asked about what the replies were written for; kept is what the build has kept of that.
    kept = [each.pair.model_copy(update={"direction": each.sampled.pair.direction}) for each in judged]
    by_kind = {kind: _found([pair for pair in kept if pair.kind == kind], build) for kind in {p.kind for p in kept}}
    swapped = [(each.pair.post_id, each.preferences) for each in judged if each.preferences is not None]
    return SecondJudgeFigures(
        files_digest=build.manifest.files_digest,
        sampled=sampled,
        unanswered=sampled - len(judged),
        found=_found(kept, build),
        recovery_by_kind={kind: found.recovery for kind, found in sorted(by_kind.items()) if found is not None},
        agreement=_agreement(judged),
        swap=swap_figures([post for post, _ in swapped], [preferences for _, preferences in swapped]),
        restraint=len(judged) - len(swapped),
    )


def _found(pairs: Sequence[Pair], build: Build) -> VerificationFigures | None:
    tally = VerificationTally(build.space, build.verification.drift_margin)
    tally.add(to_table(pairs, PAIR_SCHEMA))
    return tally.result()


def _agreement(judged: Sequence[JudgedPair]) -> Estimate | None:
    """Return how often the signs of both judges agree, over the asked dimensions of pairs that both have judged."""
    both = [each for each in judged if each.sampled.pair.direction_margin]
    if not both:
        return None
    asked = np.array([each.pair.asked_direction for each in both])
    first, second = (
        np.sign(np.array(margins, dtype=np.float64))
        for margins in (
            [each.sampled.pair.direction_margin for each in both],
            [each.pair.direction_margin for each in both],
        )
    )
    hits, cases = np.zeros((2, GROUPS), dtype=np.int64)
    groups = group_of(hash_texts([each.pair.post_id for each in both]))
    np.add.at(cases, groups, (asked != 0).sum(axis=1))
    np.add.at(hits, groups, ((asked != 0) & (first == second)).sum(axis=1))
    return estimate_share(hits, cases)
