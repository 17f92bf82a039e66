from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from aiohttp import web

from everyuser_train.config import EndpointScorer
from everyuser_train.evaluate import evaluate
from everyuser_train.score import FloatArray, IntArray, encode
from everyuser_train.scorers import ask_scores
from schemas.base import UserError
from tests.endpoint_stub import EndpointStub, refused
from tests.test_evaluate import rows_of, settings_of, write
from tests.tiny import make_pairs, save_tiny, score_encoded, tiny_model

pytestmark = pytest.mark.usefixtures("_quick")


def vllm(models: dict[str, Any]) -> Callable[[dict[str, Any], int], web.Response]:
    """Answer as vLLM's server does, by models that transformers runs."""

    def answer(body: dict[str, Any], _: int) -> web.Response:
        ids = body["prompt"]
        assert body["max_tokens"] == 1 and body["prompt_logprobs"] == 0
        with torch.inference_mode():
            logp = torch.log_softmax(models[body["model"]](torch.tensor([ids])).logits[0], dim=-1)
        places: list[Any] = [
            {str(token): {"logprob": float(before[token]), "rank": 1, "decoded_token": "?"}}
            for before, token in zip(logp, ids[1:], strict=False)
        ]
        return web.json_response({"choices": [{"index": 0, "text": "?", "prompt_logprobs": [None, *places]}]})

    return answer


class Kept(dict[int, float]):
    """What `ask_scores` keeps."""

    def __call__(self, rows: IntArray, logp: FloatArray) -> None:
        self.update(zip(rows.tolist(), logp.tolist(), strict=True))


def test_an_endpoint_gives_the_same_accuracies_as_transformers(tmp_path: Path) -> None:
    names = [save_tiny(tmp_path / f"model{seed}", seed) for seed in (0, 1)]
    settings = settings_of(names, write(tmp_path, rows_of(4)), str(tmp_path / "cache"))
    here = evaluate(settings)
    with EndpointStub(vllm({"policy": tiny_model(0), "base": tiny_model(1)})) as stub:
        policy, reference = (stub.endpoint().model_copy(update={"model": name}) for name in ("policy", "base"))
        scorer = EndpointScorer(kind="endpoint", policy=policy, reference=reference)
        there = evaluate(settings.model_copy(update={"scorer": scorer}))
        asked = len(stub.bodies)
        evaluate(settings.model_copy(update={"scorer": scorer}))
        assert len(stub.bodies) == asked > 0
    for mine, theirs in zip(here.results, there.results, strict=True):
        assert mine.metrics.keys() == theirs.metrics.keys()
        for name, estimate in mine.metrics.items():
            assert theirs.metrics[name].value == pytest.approx(estimate.value, rel=1e-4)


def test_scores_are_those_of_the_tokens_that_were_sent(model: Any, tokenizer: Any) -> None:
    encoded = encode(tokenizer, make_pairs(70))
    kept = Kept()
    with EndpointStub(vllm({"stub": model})) as stub:
        ask_scores(stub.endpoint(in_flight=4), encoded, kept)
        assert sorted(map(str, (body["prompt"] for body in stub.bodies))) == sorted(
            str(e.ids.tolist()) for e in encoded
        )
    logp = np.array([kept[number] for number in range(len(encoded))])
    np.testing.assert_allclose(logp, score_encoded(model, encoded, 4000), rtol=1e-4)


@pytest.mark.parametrize(
    ("places", "said"),
    [
        (None, "not an answer of /completions"),
        ([None, {"5": {"logprob": -1.0}}], "not an answer of /completions"),
        ("refused", "HTTP 400: too long"),
    ],
)
def test_a_sequence_without_a_score_ends_the_run_and_the_others_stay(
    model: Any, tokenizer: Any, places: Any, said: str
) -> None:
    encoded = encode(tokenizer, make_pairs(4))
    good = vllm({"stub": model})

    def answer(body: dict[str, Any], before: int) -> web.Response:
        if before < 2:
            return good(body, before)
        if places == "refused":
            return refused(400, "too long")
        return web.json_response({"choices": [{"index": 0, "text": "?", "prompt_logprobs": places}]})

    kept = Kept()
    with EndpointStub(answer) as stub, pytest.raises(UserError, match=f"gave no score .*{said}.*prompt_logprobs"):
        ask_scores(stub.endpoint(in_flight=1, retries=1), encoded, kept)
    assert sorted(kept) == [0, 1]


@pytest.mark.usefixtures("_quick")
def test_an_endpoint_that_is_away_for_now_is_asked_again_by_the_same_command(tokenizer: Any) -> None:
    with EndpointStub(lambda _body, _before: refused(500, "away")) as stub, pytest.raises(UserError, match="same comm"):
        ask_scores(stub.endpoint(retries=1), encode(tokenizer, make_pairs(1)), Kept())


@pytest.mark.parametrize("bad", [None, "NaN"])
def test_a_log_probability_that_is_no_number_is_no_score(tokenizer: Any, bad: Any) -> None:
    (entry,) = encode(tokenizer, make_pairs(1))

    def answer(body: dict[str, Any], _: int) -> web.Response:
        places = [{str(token): {"logprob": bad}} for token in body["prompt"]]
        return web.json_response({"choices": [{"index": 0, "text": "?", "prompt_logprobs": places}]})

    with EndpointStub(answer) as stub, pytest.raises(UserError, match="gave no score"):
        ask_scores(stub.endpoint(retries=0), [entry], Kept())
