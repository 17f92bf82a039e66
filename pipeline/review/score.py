"""The score of labels: agreement of reviewers with the dataset, with the judge, and with each other.

A reviewer may export several files, of the same page or of others, and answers each question once: last of all.
"""

from __future__ import annotations

import unicodedata
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cache

from pipeline.report.source import Build
from pipeline.review import statistics
from pipeline.review.blind_sample import Question, Sample, draw_sample
from schemas.base import UsageError
from schemas.review import (
    Agreement,
    Answer,
    BetweenReviewers,
    DimensionScore,
    Disagreement,
    Labels,
    ReviewerScore,
    ReviewScore,
    ReviewSettings,
)


@dataclass(frozen=True)
class Label:
    """One answer. `level` is that of the pole which the reviewer found more in the chosen reply; 0 is "cannot tell"."""

    reviewer: str
    question: Question
    level: int


@dataclass
class Reviewer:
    """A reviewer's files: the questions of their pages, and the last answer to each that has one."""

    name: str
    files: int = 0
    questions: set[tuple[str, str]] = field(default_factory=set)
    answers: dict[tuple[str, str], Label] = field(default_factory=dict)

    @property
    def labels(self) -> list[Label]:
        """Return the answers."""
        return [*self.answers.values()]


def score(build: Build, files: Mapping[str, Labels]) -> ReviewScore:
    """Return the score of the labels in files. Each file may be of another sample of the build.

    Raises:
        UsageError: Labels belong to another build or another page, or no question is answered.
    """
    reviewers = join_labels(build, files)
    labels = [label for reviewer in reviewers.values() for label in reviewer.labels]
    before = [label for label in labels if label.question.pair.is_before]
    kept = [label for label in labels if label.question.stored]
    dropped = [label for label in labels if not label.question.stored]
    judged = [label for label in labels if label.question.margin is not None]
    least = float(build.manifest.config["verification"]["min_margin"])
    return ReviewScore(
        name=build.manifest.name,
        fingerprint=build.manifest.fingerprint,
        judge=next((label.question.pair.judge for label in judged if label.question.pair.judge), ""),
        reviewers=tuple(map(_reviewer_score, reviewers.values())),
        before=_agreement(before, lambda question: question.asked),
        after=_agreement(kept, lambda question: question.stored),
        dropped=_agreement(dropped, lambda question: question.asked),
        with_judge=_agreement(judged, lambda question: _judged(question, least)),
        between=_between(labels),
        dimensions=_by_dimension(build, labels),
        disagreements=tuple(_disagreement(build, label) for label in labels if label.level == -label.question.asked),
    )


def join_labels(build: Build, files: Mapping[str, Labels]) -> dict[str, Reviewer]:
    """Return the reviewers whose labels the files hold. Raise `UsageError` as `score` does."""

    @cache
    def sample_of(settings: ReviewSettings) -> Sample:
        return draw_sample(build, settings)

    reviewers: dict[str, Reviewer] = {}
    for origin, given in sorted(files.items(), key=lambda file: file[1].exported):
        _require_build(build, origin, given)
        sample = sample_of(given.settings)
        reviewer = reviewers.setdefault(_identity(given.reviewer), Reviewer(given.reviewer))
        reviewer.files += 1
        reviewer.questions |= sample.key.keys()
        reviewer.answers |= _join(sample, origin, given)
    if not any(reviewer.answers for reviewer in reviewers.values()):
        raise UsageError(f"{', '.join(files)}: no question is answered")
    return reviewers


def _require_build(build: Build, origin: str, labels: Labels) -> None:
    if labels.fingerprint != build.manifest.fingerprint:
        raise UsageError(
            f"{origin}: the labels are of another build ({labels.fingerprint[:8]}), {build.folder} is "
            f"{build.manifest.fingerprint[:8]}; name the folder whose page was labelled"
        )


def _identity(name: str) -> str:
    """Return what two spellings of a reviewer's name have in common."""
    return unicodedata.normalize("NFKC", " ".join(name.split())).casefold()


