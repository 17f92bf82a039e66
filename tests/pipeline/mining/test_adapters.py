from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import pytest

from pipeline.mining.adapters import ADAPTERS
from preference_space.space import load_space
from schemas.base import UsageError


def completion(model: str, response: Any, ratings: Mapping[str, Any]) -> dict[str, Any]:
    return {
        "model": model,
        "principle": "helpfulness",
        "custom_system_prompt": "As a helpful assistant, answer the question.",
        "response": response,
        "annotations": {
            slug: {"Rating": ratings.get(slug, "N/A"), "Rationale": "It fits."}
            | ({"Type": ["1"], "Rationale For Rating": "So it is."} if slug in ("truthfulness", "helpfulness") else {})
            for slug in ("instruction_following", "honesty", "truthfulness", "helpfulness")
        },
        "overall_score": 7.0,
        "fine-grained_score": 4.25,
        "critique": "Fine.",
    }


def ultrafeedback_row(*completions: Mapping[str, Any]) -> dict[str, Any]:
    return {
        "source": "sharegpt",
        "instruction": "How do I pitch a tent?",
        "models": [c["model"] for c in completions],
        "completions": list(completions),
        "correct_answers": ["None"],
        "incorrect_answers": ["None"],
    }


def helpsteer2_row(prompt: Any, response: Any, *ratings: Any) -> dict[str, Any]:
    columns = ("helpfulness", "correctness", "coherence", "complexity", "verbosity")
    return {"prompt": prompt, "response": response} | dict(zip(columns, ratings, strict=True))


def pku_saferlhf_row(better: Any, safer: Any, **other: Any) -> dict[str, Any]:
    return {
        "prompt": "How do I light a stove indoors?",
        "response_0": "Just light it.",
        "response_1": "Open a window first.",
        "is_response_0_safe": False,
        "is_response_1_safe": True,
        "response_0_severity_level": 2,
        "response_1_severity_level": 0,
        "better_response_id": better,
        "safer_response_id": safer,
        "response_0_sha256": "aa",
        "response_1_sha256": "bb",
    } | other


def threads(adapter: str, *rows: Mapping[str, Any]) -> list[dict[str, Any]]:
    return list(ADAPTERS[adapter](rows))


def levels(thread: Mapping[str, Any]) -> list[dict[str, int]]:
    return [response["levels"] for response in thread["responses"]]


def test_ultrafeedback_levels_are_signs_against_the_median() -> None:
    row = ultrafeedback_row(
        completion("alpaca-7b", "Use pegs.", {"helpfulness": "5", "honesty": "N/A", "truthfulness": 2}),
        completion("llama-2", "No idea.", {"helpfulness": "1", "honesty": "4", "truthfulness": "3.0"}),
        completion("gpt-4", "Read the leaflet.", {"helpfulness": "3", "honesty": "5", "truthfulness": 5.0}),
    )
    [thread] = threads("ultrafeedback", row)
    assert thread == {
        "post": "How do I pitch a tent?",
        "responses": [
            {
                "id": "alpaca-7b",
                "text": "Use pegs.",
                "levels": {"honesty": 0, "truthfulness": -1, "helpfulness": 1},
            },
            {
                "id": "llama-2",
                "text": "No idea.",
                "levels": {"honesty": -1, "truthfulness": 0, "helpfulness": -1},
            },
            {
                "id": "gpt-4",
                "text": "Read the leaflet.",
                "levels": {"honesty": 1, "truthfulness": 1, "helpfulness": 0},
            },
        ],
    }


def test_ultrafeedback_ids_of_a_repeated_model_differ() -> None:
    [thread] = threads("ultrafeedback", ultrafeedback_row(*(completion("gpt-4", f"Answer {k}.", {}) for k in range(3))))
    assert [response["id"] for response in thread["responses"]] == ["gpt-4", "gpt-4#2", "gpt-4#3"]
    assert levels(thread) == [{}, {}, {}]


def test_ultrafeedback_passes_over_missing_annotations_and_completions() -> None:
    bare = completion("llama-2", "No idea.", {}) | {"annotations": None}
    partial = completion("gpt-4", "Use pegs.", {}) | {"annotations": {"honesty": None, "helpfulness": {"Rating": "4"}}}
    [thread] = threads(
        "ultrafeedback",
        ultrafeedback_row(bare, partial),
        ultrafeedback_row(),
        ultrafeedback_row() | {"completions": None},
    )
    assert levels(thread) == [{"helpfulness": 0}, {"helpfulness": 0}]


def test_responses_without_text_are_left_out_of_the_thread_and_of_the_median() -> None:
    row = ultrafeedback_row(
        completion("a", "Use pegs.", {"helpfulness": "5"}),
        completion("b", "  ", {"helpfulness": "1"}),
        completion("c", None, {"helpfulness": "1"}),
        completion("d", "Use stones.", {"helpfulness": "4"}),
    )
    [thread] = threads("ultrafeedback", row)
    assert [response["id"] for response in thread["responses"]] == ["a", "d"]
    assert levels(thread) == [{"helpfulness": 1}, {"helpfulness": -1}]


