from __future__ import annotations

from typing import Any

import pytest
from pydantic import ValidationError

from schemas.records import Example, Pair, PairItem, Rejection, SeedPost, UgcItem
from tests.schemas.records import example, pair, pair_item, ugc


def test_consistent_example_is_accepted() -> None:
    assert example().is_consistent


def test_example_without_history_is_accepted() -> None:
    assert example(user_generated_content=(), pairwise_feedback=()).is_consistent


def test_example_with_equal_replies_is_rejected() -> None:
    with pytest.raises(ValidationError, match="chosen and rejected are equal"):
        example(rejected="Take a cat.")


@pytest.mark.parametrize(
    "history",
    [
        {"user_generated_content": (ugc(preference_direction=(0.0, 0.5, 0.5)),)},
        {"pairwise_feedback": (pair_item(preference_direction=(0.5, 1.0, 0.5)),)},
    ],
)
def test_history_item_that_contradicts_a_target_dimension_makes_the_row_inconsistent(history: dict[str, Any]) -> None:
    assert not example(**history).is_consistent


def test_history_may_take_either_pole_of_a_dimension_that_the_target_leaves_neutral() -> None:
    item = ugc(preference_direction=(0.5, 0.5, 0.0))

    assert example(user_generated_content=(item,)).is_consistent


@pytest.mark.parametrize("size", [2, 4])
@pytest.mark.parametrize("column", ["user_generated_content", "pairwise_feedback"])
def test_history_item_of_another_space_is_rejected(column: str, size: int) -> None:
    make = ugc if column == "user_generated_content" else pair_item

    with pytest.raises(ValidationError, match="another number of dimensions"):
        example(**{column: (make(preference_direction=(0.5,) * size),)})


@pytest.mark.parametrize(
    "history",
    [
        {"user_generated_content": (ugc(prompt="Which pet?"),)},
        {"pairwise_feedback": (pair_item(prompt="Which pet?"),)},
        {"user_generated_content": (ugc(), ugc(comment="Another comment."))},
        {"pairwise_feedback": (pair_item(prompt="A cat?"),)},
    ],
)
def test_repeated_post_is_rejected(history: dict[str, Any]) -> None:
    with pytest.raises(ValidationError, match="a post is repeated in the row"):
        example(**history)


@pytest.mark.parametrize(
    "history",
    [
        {"user_generated_content": (ugc(comment="Take a cat."),)},
        {"user_generated_content": (ugc(comment="Take a dog."),)},
        {"pairwise_feedback": (pair_item(chosen="Take a cat."),)},
        {"pairwise_feedback": (pair_item(rejected="Yes, a cat."),)},
        {"pairwise_feedback": (pair_item(rejected="No dog."),)},
        {"user_generated_content": (ugc(), ugc(prompt="Another post?"))},
    ],
)
def test_repeated_reply_is_rejected(history: dict[str, Any]) -> None:
    with pytest.raises(ValidationError, match="a reply is repeated in the row"):
        example(**history)


@pytest.mark.parametrize("column", ["prompt", "chosen", "rejected", "demographic_information", "profile", "id"])
@pytest.mark.parametrize("text", ["", " \n\t"])
def test_example_with_a_blank_text_is_rejected(column: str, text: str) -> None:
    with pytest.raises(ValidationError):
        example(**{column: text})


@pytest.mark.parametrize("value", [-1.0, 0.25, 2.0, float("nan"), "1", True])
def test_released_direction_holds_three_numbers_only(value: object) -> None:
    with pytest.raises(ValidationError):
        example(preference_direction=(value, 0.0, 0.5))


@pytest.mark.parametrize("support", [-0.1, 1.1])
def test_history_support_is_a_share(support: float) -> None:
    with pytest.raises(ValidationError):
        example(history_support=support)


@pytest.mark.parametrize("user", [(1.0, 0.0, 0.5), (1.0, 0.0, 1.0)])
def test_a_direction_is_a_part_of_its_users(user: tuple[float, ...]) -> None:
    assert example(user_direction=user).user_direction == user


