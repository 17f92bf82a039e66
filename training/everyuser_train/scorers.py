"""The policy and the reference of an evaluation as scorers of sequences."""

from __future__ import annotations

import gc
import math
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

from everyuser_train import models
from everyuser_train.client import Call, Failure, ask_all
from everyuser_train.config import Endpoint, EvaluateConfig
from everyuser_train.forward import score_batches, shares_prefixes
from everyuser_train.models import Head, ModelRef
from everyuser_train.rewards import reward_batches
from everyuser_train.score import Encoded, Keep, Scores, cached_score, model_key
from schemas.base import UsageError, UserError
from schemas.packaged_models import cache_folder

_KEPT_TOGETHER = 64
"""Scores of an endpoint that are written to the cache at a time, as each write waits for the disk."""

ALONE = (
    "each sequence was scored by itself, which takes longer: the model's layers or its `attention` share no prefixes"
)
"""Note on a model that takes no trees."""


class Scorer:
    """A model with cached scores. It is loaded, or its endpoint asked, only while a score is missing.

    `notes` tell a reader of the report how scores were computed, where that is not the usual way.
    """

    def __init__(
        self, model: ModelRef, settings: EvaluateConfig, endpoint: Endpoint | None, head: Head = "causal"
    ) -> None:
        self.name = model.name
        self._model = model
        self._settings = settings
        self._endpoint = endpoint
        self._head = head
        computation = settings.dtype if endpoint is None else f"{endpoint.model} at {endpoint.base_url}"
        self.notes: tuple[str, ...] = ()
        self._key = model_key(*model, computation)

    def scores(self, sequences: Sequence[Encoded], progress: Callable[[int, int], None]) -> Scores:
        """Return the scores of the sequences."""
        settings, done = self._settings, 0
        folder = Path(settings.cache).expanduser() if settings.cache else cache_folder() / "scores"

        def advance(more: int) -> None:
            nonlocal done
            done += more
            progress(done, len(sequences))

        return cached_score(folder, self._key, self._compute, sequences, advance)

    def _compute(self, sequences: list[Encoded], keep: Keep) -> None:
        if self._endpoint is not None:
            ask_scores(self._endpoint, sequences, keep)
            return
        settings = self._settings
        is_reward = self._head == "reward"
        load = models.load_reward_model if is_reward else models.load_model
        model = load(*self._model, settings.dtype, settings.attention)
        if settings.dtype == "float32" and models.adapter_base(self.name) is not None:
            # Spares the adapters' own passes; in half precision, the sum would be rounded.
            model = model.merge_and_unload()
        if is_reward:
            batches = reward_batches(model, sequences, settings.batch_tokens)
        else:
            share = shares_prefixes(model)
            self.notes = () if share else (ALONE,)
            batches = score_batches(model, sequences, settings.batch_tokens, share=share)
        for rows, scores in batches:
            keep(rows, scores)
        # Frees memory for the next model.
        del model
        gc.collect()
        torch.cuda.empty_cache()


def scorers(settings: EvaluateConfig) -> tuple[Scorer, Scorer | None]:
    """Return the policy and the reference; a reward model has none. Raises `UsageError` if either cannot be found."""
    policy = ModelRef(settings.model, settings.model_revision)
    if models.is_reward_model(*policy):
        if settings.reference is not None:
            raise UsageError("reference: rewards of two models have no common scale; leave it out, evaluate each model")
        if settings.scorer.kind == "endpoint":
            raise UsageError("scorer: an endpoint does not score reward models; leave it out")
        return Scorer(policy, settings, None, "reward"), None
    reference = models.reference_of(settings.model, settings.reference, settings.reference_revision)
    if models.is_reward_model(*reference):
        raise UsageError(f"reference: '{reference.name}' is a reward model, and {settings.model} is none; name another")
    if settings.scorer.kind == "transformers":
        return Scorer(policy, settings, None), Scorer(reference, settings, None)
    served = settings.scorer
    return Scorer(policy, settings, served.policy), Scorer(reference, settings, served.reference)


def ask_scores(endpoint: Endpoint, encoded: Sequence[Encoded], keep: Keep) -> None:
    """Score sequences by an endpoint that answers `prompt_logprobs`, as vLLM's server does.

    Args:
        endpoint: The server, and the model's name there.
        encoded: Prompts and replies.
        keep: Receives the scores, some at a time.

    Raises:
        UserError: A sequence got no score. Those that came before it are kept.
    """
    new: dict[int, float] = {}

    def flush() -> None:
        keep(np.array([*new], dtype=np.int64), np.array([*new.values()], dtype=np.float64))
        new.clear()

    def done(number: int, outcome: float | Failure) -> None:
        if isinstance(outcome, Failure):
            way_out = (
                "it must answer `prompt_logprobs`, as vLLM does, and take prompts of `max_length` tokens"
                if outcome.final or outcome.reason == "garbled"
                else "run the same command again, which continues"
            )
            raise UserError(f"{endpoint.base_url} gave no score ({outcome.detail}); {way_out}")
        new[number] = outcome
        if len(new) == _KEPT_TOGETHER:
            flush()

    try:
        ask_all(endpoint, (_call(endpoint, entry) for entry in encoded), done)
    finally:
        flush()


def _call(endpoint: Endpoint, entry: Encoded) -> Call[float]:
    def read(answer: Any) -> float:
        # One entry a token, None for the first; each maps the token, and likelier ones if asked for, to its record.
        places = answer["choices"][0]["prompt_logprobs"]
        if len(places) != len(entry.ids):
            raise ValueError("not one log-probability a token")
        reply = range(entry.prompt, len(entry.ids))
        logp = math.fsum(places[place][str(entry.ids[place])]["logprob"] for place in reply)
        if not math.isfinite(logp):
            raise ValueError("not finite")
        return logp

    # The server generates a token at least.
    body = endpoint.body(prompt=entry.ids.tolist(), max_tokens=1, temperature=0, prompt_logprobs=0)
    return Call("/completions", body, read)
