"""Scoring by `everyuser-train evaluate` beside the published way.

Run it with `training/.venv/bin/python -m benchmarks.evaluation`.

The published way is that of AlignX's repository: one sequence at a time, all its logits, and the log-probabilities of
the reply's tokens summed, by the policy and by the reference. Both ways get the same models, cases, conditions and
tokens, in turn. Margins must agree within 1e-3. Loading and tokenising are not counted.
"""

from __future__ import annotations

import argparse
import statistics
import sys
import time
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from everyuser_train import conditions, models
from everyuser_train.config import EvalData, EvaluateConfig
from everyuser_train.data import load
from everyuser_train.evaluate import prepare, sample
from everyuser_train.forward import score_batches, shares_prefixes
from everyuser_train.score import Encoded
from peft import LoraConfig, get_peft_model

from benchmarks.machine import describe
from schemas.packaged_models import SMALL

TOLERANCE = 1e-3
"""Largest difference of a margin, in nats."""

FloatArray = np.ndarray[Any, np.dtype[np.float64]]
IntArray = np.ndarray[Any, np.dtype[np.int64]]


class Work(NamedTuple):
    """The distinct sequences of a round, and the places of each case's chosen and rejected reply in them, (N, 2)."""

    sequences: list[Encoded]
    cases: IntArray
    examples: int
    conditions: int


class Timed(NamedTuple):
    """Margins of the cases in nats, seconds of the clock and of the processor, and tokens that the models read."""

    margins: FloatArray
    clock: float
    processor: float
    tokens: int


Way = Callable[[Any, Work], FloatArray]
"""Scores both replies of each case by a model, (N, 2)."""


def main() -> None:
    """Measure rounds of both ways; print a table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("data", help="a dataset folder")
    parser.add_argument("output", type=Path, help="folder for the policy")
    parser.add_argument("--model", default=SMALL, help="the reference; the policy is the same with random adapters")
    parser.add_argument("--method", choices=["ica", "pba"], default="ica")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--cases", type=int, default=40, help="in each round, drawn anew")
    parser.add_argument("--all", action="store_true", help="all conditions of `evaluate`, not the persona alone")
    arguments = parser.parse_args()
    print(describe(), f"{torch.get_num_threads()} threads", sep="\n")
    adapters = save_adapters(arguments.model, arguments.output)
    # `evaluate` merges adapters too.
    policy = models.load_model(adapters, dtype="float32").merge_and_unload()
    pair = policy, models.load_model(arguments.model, dtype="float32")
    print("cases/s and ratio by seconds of the processor, which other work on the machine hardly changes\n")
    print(
        "| round | cases x conditions | tokens: published, ours | cases/s | ratio | by the clock | largest difference |"
    )
    print("|---|---|---|---|---|---|---|", flush=True)
    ratios, clocks = [], []
    for number in range(arguments.rounds):
        settings = EvaluateConfig(
            model=adapters,
            data=EvalData(path=arguments.data),
            method=arguments.method,
            cases=arguments.cases,
            seed=number,
        )
        work = prepare_round(settings, everything=arguments.all)
        theirs = measured(published, pair, work)
        mine = measured(partial(ours, settings.batch_tokens), pair, work)
        difference = np.abs(theirs.margins - mine.margins).max()
        ratios.append(theirs.processor / mine.processor)
        clocks.append(theirs.clock / mine.clock)
        rates = [len(work.cases) / way.processor for way in (theirs, mine)]
        print(
            f"| {number + 1} | {work.examples} x {work.conditions} | {theirs.tokens}, {mine.tokens} | "
            f"{rates[0]:.3f}, {rates[1]:.3f} | {ratios[-1]:.2f} | {clocks[-1]:.2f} | {difference:.1e} |",
            flush=True,
        )
        if not difference <= TOLERANCE:
            sys.exit(f"failed: the two ways differ by {difference:.1e} nats")
    print(f"| median | | | | {statistics.median(ratios):.2f} | {statistics.median(clocks):.2f} | |")


def prepare_round(settings: EvaluateConfig, *, everything: bool) -> Work:
    """Return what `evaluate` would score, under all its conditions or the first."""
    loaded = load(settings.data, settings.data.split)
    loaded = loaded.take(sample(loaded.groups, settings.cases or len(loaded.examples), settings.seed))
    planned, _ = conditions.plan(settings, loaded)
    asked = planned if everything else planned[:1]
    tokenizer = models.load_tokenizer(settings.model)
    sequences, prepared = prepare(asked, loaded, settings, tokenizer, lambda *_: None)
    cases = np.concatenate([np.stack([each.chosen, each.rejected], axis=1) for each in prepared])
    return Work(sequences, cases, len(loaded.examples), len(asked))


def measured(way: Way, pair: Sequence[Any], work: Work) -> Timed:
    """Score a round by the policy and the reference."""
    tokens: list[int] = []

    def count(_: Any, __: Any, inputs: dict[str, Any]) -> None:
        tokens.append(inputs["input_ids"].numel())

    hooks = [model.register_forward_pre_hook(count, with_kwargs=True) for model in pair]
    clock, processor = time.perf_counter(), time.process_time()
    policy, reference = (way(model, work) for model in pair)
    seconds = time.perf_counter() - clock, time.process_time() - processor
    for hook in hooks:
        hook.remove()
    gain = policy - reference
    return Timed(gain[:, 0] - gain[:, 1], *seconds, sum(tokens))


def published(model: Any, work: Work) -> FloatArray:
    """Return the scores of both replies of each case, (N, 2), one sequence at a time and under each condition anew."""

    def alone(entry: Encoded) -> float:
        ids = torch.from_numpy(entry.ids.astype(np.int64))[None]
        with torch.no_grad():
            logp = torch.log_softmax(model(input_ids=ids).logits[0, :-1], dim=-1)
        return float(logp.gather(1, ids[0, 1:, None])[entry.prompt - 1 :].sum())

    return np.array([[alone(work.sequences[place]) for place in case] for case in work.cases])


def ours(batch_tokens: int, model: Any, work: Work) -> FloatArray:
    """Return the same from the distinct sequences, in batches of trees."""
    logp = np.zeros(len(work.sequences))
    for rows, part in score_batches(model, work.sequences, batch_tokens, share=shares_prefixes(model)):
        logp[rows] = part
    return logp[work.cases]


def save_adapters(base: str, folder: Path) -> str:
    """Write adapters with random weights; return their folder."""
    torch.manual_seed(0)
    config = LoraConfig(r=16, lora_alpha=2, target_modules="all-linear", init_lora_weights=False)
    get_peft_model(models.load_model(base, dtype="float32"), config).save_pretrained(folder)
    return str(folder)


if __name__ == "__main__":
    main()
