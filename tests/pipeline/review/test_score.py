from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from pipeline.report.source import Build
from pipeline.review.blind_sample import Question, draw_sample
from pipeline.review.score import score
from schemas.base import UsageError
from schemas.report import Estimate
from schemas.review import Labels, ReviewSettings
from tests.pipeline.report.builds import SLUGS
from tests.pipeline.review.builds import ASKED, labels_of, make_build, sample_all


@pytest.fixture(scope="module")
def build(tmp_path_factory: pytest.TempPathFactory) -> Build:
    """Of 12 pairs in the dataset and 12 that verification refused."""
    return make_build(tmp_path_factory.mktemp("reviewed"))


def value(estimate: Estimate | None) -> float:
    assert estimate is not None
    return estimate.value


def test_a_reviewer_who_sees_what_the_judge_saw_confirms_the_filter(build: Build) -> None:
    # The judge is against `humour`, which filtering dropped.
    labels = labels_of(sample_all(build), lambda question: 1 if (question.margin or 0) > 0 else -1)
    found = score(build, {"labels.json": labels})
    assert found.after is not None and found.before is not None and found.dropped is not None and found.with_judge
    assert (found.after.agree, found.after.disagree, value(found.after.share)) == (24, 0, 1.0)
    assert (found.before.agree, found.before.disagree) == (48, 24)
    assert value(found.before.share) == pytest.approx(2 / 3)
    # `humour` of 12 pairs, and all three dimensions of those refused.
    assert (found.dropped.agree, found.dropped.disagree) == (24, 24)
    assert (value(found.with_judge.share), value(found.with_judge.kappa)) == (1.0, 1.0)
    assert found.judge == "a judge"


def test_a_restraint_pair_is_scored_by_its_rejected_reply_which_is_to_show_the_person(tmp_path: Path) -> None:
    build = make_build(tmp_path, kind="restraint")

    found = score(build, {"labels.json": labels_of(sample_all(build), lambda question: -ASKED[question.dimension])})

    assert found.before is not None and found.after is not None and found.dropped is not None
    for agreement, answers in ((found.before, 72), (found.after, 24), (found.dropped, 48)):
        assert (agreement.agree, agreement.disagree) == (answers, 0)


def test_intervals_are_by_post(build: Build) -> None:
    found = score(build, {"labels.json": labels_of(sample_all(build), lambda question: question.asked)})
    assert found.before is not None
    assert found.before.posts == 24
    assert found.before.answers == 72


@pytest.mark.parametrize(("least", "agree", "unclear"), [(0.1, 48, 0), (0.3, 48, 24), (0.7, 24, 48), (0.9, 0, 72)])
def test_a_margin_within_the_threshold_is_a_judge_that_cannot_tell(
    build: Build, least: float, agree: int, unclear: int
) -> None:
    config = build.manifest.config | {"verification": {"mode": "filter", "min_margin": least}}
    strict = Build(build.folder, build.manifest.model_copy(update={"config": config}), build.space)
    found = score(strict, {"labels.json": labels_of(sample_all(build), lambda question: question.asked)}).with_judge
    assert found is not None
    assert (found.agree, found.unclear) == (agree, unclear)


def test_dimensions_come_worst_first_and_disagreements_say_who_saw_what(build: Build) -> None:
    def level(question: Question) -> int:
        return {"length": -question.asked, "tone": 0}.get(SLUGS[question.dimension], question.asked)

    found = score(build, {"labels.json": labels_of(sample_all(build), level)})
    by_slug = [(one.slug, one.agree, one.disagree, one.cannot_tell) for one in found.dimensions]
    assert by_slug == [("length", 0, 24, 0), ("tone", 0, 0, 24), ("humour", 24, 0, 0)]
    assert len(found.disagreements) == 24
    one = next(found for found in found.disagreements if found.pair == "pair 3")
    assert (one.reviewer, one.dimension, one.asked, one.was_dropped) == ("ann", "length", "Likes little length", False)
    assert one.seen == "Likes much length (more of it)"
    assert (one.post, one.chosen) == ("The post of pair 3.", "Reply one of pair 3.")
    assert one.margin == pytest.approx(-0.6)


