from __future__ import annotations

import pytest

from pipeline.report.copies import CopyTally
from schemas.report import CopyFigures
from tests.pipeline.report.builds import SPACE, Row, batch_of, direction, merged, pair

LIKES_TONE = "Well, I am one who likes MUCH tone, and why not."
DISLIKES_TONE = "Whoever likes little tone will agree with me."


def figures_of(*parts: list[Row]) -> CopyFigures:
    return merged(lambda: CopyTally(SPACE), *parts).result()


@pytest.mark.parametrize(
    ("chosen", "rejected", "levels", "is_copied"),
    [
        (LIKES_TONE, None, direction(tone=1), True),
        (None, DISLIKES_TONE, direction(tone=1), True),
        (DISLIKES_TONE, LIKES_TONE, direction(tone=-1), True),
        # The label is another person's.
        (LIKES_TONE, None, direction(tone=-1), False),
        (LIKES_TONE, None, direction(order=1), False),
        (None, LIKES_TONE, direction(tone=1), False),
        ("She likes much. Tone is all.", None, direction(tone=1), True),
        ("She likes much of a tone.", None, direction(tone=1), False),
        ("It ends so: likes much", "tone", direction(tone=1), False),
    ],
)
def test_labels_that_a_reply_repeats_are_found(
    chosen: str | None, rejected: str | None, levels: list[int], is_copied: bool
) -> None:
    rows = [*pair("other"), *pair("p", levels, chosen=chosen, rejected=rejected)]

    assert figures_of(rows).label == (0.5 if is_copied else 0)


@pytest.mark.parametrize(("rejected", "share"), [(LIKES_TONE, 1), (DISLIKES_TONE, 0)])
def test_both_replies_of_a_restraint_pair_have_one_person(rejected: str, share: float) -> None:
    rows = pair("p", direction(tone=1), rejected=rejected, kind="restraint")

    assert figures_of(rows).label == share


def test_labels_of_one_word_say_nothing() -> None:
    space = SPACE.model_copy(
        update={
            "dimensions": (
                SPACE.dimensions[0].model_copy(
                    update={"positive": SPACE.dimensions[0].positive.model_copy(update={"label": "Older (in years)"})}
                ),
                *SPACE.dimensions[1:],
            )
        }
    )
    tally = CopyTally(space)
    tally.add(batch_of(pair("p", direction(tone=1), chosen="An older (in years) friend of mine")))

    assert tally.result().label == 0


PORTRAIT = "This person wants much tone and says things as they are; keeps order at home."
OPPOSITE = "This person wants little tone and lets others talk for a change."


@pytest.mark.parametrize(
    ("chosen", "is_copied"),
    [
        ("You see, i want much tone and says things as they are.", True),
        ("A friend wants little tone, and lets others talk.", True),
        ("Somebody wants much tone and says something else.", False),
        ("they are keeps order at home now", True),
        ("they are, keeps order at work now", False),
    ],
)
def test_six_words_of_a_portrait_are_a_copy(chosen: str, is_copied: bool) -> None:
    rows = [*pair("other"), *pair("p", chosen=chosen, portraits=(PORTRAIT, OPPOSITE))]

    assert figures_of(rows).portrait == (0.5 if is_copied else 0)


def test_a_portrait_of_another_pair_is_no_source() -> None:
    rows = [*pair("a", portraits=(PORTRAIT, OPPOSITE)), *pair("b", chosen=PORTRAIT)]

    assert figures_of(rows).portrait == 0


def test_unmirrored_rows_have_one_portrait() -> None:
    rows = [row for k in range(4) for row in pair(f"p{k}", chosen=PORTRAIT, portraits=(PORTRAIT, ""), mirror=k > 1)]

    assert figures_of(rows).portrait == 1


def test_examples_show_what_was_copied() -> None:
    rows = [
        *pair("a", direction(tone=1), chosen=f"{'Before. ' * 30}{LIKES_TONE}{' After.' * 30}"),
        *pair("b", chosen=f"So {PORTRAIT}", portraits=(PORTRAIT, OPPOSITE)),
    ]
    label, portrait = figures_of(rows).examples

    assert "likes MUCH tone" in label
    assert len(label) < 150
    assert portrait == PORTRAIT.rstrip(".")


def test_examples_are_few() -> None:
    rows = [
        row
        for k in range(40)
        for row in pair(f"p{k}", direction(tone=1), chosen=f"{LIKES_TONE} {k}: {PORTRAIT}", portraits=(PORTRAIT, "x"))
    ]
    figures = figures_of(rows[:30], rows[30:])

    assert (figures.label, figures.portrait) == (1, 1)
    assert 5 < len(figures.examples) <= 10
    assert figures == figures_of(rows[50:], rows[:50])


def test_nothing_copied_is_nothing_found() -> None:
    assert figures_of(pair("a"), pair("b")) == CopyFigures(label=0, portrait=0, examples=())