@pytest.mark.parametrize("user", [(1.0, 0.5, 0.5), (1.0, 1.0, 0.5), (1.0, 0.0), (1.0, 0.0, 0.5, 0.5)])
def test_a_direction_that_is_no_part_of_its_users_is_rejected(user: tuple[float, ...]) -> None:
    with pytest.raises(ValidationError):
        example(user_direction=user)


def test_a_mirrored_restraint_pair_is_rejected() -> None:
    assert not example(kind="restraint").mirrored
    with pytest.raises(ValidationError, match="mirror image"):
        example(kind="restraint", mirrored=True)


def test_example_takes_the_column_names_of_alignx() -> None:
    before = example()

    assert Example(**before.model_dump(by_alias=True)) == before


def test_pair_with_equal_replies_is_rejected() -> None:
    with pytest.raises(ValidationError, match="chosen and rejected are equal"):
        pair(rejected="A cat.")


@pytest.mark.parametrize("direction", [(0, 0, 0), ()])
def test_pair_without_a_preference_is_rejected(direction: tuple[int, ...]) -> None:
    with pytest.raises(ValidationError, match="the direction is neutral in every dimension"):
        pair(direction=direction)


@pytest.mark.parametrize("level", [2, -2, 0.5, "1", True])
def test_pair_with_a_level_that_is_none_is_rejected(level: object) -> None:
    with pytest.raises(ValidationError):
        pair(direction=(1, level, 0))


@pytest.mark.parametrize("column", ["pair_id", "post_id", "prompt", "chosen", "rejected"])
def test_pair_with_a_blank_text_is_rejected(column: str) -> None:
    with pytest.raises(ValidationError):
        pair(**{column: "  "})


def test_pair_with_a_negative_attempt_is_rejected() -> None:
    with pytest.raises(ValidationError):
        pair(attempt=-1)


def test_pair_of_an_unknown_source_is_rejected() -> None:
    with pytest.raises(ValidationError):
        pair(source="invented")


@pytest.mark.parametrize(
    ("column", "value"),
    [("attempt", "0"), ("attempt", 0.0), ("chosen", 5), ("chosen", b"A cat."), ("topics", ["pets"])],
)
def test_pair_coerces_nothing(column: str, value: object) -> None:
    with pytest.raises(ValidationError):
        pair(**{column: value})


def test_example_coerces_no_number_to_a_flag() -> None:
    with pytest.raises(ValidationError):
        example(mirrored=1)


def test_unknown_field_is_rejected() -> None:
    with pytest.raises(ValidationError, match="Extra inputs are not permitted"):
        pair(colour="red")


def test_missing_field_is_rejected() -> None:
    with pytest.raises(ValidationError, match="Field required"):
        UgcItem.model_validate({"prompt": "A cat?", "Preference Direction": (1.0,)})


@pytest.mark.parametrize("record", [pair(), example(), ugc(), pair_item(), SeedPost(id="s", text="Hello?")])
def test_records_are_frozen(record: Pair | Example | UgcItem | PairItem | SeedPost) -> None:
    with pytest.raises(ValidationError, match="frozen"):
        record.prompt = "changed"  # type: ignore[misc]


@pytest.mark.parametrize("texts", [{}, {"title": " ", "text": "\n"}])
def test_seed_post_without_title_and_text_is_rejected(texts: dict[str, str]) -> None:
    with pytest.raises(ValidationError, match="neither a title nor a text"):
        SeedPost(id="s", **texts)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("title", "text", "prompt"),
    [(" A title ", "A text.\n", "A title\n\nA text."), ("A title", " ", "A title"), ("", "A text.", "A text.")],
)
def test_prompt_of_a_seed_post_joins_what_it_has(title: str, text: str, prompt: str) -> None:
    assert SeedPost(id="s", title=title, text=text).prompt == prompt


def test_rejection_of_an_unknown_stage_is_rejected() -> None:
    with pytest.raises(ValidationError, match="stage"):
        Rejection(
            record_id="r",
            stage="publish",  # type: ignore[arg-type]
            reason="empty",
            detail="",
            attempt=0,
            final=True,
            post_id="s",
            prompt="",
            direction=(),
            texts=(),
        )
