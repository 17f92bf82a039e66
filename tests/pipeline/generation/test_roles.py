from __future__ import annotations

from typing import Any

import pytest

from pipeline.generation.roles import engine_of, in_terms_of, managed_servers, model_of, served_roles
from schemas.config import BuildConfig
from tests.pipeline.helpers import tiny

OTHER = {"kind": "openai", "base_urls": ["http://localhost:1/v1"]}
VLLM = {"kind": "vllm"}


def config(writer: dict[str, Any] | None = None, **verification: Any) -> BuildConfig:
    keys = {"engine": writer} if writer else {}
    return tiny(verification={"mode": "record", **verification}, **keys)


@pytest.mark.parametrize(
    ("settings", "services"),
    [
        ({"mode": "off", "model": "judge"}, {"generation": ("generation",)}),
        ({}, {"generation": ("generation", "verification")}),
        ({"model": "stub"}, {"generation": ("generation", "verification")}),
        ({"model": "judge"}, {"generation": ("generation",), "verification": ("verification",)}),
        ({"engine": OTHER}, {"generation": ("generation",), "verification": ("verification",)}),
    ],
)
def test_a_judge_of_its_own_has_a_service_of_its_own(settings: dict[str, Any], services: dict[str, Any]) -> None:
    assert served_roles(config(**settings)) == services


def test_a_replay_is_of_the_judge_too() -> None:
    replayed = config({"kind": "replay", "journal": "j"}, model="judge", engine=OTHER)

    assert engine_of(replayed, "verification") == replayed.engine
    assert model_of(replayed, "verification") == "judge"


def test_the_servers_of_a_build_are_those_of_its_own_engines() -> None:
    two = config(VLLM, model="judge")

    assert [(role, model) for role, _, model in managed_servers(two)] == [
        ("generation", "stub"),
        ("verification", "judge"),
    ]
    assert [role for role, *_ in managed_servers(config(VLLM, engine=OTHER))] == ["generation"]
    assert [role for role, *_ in managed_servers(config(OTHER, engine=VLLM))] == ["verification"]
    assert managed_servers(config(OTHER)) == []


def test_messages_name_the_keys_of_the_judge() -> None:
    message = (
        "engine.base_urls: http://engine.org: check generation.model, or set mining.annotation.mode: json, or "
        "mining.annotation.protocol: chat"
    )

    assert in_terms_of(message, "generation", config()) == (
        "engine.base_urls: http://engine.org: check generation.model, or set verification.protocol: chat"
    )
    assert in_terms_of(message, "verification", config(engine=OTHER)) == (
        "verification.engine.base_urls: http://engine.org: check verification.model, or set verification.protocol: chat"
    )
