from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import pytest

from pipeline.reading.values import UnreadableError
from pipeline.threads.adapters import ADAPTERS, SLUGS
from preference_space.space import load_space
from tests.pipeline.threads.rows import completion, helpsteer2_row, pku_saferlhf_row, ultrafeedback_row


def test_ultrafeedback_ratings_are_numbers_by_slug_and_names_the_models() -> None:
    row = ultrafeedback_row(
        completion("alpaca-7b", "Use pegs.", {"helpfulness": "5", "honesty": "N/A", "truthfulness": 2}),
        completion("llama-2", "No idea.", {"helpfulness": "1", "honesty": "4", "truthfulness": "3.0"}),
    )

    found = ADAPTERS["ultrafeedback"](row)

    assert found.post == "How do I pitch a tent?"
    assert found.responses == [
        ("alpaca-7b", "Use pegs.", {"helpfulness": 5.0, "truthfulness": 2.0}),
        ("llama-2", "No idea.", {"helpfulness": 1.0, "honesty": 4.0, "truthfulness": 3.0}),
    ]
    assert not found.group


def test_ultrafeedback_names_of_a_repeated_model_differ() -> None:
    found = ADAPTERS["ultrafeedback"](ultrafeedback_row(*(completion("gpt-4", f"Answer {k}.", {}) for k in range(3))))

    assert [name for name, *_ in found.responses] == ["gpt-4", "gpt-4#2", "gpt-4#3"]


@pytest.mark.parametrize("annotations", [None, "N/A", {"honesty": None, "helpfulness": {"Rating": "N/A"}}, []])
def test_ultrafeedback_passes_over_missing_annotations(annotations: Any) -> None:
    row = ultrafeedback_row(completion("gpt-4", "Use pegs.", {}) | {"annotations": annotations})

    assert ADAPTERS["ultrafeedback"](row).responses == [("gpt-4", "Use pegs.", {})]


@pytest.mark.parametrize("completions", [None, []])
def test_ultrafeedback_row_may_have_no_completions(completions: Any) -> None:
    assert ADAPTERS["ultrafeedback"](ultrafeedback_row() | {"completions": completions}).responses == []


@pytest.mark.parametrize("end", ["", "\n<extra_id_1>Assistant\n", "\n<extra_id_1>Assistant"])
def test_helpsteer2_prompt_of_several_turns_is_what_the_user_says(end: str) -> None:
    prompt = "Stove?\n<extra_id_1>Assistant\nGas.\n\nOr not.\n<extra_id_1>User\nWhat is <extra_id_1>User\nfor?" + end

    found = ADAPTERS["helpsteer2"](helpsteer2_row(prompt, "A tag.", 4, 3, None, 2, 0))

    assert found.post == "Stove?\n\nWhat is <extra_id_1>User\nfor?"


def test_helpsteer2_row_is_one_response_of_a_prompt() -> None:
    found = ADAPTERS["helpsteer2"](helpsteer2_row("Stove?", "Gas.", 4, 3, None, 2, 0))

    assert found.post == "Stove?"
    assert found.responses == [("", "Gas.", {"truthfulness": 3.0, "helpfulness": 4.0, "complexity": 2.0})]
    assert found.group == "Stove?"


@pytest.mark.parametrize(
    ("better", "safer", "ratings"),
    [
        (0, 1, [{"harmlessness": 0.0, "helpfulness": 1.0}, {"harmlessness": 1.0, "helpfulness": 0.0}]),
        (1, -1, [{"harmlessness": 0.0, "helpfulness": 0.0}, {"harmlessness": 0.0, "helpfulness": 1.0}]),
        (1, None, [{"helpfulness": 0.0}, {"helpfulness": 1.0}]),
    ],
)
def test_pku_saferlhf_ratings_come_from_the_two_choices(better: Any, safer: Any, ratings: Any) -> None:
    found = ADAPTERS["pku_saferlhf"](pku_saferlhf_row(better, safer))

    assert [name for name, *_ in found.responses] == ["response_0", "response_1"]
    assert [rating for *_, rating in found.responses] == ratings
    assert not found.group


def test_pku_saferlhf_needs_no_optional_columns() -> None:
    row = pku_saferlhf_row(better=0, safer=0)
    needed = {k: v for k, v in row.items() if "severity" not in k and "sha256" not in k and not k.startswith("is_")}

    assert len(ADAPTERS["pku_saferlhf"](needed).responses) == 2


@pytest.mark.parametrize(
    ("adapter", "row", "column"),
    [
        ("ultrafeedback", ultrafeedback_row(), "completions"),
        ("ultrafeedback", ultrafeedback_row(), "instruction"),
        ("helpsteer2", helpsteer2_row("Tent?", "Dome.", 1, 1, 1, 1, 1), "correctness"),
        ("pku_saferlhf", pku_saferlhf_row(better=0, safer=0), "safer_response_id"),
    ],
)
def test_a_missing_column_is_named(adapter: str, row: Mapping[str, Any], column: str) -> None:
    broken = {name: value for name, value in row.items() if name != column}

    with pytest.raises(UnreadableError) as error:
        ADAPTERS[adapter](broken)

    assert str(error.value) == f"no column '{column}'; found: {', '.join(broken)}"[:240]


def test_a_missing_column_of_a_completion_is_named() -> None:
    with pytest.raises(UnreadableError) as error:
        ADAPTERS["ultrafeedback"](ultrafeedback_row({"model": "gpt-4", "annotations": {}}))

    assert str(error.value) == ("no column 'completions.response'; found: completions.model, completions.annotations")


def test_every_slug_is_a_universal_value_of_the_packaged_space() -> None:
    values = {dimension.slug for dimension in load_space("alignx").dimensions[40:47]}

    assert {slug for slugs in SLUGS.values() for slug in slugs} == values
