from __future__ import annotations

import random
from pathlib import Path
from typing import Any

import pytest

from pipeline.runtime.resources import resources
from tests.pipeline.helpers import write_jsonl
from tests.pipeline.threads.forum import (
    Gathered,
    Row,
    check_funnel,
    cut_small,
    gathered,
    text,
)
from tests.pipeline.threads.rows import completion, helpsteer2_row, pku_saferlhf_row, ultrafeedback_row


def helpsteer2_rows(prompts: int) -> list[dict[str, Any]]:
    rng = random.Random(3)
    return [
        helpsteer2_row(f"Prompt {k}?", text(3 * k + j), *(rng.randrange(5) for _ in range(5)))
        for k in range(prompts)
        for j in range(2)
    ]


def rated(folder: Path, kind: str, *rows: Row, **keys: Any) -> Gathered:
    folder.mkdir(exist_ok=True)
    path = write_jsonl(folder / "rows.jsonl", rows)
    section = {"source": {"kind": kind, "path": [str(path)]}, "annotation": {"mode": "given", "min_confidence": 0}}
    return gathered(folder / "out", section | keys)


def levels_of(found: Gathered, slug: str) -> dict[str, int]:
    """Return the level of each response on a dimension, by its text."""
    position = resources(found.plan).space.index[slug]
    return {r.text: r.levels[position] for post in found.posts for r in found.responses(post) if r.levels is not None}


def test_order_of_the_rows_of_helpsteer2_does_not_matter(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    rows = helpsteer2_rows(40)
    shuffled = rows.copy()
    random.Random(5).shuffle(shuffled)

    whole = rated(tmp_path / "whole", "helpsteer2", *rows)
    cut_small(monkeypatch)
    found = rated(tmp_path / "cut", "helpsteer2", *shuffled)

    assert len(found.index.parts) > 1
    assert len(found.posts) == 40
    assert found.counts("posts") == {"merged": 40}
    check_funnel(found)
    levels = levels_of(found, "truthfulness")
    assert levels == levels_of(whole, "truthfulness")
    for one, other in zip(rows[::2], rows[1::2], strict=True):
        sign = (one["correctness"] > other["correctness"]) - (one["correctness"] < other["correctness"])
        assert (levels[one["response"]], levels[other["response"]]) == (sign, -sign)


def test_further_responses_of_a_prompt_are_compared_with_all(tmp_path: Path) -> None:
    rows = [helpsteer2_row("Prompt?", text(k), *[rating] * 5) for k, rating in enumerate([4, 0, None, 2, 1])]

    found = rated(tmp_path, "helpsteer2", *rows[:2], *helpsteer2_rows(3), *rows[2:])

    # The median of 4, 0, 2 and 1 is 1.5.
    levels = levels_of(found, "helpfulness")
    assert [levels[text(k)] for k in range(5)] == [1, -1, 0, 1, -1]


def rated_pair(instruction: str, first: int, one: str, second: int, other: str) -> dict[str, Any]:
    """Return a row of UltraFeedback with two completions that are rated for helpfulness."""
    completions = [
        completion(model, said, {"helpfulness": str(rating)})
        for model, rating, said in (("a", first, one), ("b", second, other))
    ]
    return ultrafeedback_row(*completions, instruction=instruction)


def test_rows_of_one_instruction_are_not_compared_with_each_other(tmp_path: Path) -> None:
    rows = [
        rated_pair("How?", 5, text(1), 4, text(2)),
        rated_pair("How?", 2, text(3), 1, text(4)),
        rated_pair("Why?", 1, text(5), 3, text(6)),
    ]

    found = rated(tmp_path, "ultrafeedback", *rows)

    ratings = {
        c["response"]: int(c["annotations"]["helpfulness"]["Rating"]) for row in rows for c in row["completions"]
    }
    assert len(found.posts) == 2
    assert found.counts("posts") == {"duplicate": 1}
    check_funnel(found)
    levels = levels_of(found, "helpfulness")
    for post in found.posts:
        first, second = (r.text for r in found.responses(post))
        assert (levels[first] > levels[second]) == (ratings[first] > ratings[second])
        assert {first, second} in [{c["response"] for c in row["completions"]} for row in rows]


def test_replies_of_pku_saferlhf_that_were_never_compared_are_never_together(tmp_path: Path) -> None:
    rows: list[dict[str, Any]] = [
        pku_saferlhf_row(
            better=k % 2, safer=0, prompt=f"Prompt {k % 10}?", response_0=text(2 * k), response_1=text(2 * k + 1)
        )
        for k in range(40)
    ]

    found = rated(tmp_path, "pku_saferlhf", *rows)

    compared = [{row["response_0"], row["response_1"]} for row in rows]
    assert len(found.posts) == 10
    assert all({r.text for r in found.responses(post)} in compared for post in found.posts)
    assert found.counts("posts") == {"duplicate": 30}
    safer = levels_of(found, "harmlessness")
    for row in rows:
        if row["response_0"] in safer:
            assert (safer[row["response_0"]], safer[row["response_1"]]) == (1, -1)


def test_rows_of_a_published_dataset_that_cannot_be_used_are_counted(tmp_path: Path) -> None:
    rows = helpsteer2_rows(12)
    rows[0]["response"] = None
    rows[2]["prompt"] = 7
    del rows[3]["coherence"]

    found = rated(tmp_path, "helpsteer2", *rows)

    assert len(found.posts) == 10
    assert found.counts("posts") == {"unreadable": 2, "merged": 11, "too_few_responses": 1}
    assert found.counts("responses") == {"empty": 1, "of_small_threads": 1}
    check_funnel(found)
