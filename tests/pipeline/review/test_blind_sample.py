from __future__ import annotations

from pathlib import Path

import pytest

from pipeline.review.blind_sample import _digest, draw_sample
from pipeline.review.review_page import render_sheet
from schemas.base import UsageError
from schemas.review import ReviewSettings
from tests.pipeline.report.builds import SLUGS
from tests.pipeline.review.builds import make_build, sample_all

HALF = ReviewSettings(pairs=10, before=0.5)


def test_the_page_is_the_same_when_chosen_and_rejected_change_roles(tmp_path: Path) -> None:
    one, other = (make_build(tmp_path / str(swap), swap=swap) for swap in (False, True))
    assert render_sheet(draw_sample(one, HALF).sheet) == render_sheet(draw_sample(other, HALF).sheet)
    # The keys differ, as they say which reply is the chosen one.
    first = {name: question.first * question.asked for name, question in draw_sample(one, HALF).key.items()}
    assert first == {name: question.first * question.asked for name, question in draw_sample(other, HALF).key.items()}
    assert set(first.values()) == {1, -1}


def test_replies_and_poles_come_in_either_order(tmp_path: Path) -> None:
    sample = sample_all(make_build(tmp_path, kept=40))
    chosen_first = {sample.key[pair.id, "tone"].pair.chosen == pair.replies[0] for pair in sample.sheet.pairs}
    assert chosen_first == {True, False}
    assert {pair.questions["tone"] for pair in sample.sheet.pairs} == {"positive", "negative"}


def test_a_first_answer_stands_for_the_pole_in_question(tmp_path: Path) -> None:
    sample = sample_all(make_build(tmp_path))
    for pair in sample.sheet.pairs:
        for slug, pole in pair.questions.items():
            question = sample.key[pair.id, slug]
            shows_positive = pair.replies[0] if pole == "positive" else pair.replies[1]
            assert question.first == (1 if shows_positive == question.pair.chosen else -1)


def test_nothing_in_the_page_names_a_row_or_an_attempt(tmp_path: Path) -> None:
    sample = sample_all(make_build(tmp_path))
    page = render_sheet(sample.sheet)
    assert "Reply one of refused 3." in page
    assert "refused 3 attempt" not in page
    assert '"pair 3"' not in page


def test_ids_cannot_be_resolved_by_who_knows_how_rows_are_named(tmp_path: Path) -> None:
    build = make_build(tmp_path)
    sample = sample_all(build)
    names = {question.pair.name for question in sample.key.values()}

    guesses = {_digest(build.manifest.fingerprint, name) for name in names} | {_digest(name) for name in names}

    assert guesses.isdisjoint(pair.id for pair in sample.sheet.pairs)


def test_a_sample_has_each_pair_once_and_no_mirror_image(tmp_path: Path) -> None:
    sample = draw_sample(make_build(tmp_path, mode="record"), ReviewSettings(pairs=100))
    assert sorted(pair.prompt for pair in sample.sheet.pairs) == sorted(f"The post of pair {k}." for k in range(12))


def test_half_of_the_pairs_are_asked_about_as_they_were_before_filtering(tmp_path: Path) -> None:
    sample = draw_sample(make_build(tmp_path, kept=40, refused=40), HALF)
    drawn = {question.pair.name: question.pair for question in sample.key.values()}
    before = [pair for pair in drawn.values() if pair.is_before]
    assert (len(drawn), len(before)) == (10, 5)
    refused = [pair for pair in before if pair.name.startswith("refused")]
    assert 0 < len(refused) < 5
    for (name, slug), question in sample.key.items():
        assert (slug == "humour") <= question.pair.is_before, name
    asked = {name: {slug for pair, slug in sample.key if pair == name} for name, _ in sample.key}
    whole = [slugs for slugs in asked.values() if slugs == {"tone", "length", "humour"}]
    assert len(whole) == 5


def test_the_page_mixes_pairs_from_before_and_after(tmp_path: Path) -> None:
    sample = draw_sample(make_build(tmp_path, kept=40, refused=40), ReviewSettings(pairs=20))
    flags = [len(pair.questions) == 3 for pair in sample.sheet.pairs]
    assert flags.count(True) == 10
    assert flags not in (sorted(flags), sorted(flags, reverse=True))


def test_the_key_has_what_verification_dropped(tmp_path: Path) -> None:
    sample = sample_all(make_build(tmp_path))
    found = {(SLUGS[question.dimension], question.pair.name.split()[0]): question for question in sample.key.values()}
    assert (found["tone", "pair"].asked, found["tone", "pair"].stored) == (1, 1)
    assert (found["humour", "pair"].asked, found["humour", "pair"].stored) == (1, 0)
    assert (found["tone", "refused"].asked, found["tone", "refused"].stored) == (1, 0)
    assert found["length", "refused"].margin == pytest.approx(-0.6)


def test_attempts_that_no_judge_saw_are_not_drawn(tmp_path: Path) -> None:
    sample = sample_all(make_build(tmp_path))
    kinds = {question.pair.name.split()[0] for question in sample.key.values()}
    assert kinds == {"pair", "refused"}


def test_pairs_that_no_judge_saw_are_not_from_before_filtering(tmp_path: Path) -> None:
    sample = draw_sample(make_build(tmp_path, mined=12), HALF.model_copy(update={"pairs": 40}))
    drawn = {question.pair.name: question.pair for question in sample.key.values()}.values()
    assert {pair.is_before for pair in drawn if pair.name.startswith("mined")} == {False}
    assert {pair.is_before for pair in drawn if pair.name.startswith("refused")} == {True}


@pytest.mark.parametrize("mode", ["off", "record"])
def test_a_build_that_filtered_nothing_has_nothing_before(tmp_path: Path, mode: str) -> None:
    sample = draw_sample(make_build(tmp_path, mode=mode), HALF)
    assert not any(question.pair.is_before for question in sample.key.values())
    assert {question.margin is None for question in sample.key.values()} == {mode == "off"}


def test_another_seed_gives_another_sheet_and_the_same_seed_the_same(tmp_path: Path) -> None:
    build = make_build(tmp_path)
    assert draw_sample(build, HALF) == draw_sample(build, HALF)
    other = draw_sample(build, HALF.model_copy(update={"seed": 1})).sheet
    assert {pair.id for pair in other.pairs} != {pair.id for pair in draw_sample(build, HALF).sheet.pairs}


@pytest.mark.parametrize("missing", ["pool", "rejected/pairs"])
def test_without_the_files_of_before_only_the_dataset_can_be_reviewed(tmp_path: Path, missing: str) -> None:
    build = make_build(tmp_path)
    for path in (tmp_path / missing).iterdir():
        path.unlink()
    with pytest.raises(UsageError, match="is missing; restore it, or review the dataset alone with --before 0"):
        draw_sample(build, ReviewSettings(pairs=24))
    assert len(draw_sample(build, ReviewSettings(pairs=24, before=0)).sheet.pairs) == 12
