from __future__ import annotations

from typing import Any

import pytest

from schemas.base import UsageError
from schemas.config import BuildConfig
from schemas.documents import parse_yaml
from schemas.loader import validate


def config(mining: dict[str, Any] | None = None, **verification: Any) -> BuildConfig:
    keys: dict[str, Any] = {"generation": {"model": "writer"}, "mining": mining, "verification": verification}
    return validate(BuildConfig, {"pairs": 10, **keys}, "here")


def test_off_of_yaml_is_no_false() -> None:
    document = parse_yaml("verification: {mode: off}")

    assert validate(BuildConfig, {"pairs": 10, **document}, "here").verification.mode == "off"


def test_the_judge_is_the_writer_unless_another_model_is_named() -> None:
    assert config().judge == "writer"
    assert config(model="judge").judge == "judge"


def test_the_engine_of_the_judge_may_change_and_nothing_else() -> None:
    plain = config(mode="filter").fingerprinted()

    assert config(mode="filter", engine={"kind": "vllm"}).fingerprinted() == plain
    for other in ({"mode": "record"}, {"mode": "filter", "model": "judge"}, {"mode": "filter", "min_margin": 0.1}):
        assert config(**other).fingerprinted() != plain


@pytest.mark.parametrize("mode", ["off", "record"])
def test_what_a_mode_does_not_read_may_change(mode: str) -> None:
    read_by_filter: dict[str, Any] = {"max_margin": 1.0, "min_dimensions": 2, "min_share": 0.5, "min_quality": 0.5}
    read_by_record: dict[str, Any] = {"votes": 5, "orders": 1, "model": "judge", "quality": False}
    read_by_record |= {"min_margin": 0.1, "max_drift": 0.4, "prompts_per_call": 5, "structured_outputs": False}
    plain = config(mode=mode).fingerprinted()

    assert config(mode=mode, max_quality_gap=0.5, **read_by_filter).fingerprinted() == plain
    for key, value in read_by_record.items():
        assert (config(mode=mode, **{key: value}).fingerprinted() == plain) == (mode == "off"), key
    for key, value in {**read_by_filter, **read_by_record}.items():
        assert config(mode="filter", **{key: value}).fingerprinted() != config(mode="filter").fingerprinted(), key


def test_votes_may_change_where_nobody_votes() -> None:
    def fingerprinted(protocol: str, votes: int) -> Any:
        return config(mode="filter", protocol=protocol, votes=votes).fingerprinted()

    assert fingerprinted("completions", 5) == fingerprinted("completions", 3)
    assert fingerprinted("auto", 5) != fingerprinted("auto", 3)


@pytest.mark.parametrize(
    ("mode", "unread"),
    [
        ("choice", {"votes", "max_tokens"}),
        ("json", {"votes", "prompts_per_call", "option_order"}),
        ("given", {"votes", "prompts_per_call", "option_order", "structured_outputs", "max_tokens"}),
    ],
)
def test_what_an_annotator_does_not_read_may_change(mode: str, unread: set[str]) -> None:
    def fingerprinted(**keys: Any) -> Any:
        mining = {"source": {"kind": "threads", "path": ["packaged"]}, "annotation": {"mode": mode, **keys}}
        return config(mining).fingerprinted()

    others = {"votes": 5, "prompts_per_call": 5, "option_order": "fixed", "structured_outputs": False}
    others |= {"max_tokens": 99, "min_confidence": 0.7, "dimensions": ["openness"]}

    assert {key for key, value in others.items() if fingerprinted(**{key: value}) == fingerprinted()} == unread


def test_keys_of_histories_may_change_where_nothing_reads_them() -> None:
    def unread(**keys: Any) -> set[str]:
        others: dict[str, Any] = {"blocks": 5, "min_similarity": 0.1, "consistency": "paper", "min_support": 0.1}
        whole = [validate(BuildConfig, {**keys, "history": {name: value}}, "here") for name, value in others.items()]
        plain = validate(BuildConfig, keys, "here").fingerprinted()
        return {name for name, config in zip(others, whole, strict=True) if config.fingerprinted() == plain}

    mining = {"source": {"kind": "threads", "path": ["packaged"]}}
    assert unread(pairs=10) == {"min_similarity", "consistency"}
    assert unread(persona="users", users={"count": 10}) == {"min_similarity", "consistency", "blocks"}
    assert unread(pairs=10, mining=mining) == set()


def test_tokens_for_reasoning_may_change_where_there_is_none() -> None:
    def fingerprinted(reasoning: str, tokens: int) -> Any:
        keys = {"model": "writer", "reasoning": reasoning, "reasoning_tokens": tokens}
        return validate(BuildConfig, {"pairs": 10, "generation": keys}, "here").fingerprinted()

    assert fingerprinted("off", 64) == fingerprinted("off", 128)
    assert fingerprinted("keep out", 64) != fingerprinted("keep out", 128)


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"min_margin": 0.5, "max_margin": 0.5}, r"max_margin \(0\.5\) is not above min_margin \(0\.5\)"),
        ({"quality": False, "min_quality": 0.5}, "need 'quality: true'"),
        ({"quality": False, "max_quality_gap": 0.5}, "need 'quality: true'"),
        ({"drift_dimensions": 0, "max_drift": 0.5}, "max_drift needs drift_dimensions"),
        ({"engine": {"kind": "dummy"}}, "verification.model 'dummy'"),
        ({"engine": {"kind": "replay", "journal": "there"}}, "verification.engine"),
    ],
)
def test_settings_that_contradict_each_other_are_refused(settings: dict[str, Any], words: str) -> None:
    with pytest.raises(UsageError, match=words):
        config(mode="filter", **settings)


def test_a_build_without_sampled_pairs_has_nothing_to_verify() -> None:
    mining = {"source": {"kind": "threads", "path": ["threads.jsonl"]}}

    with pytest.raises(UsageError, match="all pairs are mined"):
        config(mining=mining, mode="filter")
    assert config(mining=mining | {"share": 0.5}, mode="filter").verification.is_on


def test_a_difference_is_drift_above_max_drift_or_else_above_the_margin_of_a_clear_one() -> None:
    assert config().verification.drift_margin == 0.5
    assert config(min_margin=0.8).verification.drift_margin == 0.8
    assert config(max_drift=0.3).verification.drift_margin == 0.3