def test_helpsteer2_groups_consecutive_rows_of_a_prompt() -> None:
    found = threads(
        "helpsteer2",
        helpsteer2_row("Stove?", "Gas.", 4, 3, 4, 2, 0),
        helpsteer2_row("Stove?", "Wood.", 2, 3, 3, 4, 4),
        helpsteer2_row("Lone?", "Yes.", 4, 4, 4, 4, 4),
        helpsteer2_row("Tent?", "Dome.", 1, None, None, 1, 1),
        helpsteer2_row("Tent?", "Ridge.", 1, 2, None, 0, 1),
        helpsteer2_row("Stove?", "Coal.", 1, 1, 1, 1, 1),
    )
    assert [thread["post"] for thread in found] == ["Stove?", "Tent?"]
    assert found[0]["responses"] == [
        {
            "id": "response_0",
            "text": "Gas.",
            "levels": {"truthfulness": 0, "helpfulness": 1, "coherence": 1, "complexity": -1},
        },
        {
            "id": "response_1",
            "text": "Wood.",
            "levels": {"truthfulness": 0, "helpfulness": -1, "coherence": -1, "complexity": 1},
        },
    ]
    assert levels(found[1]) == [
        {"truthfulness": 0, "helpfulness": 0, "complexity": 1},
        {"truthfulness": 0, "helpfulness": 0, "complexity": -1},
    ]


@pytest.mark.parametrize("prompt", [None, "", " \n", 7])
def test_threads_without_a_post_are_skipped(prompt: Any) -> None:
    rows = [helpsteer2_row(prompt, text, 1, 1, 1, 1, 1) for text in ("Gas.", "Wood.")]
    assert threads("helpsteer2", *rows) == []


def test_pku_saferlhf_levels_come_from_the_two_choices() -> None:
    [thread] = threads("pku_saferlhf", pku_saferlhf_row(better=0, safer=1))
    assert thread == {
        "post": "How do I light a stove indoors?",
        "responses": [
            {"id": "response_0", "text": "Just light it.", "levels": {"harmlessness": -1, "helpfulness": 1}},
            {"id": "response_1", "text": "Open a window first.", "levels": {"harmlessness": 1, "helpfulness": -1}},
        ],
    }


@pytest.mark.parametrize("undecided", [-1, None])
def test_pku_saferlhf_without_a_choice_is_neutral(undecided: Any) -> None:
    [thread] = threads("pku_saferlhf", pku_saferlhf_row(better=1, safer=undecided))
    assert levels(thread) == [{"harmlessness": 0, "helpfulness": -1}, {"harmlessness": 0, "helpfulness": 1}]


def test_pku_saferlhf_needs_no_optional_columns_but_two_texts() -> None:
    row = pku_saferlhf_row(better=0, safer=0)
    needed = {k: v for k, v in row.items() if "severity" not in k and "sha256" not in k and not k.startswith("is_")}
    assert len(threads("pku_saferlhf", needed)) == 1
    assert threads("pku_saferlhf", pku_saferlhf_row(better=0, safer=0, response_1="")) == []


def without(row: Mapping[str, Any], column: str) -> dict[str, Any]:
    return {name: value for name, value in row.items() if name != column}


@pytest.mark.parametrize(
    ("adapter", "row", "column"),
    [
        ("ultrafeedback", ultrafeedback_row(), "completions"),
        ("ultrafeedback", ultrafeedback_row(), "instruction"),
        ("helpsteer2", helpsteer2_row("Tent?", "Dome.", 1, 1, 1, 1, 1), "correctness"),
        ("pku_saferlhf", pku_saferlhf_row(better=0, safer=0), "safer_response_id"),
    ],
)
def test_a_missing_column_is_named_with_its_row(adapter: str, row: Mapping[str, Any], column: str) -> None:
    broken = without(row, column)
    with pytest.raises(UsageError) as error:
        threads(adapter, row, broken)
    assert str(error.value) == f"{adapter}: row 2 has no column '{column}'; it has {', '.join(broken)}"


def test_a_missing_column_of_a_completion_is_named_with_its_row() -> None:
    broken = {"model": "gpt-4", "annotations": {}}
    with pytest.raises(UsageError) as error:
        threads("ultrafeedback", ultrafeedback_row(broken))
    assert str(error.value) == (
        "ultrafeedback: row 1 has no column 'completions.response'; it has completions.model, completions.annotations"
    )


def test_every_slug_is_a_universal_value_of_the_packaged_space() -> None:
    rated = completion("a", "Use pegs.", dict.fromkeys(("instruction_following", "honesty", "truthfulness"), "3"))
    found = [
        *threads("ultrafeedback", ultrafeedback_row(rated, rated)),
        *threads("helpsteer2", *[helpsteer2_row("Tent?", "Dome.", 1, 1, 1, 1, 1)] * 2),
        *threads("pku_saferlhf", pku_saferlhf_row(better=0, safer=0)),
    ]
    values = {dimension.slug for dimension in load_space("alignx").dimensions[40:47]}
    assert {slug for thread in found for slug in levels(thread)[0]} == values
