from __future__ import annotations

import re
from pathlib import Path

import pytest

from pipeline.driver.losses import REMEDIES, losses_message, remedy_for, summarise_rejections
from schemas.config import LimitsConfig
from schemas.manifest import Counts
from tests import ROOT
from tests.pipeline.helpers import run_build
from tests.pipeline.processes import failing


def test_explanation_names_the_commonest_reasons_with_counts_and_one_example(tmp_path: Path) -> None:
    manifest, _ = run_build(tmp_path / "out", failing(3), limits={"max_lost_share": 1})
    rejected = manifest.counts.rejected

    said = summarise_rejections(tmp_path / "out", rejected)

    assert said.startswith(f"generate/http_500 {rejected['generate/http_500']}, validate/too_short ")
    assert re.search(r"\(for example [0-9a-f]{8}-\w+-\d{7}: HTTP 500: out of memory\)", said)


def test_explanation_names_three_reasons_and_counts_the_rest(tmp_path: Path) -> None:
    rejected = {"mine/margin": 1, "validate/copied": 9, "validate/equal": 2, "validate/empty": 7, "mine/repeated": 1}

    summary = summarise_rejections(tmp_path, rejected)
    assert summary == "validate/copied 9, validate/empty 7, validate/equal 2 and 2 more"


@pytest.mark.parametrize(
    ("rejected", "advice"),
    [
        ({"assemble/history_too_short": 251, "validate/copied": 13}, "more pairs"),
        ({"assemble/history_too_short": 251}, "with persona users instead more users.pairs_per_user"),
        ({"assemble/history_without_support": 3}, "lower history.min_support"),
        ({"validate/copied": 3, "assemble/history_too_short": 2}, "another generation.model or other templates"),
        ({"annotate/http_500": 96, "mine/too_few_responses": 6}, "the server and its log"),
        ({"generate/http_422": 3}, "change what it names"),
        ({"generate/http_404": 3}, "one of several behind an address may lack the model"),
        ({"annotate/unfinished": 3}, "mining.annotation.max_tokens"),
        ({"validate/unfinished": 3}, "generation.max_tokens"),
        ({"portrait/unfinished": 3}, "with portrait: model, raise generation.max_tokens"),
        ({"validate/control_token": 3}, "rules.control_tokens"),
        ({"generate/connection": 3}, "the server and its log"),
    ],
)
def test_advice_fits_the_commonest_reason(rejected: dict[str, int], advice: str) -> None:
    assert advice in remedy_for(rejected)


def test_advice_does_not_speak_of_what_is_not_lacking() -> None:
    assert "min_support" not in remedy_for({"assemble/history_too_short": 251})
    assert "model" not in remedy_for({"assemble/history_too_short": 251})


def test_losses_to_circumstances_are_blamed_on_the_server(tmp_path: Path) -> None:
    counts = Counts(pairs_asked=60, pairs_lost=40, pairs_unanswered=30, rejected={"generate/timeout": 30})

    said = losses_message(tmp_path, counts, LimitsConfig(max_lost_share=0.5))

    assert said.startswith("40 of 60 pairs were lost, 30 of them because requests failed: generate/timeout 30; ")
    assert "run the same command again" in said
    assert "template" not in said
    assert "max_lost_share" not in said


def test_losses_of_the_rows_own_are_not_blamed_on_the_server_though_some_are_not(tmp_path: Path) -> None:
    counts = Counts(pairs_asked=60, pairs_lost=40, pairs_unanswered=5, rejected={"validate/copied": 35})

    assert "more than limits.max_lost_share = 0.5: validate/copied 35; " in losses_message(
        tmp_path, counts, LimitsConfig(max_lost_share=0.5)
    )


def test_every_key_that_advice_names_exists() -> None:
    reference = (ROOT / "docs" / "config.md").read_text()
    keys = {key for text in REMEDIES.values() for key in re.findall(r"\b[a-z_]+(?:\.[a-z_]+)+\b", text)}
    keys -= {"model-server.log", "server.log"}

    assert keys
    assert {key for key in keys if f"`{key}`" not in reference and key.rpartition(".")[2] not in reference} == set()


def test_every_reason_of_a_row_has_advice_and_advice_has_a_reason() -> None:
    source = "".join(path.read_text() for path in (ROOT / "pipeline").rglob("*.py"))
    reasons = set(re.findall(r'Violation\(\s*"(\w+)"', source)) | set(re.findall(r'return "(history_\w+)"', source))
    reasons |= set(re.findall(r'\("(\w+)", p\) for p in', source))
    of_requests = {"timeout", "server_died", "http_404", "http_4"}

    assert {"too_short", "margin", "history_too_short", "markup"} <= reasons
    assert {key.rpartition("/")[2] for key in REMEDIES} - of_requests == reasons
