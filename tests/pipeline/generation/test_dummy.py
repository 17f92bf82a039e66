from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from pipeline.build import build
from pipeline.generation.completions import (
    Completion,
    Failure,
    decode_probabilities,
    make_choice_request,
    make_request,
)
from pipeline.generation.dummy import complete
from pipeline.generation.json_formats import json_format
from pipeline.quality.rules import check_pair, check_reply
from schemas.base import UsageError
from schemas.config import BuildConfig, GenerationConfig, RulesConfig
from schemas.loader import validate
from tests.pipeline.helpers import DUMMY, rows_of, write_threads

SMALL: dict[str, Any] = {"shard_pairs": 16, "history": {"ugc": 1, "pair": 1, "min_support": 0}}


def text_of(number: int) -> str:
    messages = {"user": f"A post, number {number}."}
    outcome = complete(make_request(GenerationConfig(model="dummy"), messages, (0, "train", number, 0, "chosen")))
    assert isinstance(outcome, Completion)
    assert outcome.finish_reason == "stop"
    return outcome.text


def test_the_same_request_gets_the_same_reply_and_any_other_another() -> None:
    assert text_of(1) == text_of(1)
    assert len({text_of(number) for number in range(1000)}) == 1000


def test_replies_pass_the_rules() -> None:
    rules = RulesConfig()
    for number in range(0, 400, 2):
        chosen, rejected = text_of(number), text_of(number + 1)
        assert check_reply(chosen, "stop", (f"A post, number {number}.",), rules) is None
        assert check_pair(chosen, rejected, rules) is None


def test_choices_are_sure_and_of_every_option() -> None:
    texts = tuple(f"Question {number}?" for number in range(90))
    outcome = complete(make_choice_request({"model": "dummy"}, "A response.", texts, b"known"))

    assert isinstance(outcome, Completion)
    found = decode_probabilities(outcome.text)
    assert found.shape == (90, 3)
    assert (found.max(axis=1) > 200).all()
    assert set(found.argmax(axis=1).tolist()) == {0, 1, 2}


def test_json_is_refused_as_words_fit_no_schema() -> None:
    messages = {"user": "Describe the person."}
    asked = make_request(
        GenerationConfig(model="dummy"), messages, (0,), response_format=json_format("portrait", {"type": "object"})
    )

    assert complete(asked) == Failure("dummy", "engine 'dummy' writes no JSON", may_pass=False)


@pytest.mark.parametrize("mined", [False, True])
def test_a_build_needs_no_model_and_its_rows_say_so(tmp_path: Path, mined: bool) -> None:
    threads = str(write_threads(tmp_path / "threads.jsonl", 60))
    # Every answer is sure, so few may be asked: of ninety active dimensions no two people would agree.
    annotation = {"dimensions": ["demographics_and_traits"]}
    mining = {"source": {"kind": "threads", "path": [threads]}, "annotation": annotation}
    config = validate(BuildConfig, {"pairs": 60, **SMALL, **DUMMY, **({"mining": mining} if mined else {})}, "test")

    manifest = build(config, tmp_path / "out")

    assert manifest.status == "complete"
    rows = rows_of(tmp_path / "out" / "data")
    assert len(rows) == manifest.counts.examples > 0
    assert {row["model"] for row in rows} == {"dummy"}
    assert not (tmp_path / "out" / "journal").exists()


def test_rows_without_a_model_are_never_named_after_one() -> None:
    with pytest.raises(UsageError, match=r"needs generation\.model 'dummy'"):
        validate(BuildConfig, {"pairs": 1, "engine": {"kind": "dummy"}}, "test")