def _join(sample: Sample, origin: str, labels: Labels) -> dict[tuple[str, str], Label]:
    """Return the answers with their questions, by the sheet's pair and the dimension's slug."""
    if labels.digest != sample.sheet.digest:
        raise UsageError(
            f"{origin}: the labels are of another page ({labels.digest}); with these settings the build gives "
            f"{sample.sheet.digest}, so its files have changed, or the labels were edited"
        )
    levels: dict[Answer, int] = {"first": 1, "second": -1, "cannot tell": 0}
    found = {}
    for pair, answers in labels.answers.items():
        for slug, answer in answers.items():
            question = sample.key.get((pair, slug))
            if question is None:
                raise UsageError(
                    f"{origin}: the page has no question '{slug}' about a pair '{pair}'; export the labels again"
                )
            found[pair, slug] = Label(labels.reviewer, question, levels[answer] * question.first)
    return found


def _judged(question: Question, least: float) -> int:
    margin = question.margin or 0.0
    return int(margin > least) - int(margin < -least)


def _agreement(labels: Sequence[Label], level: Callable[[Question], int]) -> Agreement | None:
    """Return the agreement with another source of levels; None where it says nothing about any question."""
    if not labels:
        return None
    posts = [label.question.pair.post_id for label in labels]
    ours, theirs = [label.level for label in labels], [level(label.question) for label in labels]
    products = [one * other for one, other in zip(ours, theirs, strict=True)]
    counts = statistics.tables(posts, ours, theirs)
    return Agreement(
        answers=len(labels),
        agree=products.count(1),
        disagree=products.count(-1),
        unclear=products.count(0),
        posts=len(counts),
        share=statistics.share(statistics.decided(counts)),
        kappa=statistics.bootstrap(counts, statistics.kappa),
        decided_kappa=statistics.bootstrap(statistics.decided(counts), statistics.kappa),
    )


def _between(labels: Sequence[Label]) -> BetweenReviewers | None:
    """Return the agreement about questions that several reviewers answered; None where there are none."""
    levels: dict[tuple[str, str, int], list[int]] = {}
    for label in labels:
        pair = label.question.pair
        levels.setdefault((pair.post_id, pair.name, label.question.dimension), []).append(label.level)
    shared = {question: given for question, given in levels.items() if len(given) > 1}
    if not shared:
        return None
    matrices = statistics.coincidences([post for post, _, _ in shared], [*shared.values()])
    return BetweenReviewers(questions=len(shared), alpha=statistics.bootstrap(matrices, statistics.alpha))


def _reviewer_score(reviewer: Reviewer) -> ReviewerScore:
    products = [label.level * label.question.asked for label in reviewer.labels]
    decided = len(products) - products.count(0)
    return ReviewerScore(
        reviewer=reviewer.name,
        files=reviewer.files,
        questions=len(reviewer.questions),
        answers=len(products),
        cannot_tell=products.count(0),
        share=products.count(1) / decided if decided else None,
    )


def _by_dimension(build: Build, labels: Sequence[Label]) -> tuple[DimensionScore, ...]:
    """Return the agreement with what was asked in each dimension, worst first: by agreeing less opposing answers."""
    products: dict[int, list[int]] = {}
    for label in labels:
        products.setdefault(label.question.dimension, []).append(label.level * label.question.asked)
    scores = [
        DimensionScore(
            slug=build.space.dimensions[d].slug,
            name=build.space.dimensions[d].name,
            agree=found.count(1),
            disagree=found.count(-1),
            cannot_tell=found.count(0),
        )
        for d, found in sorted(products.items())
    ]
    return tuple(
        sorted(scores, key=lambda one: (one.agree - one.disagree) / (one.agree + one.disagree + one.cannot_tell))
    )


def _disagreement(build: Build, label: Label) -> Disagreement:
    question = label.question
    dimension = build.space.dimensions[question.dimension]
    return Disagreement(
        reviewer=label.reviewer,
        pair=question.pair.name,
        post=question.pair.prompt,
        chosen=question.pair.chosen,
        rejected=question.pair.rejected,
        dimension=dimension.slug,
        asked=dimension.pole(question.asked).label,
        seen=dimension.pole(label.level).label,
        was_dropped=not question.stored,
        margin=question.margin,
    )