def test_reviewers_who_agree_have_alpha_one_and_opposed_ones_less_than_chance(build: Build) -> None:
    sample = sample_all(build)
    ann = labels_of(sample, lambda question: question.asked)
    bob = labels_of(sample, lambda question: question.asked, "bob")
    eve = labels_of(sample, lambda question: -question.asked, "eve")
    like, unlike = score(build, {"a": ann, "b": bob}).between, score(build, {"a": ann, "e": eve}).between
    assert like is not None and unlike is not None
    assert (like.questions, value(like.alpha)) == (72, 1.0)
    assert value(unlike.alpha) < 0
    assert [one.reviewer for one in score(build, {"a": ann, "e": eve}).reviewers] == ["ann", "eve"]


def test_a_later_export_of_a_reviewer_replaces_answers_and_keeps_the_others(build: Build) -> None:
    sample = sample_all(build)
    first = labels_of(sample, lambda question: -question.asked, "Ann B.", exported=1)
    one = next(iter(first.answers))
    later = labels_of(sample, lambda question: question.asked, " ann  b.", exported=2)
    later = later.model_copy(update={"answers": {one: later.answers[one]}})

    found = score(build, {"later": later, "first": first})

    (ann,) = found.reviewers
    assert (ann.reviewer, ann.files, ann.questions, ann.answers) == ("Ann B.", 2, 72, 72)
    assert found.before is not None
    assert (found.before.agree, found.before.disagree) == (len(later.answers[one]), 72 - len(later.answers[one]))
    assert found.between is None


def test_a_reviewer_of_two_samples_answers_what_they_share_once(build: Build) -> None:
    small = draw_sample(build, ReviewSettings(pairs=6, seed=4))
    files = {
        "all": labels_of(sample_all(build), lambda question: question.asked, exported=1),
        "some": labels_of(small, lambda question: -question.asked, exported=2),
    }

    (ann,) = score(build, files).reviewers

    assert (ann.questions, ann.answers) == (72, 72)
    assert ann.share == pytest.approx(1 - len(small.key) / 72)


def test_reviewers_of_different_samples_share_the_questions_of_both(build: Build) -> None:
    small = draw_sample(build, ReviewSettings(pairs=6, seed=4))
    ann = labels_of(sample_all(build), lambda question: question.asked)
    bob = labels_of(small, lambda question: question.asked, "bob")
    between = score(build, {"a": ann, "b": bob}).between
    assert between is not None
    assert between.questions == len(small.key)


def test_questions_without_an_answer_do_not_count(build: Build) -> None:
    labels = labels_of(sample_all(build), lambda question: question.asked)
    first = next(iter(labels.answers))
    some = labels.model_copy(update={"answers": {first: labels.answers[first]}})
    found = score(build, {"labels.json": some})
    assert (found.reviewers[0].answers, found.reviewers[0].questions) == (len(labels.answers[first]), 72)
    assert found.between is None


def test_a_build_without_verification_is_scored_without_a_judge(tmp_path: Path) -> None:
    build = make_build(tmp_path, mode="off")
    found = score(build, {"labels.json": labels_of(sample_all(build), lambda question: question.asked)})
    assert (found.before, found.dropped, found.with_judge, found.judge) == (None, None, None, "")
    assert found.after is not None
    assert found.after.agree == 36


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"fingerprint": "0" * 64}, "labels.json: the labels are of another build (00000000), "),
        ({"digest": "0" * 16}, "labels.json: the labels are of another page (0000000000000000)"),
        ({"settings": ReviewSettings(pairs=3)}, "labels.json: the labels are of another page"),
        (
            {"answers": {"nobody": {"tone": "first"}}},
            "labels.json: the page has no question 'tone' about a pair 'nobody'",
        ),
        ({"answers": {}}, "labels.json: no question is answered"),
    ],
)
def test_labels_that_do_not_belong_here_are_refused(build: Build, changes: dict[str, Any], message: str) -> None:
    labels: Labels = labels_of(sample_all(build), lambda question: question.asked, **changes)
    with pytest.raises(UsageError) as refused:
        score(build, {"labels.json": labels})
    assert message in str(refused.value)


def test_labels_of_a_build_whose_files_changed_are_refused(tmp_path: Path) -> None:
    labels = labels_of(sample_all(make_build(tmp_path / "one")), lambda question: question.asked)
    with pytest.raises(UsageError, match="labels are of another page"):
        score(make_build(tmp_path / "other", kept=11), {"labels.json": labels})
