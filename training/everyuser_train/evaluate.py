"""Evaluation of a policy against its reference, as in the paper, or of a reward model, with controls in addition."""

from __future__ import annotations

import hashlib
import time
from collections.abc import Sequence
from functools import partial
from typing import Any

import numpy as np

from everyuser_train import models
from everyuser_train.conditions import Condition, personas, plan
from everyuser_train.config import EvaluateConfig
from everyuser_train.data import Loaded, load
from everyuser_train.display import ProgressCallback
from everyuser_train.examples import Example
from everyuser_train.metrics import LEVEL, Cases, IntArray, Rewards
from everyuser_train.personas import Persona
from everyuser_train.prompts import Message, fit_prompt, prompt_for
from everyuser_train.report import Report
from everyuser_train.results import Measured, Measurements, Prepared
from everyuser_train.score import Encoded, Scores, encode
from everyuser_train.scorers import scorers
from schemas.base import UserError


def evaluate(settings: EvaluateConfig, progress: ProgressCallback | None = None) -> Report:
    """Score the policy and the reference under all conditions, and return the metrics. A reward model has no reference.

    Raises `UsageError` for unusable settings, data or models, and `UserError` for later failures.
    """
    started = time.monotonic()
    progress = progress or (lambda _stage, _done, _total: None)
    policy, reference = scorers(settings)
    loaded = load(settings.data, settings.data.split)
    loaded = loaded.take(sample(loaded.groups, settings.cases or len(loaded.examples), settings.seed))
    conditions, notes = plan(settings, loaded)
    tokenizer = models.load_tokenizer(settings.model, settings.model_revision)
    sequences, prepared = prepare(conditions, loaded, settings, tokenizer, progress)
    policy_scores = policy.scores(sequences, partial(progress, "policy"))
    # If both are the same model, cached scores make every tie exact.
    reference_scores = None if reference is None else reference.scores(sequences, partial(progress, "reference"))
    measured = {
        condition: Measured(those, _cases(those, policy_scores, reference_scores))
        for condition, those in zip(conditions, prepared, strict=True)
    }
    found = Measurements(loaded, measured)
    return Report(
        model=settings.model,
        reference=None if reference is None else reference.name,
        data=settings.data.path,
        split=settings.data.split,
        method=settings.method,
        dtype=settings.dtype if settings.scorer.kind == "transformers" else "the endpoint's",
        seed=settings.seed,
        level=LEVEL,
        examples=len(loaded.examples),
        seconds=time.monotonic() - started,
        results=tuple(found.results()),
        contrasts=tuple(found.contrasts()),
        kinds=tuple(found.kinds()),
        users=tuple(found.users()),
        flips=tuple(found.flips()),
        dimensions=tuple(found.dimensions()) if settings.dimensions else (),
        notes=tuple(dict.fromkeys([*notes, *policy.notes, *(reference.notes if reference else ())])),
    )


def sample(groups: IntArray, size: int, seed: int) -> list[int]:
    """Return `size` rows in ascending order. Larger samples contain smaller ones, as rows are ranked by a hash.

    `groups` (N,) is the number of each row's group, which is sampled together, see `Loaded.groups`.
    """

    def rank(row: int) -> tuple[bytes, int]:
        return hashlib.blake2b(f"cases\x1f{seed}\x1f{groups[row]}".encode(), digest_size=16).digest(), row

    return sorted(sorted(range(len(groups)), key=rank)[:size])


def prepare(
    conditions: Sequence[Condition],
    loaded: Loaded,
    settings: EvaluateConfig,
    tokenizer: Any,
    progress: ProgressCallback,
) -> tuple[list[Encoded], list[Prepared]]:
    """Return the distinct sequences to score, and for each condition the sequences of its cases."""
    sequences: list[Encoded] = []
    made: dict[bytes, tuple[int, bool] | None] = {}

    def case(example: Example, persona: Persona) -> tuple[int, bool] | None:
        """Return the chosen reply's index (the rejected one follows) and True if cut; None if the post is too long."""
        whole = prompt_for(tokenizer, settings.method, example.prompt, persona)
        name = _hash([*(turn["content"] for turn in whole), example.chosen, example.rejected])
        if name not in made:
            replies = example.chosen, example.rejected
            prompt: list[Message] | None = whole
            both = encode(tokenizer, [(whole, reply) for reply in replies])
            if max(len(each.ids) for each in both) > settings.max_length:
                prompt = fit_prompt(tokenizer, settings.method, example.prompt, persona, replies, settings.max_length)
                both = [] if prompt is None else encode(tokenizer, [(prompt, reply) for reply in replies])
            made[name] = None if prompt is None else (len(sequences), prompt != whole)
            sequences.extend(both)
        return made[name]

    prepared = []
    total = len(conditions) * len(loaded.examples)
    for number, condition in enumerate(conditions):
        rows, places, dropped, shortened, items = [], [], 0, 0, 0
        for row, example, persona in personas(condition, loaded, settings):
            if row % 100 == 0:
                progress("prompts", number * len(loaded.examples) + row, total)
            found = case(example, persona)
            if found is None:
                dropped += 1
                continue
            rows.append(row)
            places.append(found[0])
            shortened += found[1]
            items += len(persona.ugc) + len(persona.pair)
        if not rows:
            raise UserError(
                f"no post of {settings.data.path} fits max_length {settings.max_length} with its replies; raise it"
            )
        chosen = np.array(places, dtype=np.int64)
        prepared.append(
            Prepared(np.array(rows, dtype=np.int64), chosen, chosen + 1, dropped, shortened, items / len(rows))
        )
    progress("prompts", total, total)
    return sequences, prepared


def _hash(texts: Sequence[str]) -> bytes:
    digest = hashlib.blake2b(digest_size=16)
    for text in texts:
        data = text.encode("utf-8", "surrogatepass")
        digest.update(b"%d\n" % len(data) + data)
    return digest.digest()


def _cases(prepared: Prepared, policy: Scores, reference: Scores | None) -> Cases | Rewards:
    chosen, rejected = prepared.chosen, prepared.rejected
    if reference is None:
        return Rewards(policy.logp[chosen], policy.logp[rejected])
    return Cases(
        policy.logp[chosen],
        policy.logp[rejected],
        reference.logp[chosen],
        reference.logp[rejected],
        policy.tokens[chosen],
        policy.tokens[rejected],
    )
