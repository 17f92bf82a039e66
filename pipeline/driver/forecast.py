"""What a build will take: requests, tokens, time, money, disk. A pure reckoning from a rehearsal or a trial.

Figures of a trial have 95 % intervals, from the differences between its pairs. Without a trial nobody knows how many
attempts are rejected, nor how long replies are: the figures are of one attempt and of the longest replies, and the
upper ends are of all attempts.
"""

from __future__ import annotations

import importlib.util
import tempfile
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

import numpy as np

from pipeline.driver.prepare import prepare
from pipeline.driver.prices import MACHINES, SOURCES, THROUGHPUTS, hours, machine_hour
from pipeline.driver.rehearsal import MEASURES, Amounts, Rehearsal, Trial, rehearse_without_model, run_trial
from pipeline.io.storage import AnyPath
from pipeline.plan import BuildPlan
from pipeline.runtime import progress
from pipeline.runtime.wilson import SIGMAS, wilson
from pipeline.sampling.assignment import count_restraint_pairs
from schemas.base import Record, UsageError
from schemas.config import BuildConfig, PriceConfig
from schemas.packaged_models import MODELS, cache_folder, folder_name, is_fetched

REHEARSED = 64
"""Pairs whose prompts are rendered without a trial."""
_CHARACTERS_A_TOKEN = 4.0
_TURN_TOKENS = 8
"""Tokens of a chat template for each message, where the tokenizer is not at hand."""
_COMPRESSED = 0.2
"""Bytes on disk for a byte of an example's texts: 1,559 of about 8,000 (docs/benchmarks.md, 1,311,622 examples)."""
_JOURNAL_LINE = 200
"""Bytes of a journal's line besides the text."""
_PROCESS_MIB = 350
"""Memory of a process of a build (docs/benchmarks.md), without the model's server."""
_PAIRS_A_SECOND = 1000
"""Pairs that the pipeline itself makes in a second on two cores (docs/benchmarks.md)."""
_DISK_GB = 200


class Range(Record):
    """A figure and its bounds."""

    value: float
    low: float
    high: float

    def times(self, factor: float) -> Range:
        """Return a multiple."""
        return Range(value=self.value * factor, low=self.low * factor, high=self.high * factor)


class Rented(Record):
    """A server of another model on a rented machine, by outside figures (`pipeline.driver.prices`). None: unknown."""

    model: str
    machine: str
    gpu_hours: tuple[float | None, float | None]
    cost: tuple[float | None, float | None]
    source: str


class Forecast(Record):
    """What a build will take. `stages` has requests, questions and tokens by stage; money is of the engine's prices."""

    name: str
    model: str
    basis: Literal["rehearsal", "trial"]
    basis_pairs: int
    pairs: dict[str, int]
    """Pairs of each split."""
    users: int | None
    shards: int
    examples: int
    """Examples if no pair is lost."""
    stages: dict[str, dict[str, Range]]
    tokens: Range
    accepted_share: Range | None
    """Share of attempts that are accepted."""
    disk_bytes: float
    memory_mib: float
    """Memory of the build's driver and of each worker process, without the model's server."""
    hours: Range | None
    cost: Range | None
    currency: str | None
    rented: tuple[Rented, ...]
    notes: tuple[str, ...]


def forecast(
    plan: BuildPlan,
    rehearsal: Rehearsal,
    prices: Mapping[str, float],
    trial: Trial | None = None,
    notes: Sequence[str] = (),
) -> Forecast:
    """Reckon what a build takes.

    Args:
        plan: The build.
        rehearsal: What its first pairs took; that of the trial where there is one.
        prices: Of `prices.with_prices`.
        trial: The trial; None: nobody was asked.
        notes: What the reader should know besides.
    """
    config, said = plan.config, [*notes]
    number = sum(spec.count for spec in plan.shards() if spec.source == "sampled")
    most = 1 if trial else config.attempts
    stages = {
        stage: {name: _of_all(amounts[:, k], number, most) for k, name in enumerate(MEASURES)}
        for stage, amounts in rehearsal.amounts.items()
        if amounts.any()
    }
    if config.portrait != "template":
        stages["portraits"] = {"requests": _exactly(len(plan.sides) * number)}
        said.append("tokens of portraits by the model are not reckoned")
    if config.mining is not None:
        said.append("mined pairs are not reckoned: their number and their questions follow from the threads")
    by_pair = sum((amounts[:, 2:].sum(axis=1) for amounts in rehearsal.amounts.values()), np.zeros(rehearsal.pairs))
    tokens = _of_all(by_pair, number, most)
    duration = _hours(config, number, tokens, trial, said) if trial else None
    cost = _cost(config, stages, duration)
    if cost is None and getattr(config.engine, "price", None):
        said.append("money by the hour follows from the time, which --trial N measures")
    elif cost is None:
        said.append("without engine.price, or --price prompt=... completion=... or hour=..., no money is reckoned")
    restraint = count_restraint_pairs(config)
    return Forecast(
        name=config.name,
        model=config.generation.model,
        basis="trial" if trial else "rehearsal",
        basis_pairs=rehearsal.pairs,
        pairs=dict(_by_split(plan)),
        users=config.users.count if config.users else None,
        shards=len(plan.shards()),
        examples=len(plan.sides) * number - (restraint if config.mirror else 0),
        stages=stages,
        tokens=tokens,
        accepted_share=_share(rehearsal.accepted, rehearsal.attempts) if trial else None,
        disk_bytes=_disk(config, rehearsal, number, trial),
        memory_mib=_PROCESS_MIB,
        hours=duration,
        cost=cost,
        currency=config.prices[0].currency if config.prices else None,
        rented=tuple(_rented(stages, prices)),
        notes=tuple(said),
    )


def _by_split(plan: BuildPlan) -> Counter[str]:
    counts: Counter[str] = Counter()
    for spec in plan.shards():
        counts[spec.split] += spec.count
    return counts


def _exactly(number: float) -> Range:
    return Range(value=number, low=number, high=number)


def _of_all(amounts: Amounts, number: int, most: int) -> Range:
    """Return the sum over `number` pairs like these. `most`: attempts that the upper end assumes."""
    mean = float(amounts.mean())
    error = float(SIGMAS * amounts.std(ddof=1) / np.sqrt(len(amounts))) if len(amounts) > 1 else mean
    # Not more certain than sampling without replacement: a trial of the whole build is exact.
    error *= np.sqrt(max(0.0, 1 - len(amounts) / number)) if number else 0.0
    low, high = max(0.0, mean - error), most * (mean + error)
    return Range(value=float(number * mean), low=float(number * low), high=float(number * high))


def _share(hits: int, cases: int) -> Range | None:
    if not cases:
        return None
    low, high = wilson(hits / cases, cases)
    return Range(value=hits / cases, low=low, high=high)


def _hours(config: BuildConfig, number: int, tokens: Range, trial: Trial, notes: list[str]) -> Range | None:
    """Return the hours of a build, by the places in the window that a pair takes, for so long.

    A window that is full all the time serves so many sequences at once (Little's law).
    """
    if trial.replayed:
        notes.append("the replies of an earlier trial were used again, so the speed is not known; delete its folder")
        return None
    seconds = start = 0.0
    for role, times in trial.times.items():
        whole = sum(times.seconds.values())
        places = times.in_flight * whole / trial.rehearsal.pairs
        seconds += number * places / max(trial.windows.get(role, 1), 1)
        start = max(start, times.seconds.get("engine", 0.0))
        window = trial.windows.get(role, 0)
        if config.engine.kind == "openai":
            notes.append(
                f"{role}: the window was {window} at the end of the trial; in a build it may grow to where the "
                "endpoint is fastest, and the hours then are fewer"
            )
        elif trial.rehearsal.amounts["replies"][:, 1].sum() < 2 * window:
            notes.append(f"{role}: the trial hardly filled the window of {window}; --trial {window} measures the speed")
    seconds += start + number / _PAIRS_A_SECOND
    spread = Range(value=1, low=tokens.low / tokens.value, high=tokens.high / tokens.value) if tokens.value else None
    return spread.times(seconds / 3600) if spread else None


def _cost(config: BuildConfig, stages: Mapping[str, Mapping[str, Range]], duration: Range | None) -> Range | None:
    """Return the money, by the engine's price, and the judge's for verification."""
    price: PriceConfig | None = getattr(config.engine, "price", None)
    if price is None or (price.hour and duration is None):
        return None
    judge: PriceConfig = getattr(config.verification.engine, "price", None) or price
    bounds = {}
    for bound in ("value", "low", "high"):
        nanos = sum(
            (judge if stage == "verification" else price).nanos(
                getattr(found["prompt_tokens"], bound), getattr(found["completion_tokens"], bound)
            )
            for stage, found in stages.items()
            if "prompt_tokens" in found
        )
        hourly = sum(one.hour for one in config.prices)
        bounds[bound] = nanos / 1e9 + (hourly * getattr(duration, bound) if duration else 0.0)
    return Range(**bounds)


def _disk(config: BuildConfig, rehearsal: Rehearsal, number: int, trial: Trial | None) -> float:
    """Return the bytes of journals, pool and examples."""
    post, reply = rehearsal.characters
    history = config.history
    example = post + 2 * reply + history.ugc * (post + reply) + history.pair * (post + 2 * reply)
    sides = 2 if config.mirror else 1
    requests = sum(amounts[:, 0].mean() for amounts in rehearsal.amounts.values())
    journal = trial.journal_bytes / rehearsal.pairs if trial else requests * _JOURNAL_LINE + 2 * reply
    return float(number * (journal + _COMPRESSED * (sides * example + post + 2 * reply)))


def _rented(stages: Mapping[str, Mapping[str, Range]], prices: Mapping[str, float]) -> Sequence[Rented]:
    """Return what servers on rented machines take for the same tokens."""
    found = [stage for stage in stages.values() if "prompt_tokens" in stage]
    prompt, completion = (sum(stage[name].value for stage in found) / 1e6 for name in MEASURES[2:])
    rented = []
    for throughput in THROUGHPUTS:
        if not throughput.source:
            continue
        machine = MACHINES[throughput.machine]
        server = hours(throughput, prompt, completion)
        price = machine_hour(throughput.machine, prices, _DISK_GB)
        rented.append(
            Rented(
                model=throughput.model,
                machine=throughput.machine,
                gpu_hours=(_times(server[0], machine.gpus), _times(server[1], machine.gpus)),
                cost=(_times(server[0], price), _times(server[1], price)),
                source=SOURCES[throughput.source].text,
            )
        )
    return rented


def _times(number: float | None, factor: float) -> float | None:
    return None if number is None else number * factor


def plan_without_model(config: BuildConfig, prices: Mapping[str, float]) -> Forecast:
    """Check a configuration as a build's start does, and reckon what it takes, without asking any model.

    Raises `UsageError` for what a build would refuse.
    """
    with tempfile.TemporaryDirectory(prefix="everyuser-plan-") as scratch:
        plan = prepare(config, Path(scratch) / "build").plan
        if not config.sampled_pairs:
            raise UsageError(
                f"plan: all pairs of {config.name} are mined, and only sampled pairs can be reckoned; the checks of a "
                "build's start found no fault, so `everyuser build` can begin"
            )
        tokens, note = _prompt_tokens(config.generation.model)
        try:
            rehearsal = rehearse_without_model(plan, REHEARSED, tokens)
        finally:
            progress.delete_counts(plan.output)
        longest = f"completion tokens are the most of a reply ({config.generation.max_tokens}); --trial N measures them"
        return forecast(plan, rehearsal, prices, notes=[note, longest])


def plan_by_trial(
    config: BuildConfig, output: AnyPath, pairs: int, prices: Mapping[str, float], notice: Callable[[str], None]
) -> Forecast:
    """Reckon what a build into `output` takes, by a trial of its first pairs. Raises as `run_trial` does."""
    trial = run_trial(config, output, pairs, notice)
    plan = BuildPlan(output, "", config)
    return forecast(plan, trial.rehearsal, prices, trial)


def _prompt_tokens(model: str) -> tuple[Callable[[Sequence[str]], float], str]:
    """Return what counts the tokens of a prompt's messages, and a note on how."""
    tokenizer = _find_tokenizer(model)
    if tokenizer is None:
        why = f"the tokenizer of {model} is not on this machine"
        note = f"prompt tokens are estimated, a token for {_CHARACTERS_A_TOKEN:g} characters: {why}"
        return lambda texts: sum(len(text) / _CHARACTERS_A_TOKEN + _TURN_TOKENS for text in texts), note

    def count(texts: Sequence[str]) -> float:
        if len(texts) == 1:
            return len(tokenizer(texts[0])["input_ids"])
        roles = ("system", "user") if len(texts) == 2 else ("user",)
        messages = [{"role": role, "content": text} for role, text in zip(roles, texts, strict=False) if text]
        text = tokenizer.apply_chat_template(messages, tokenize=False, add_generation_prompt=True)
        return len(tokenizer(text, add_special_tokens=False)["input_ids"])

    return count, f"prompt tokens are counted by the tokenizer of {model}"


def _find_tokenizer(model: str) -> Any:
    """Return the model's tokenizer; None where it is not on this machine."""
    path = str(cache_folder() / folder_name(model)) if model in MODELS else model
    if importlib.util.find_spec("transformers") is None or (model in MODELS and not is_fetched(model)):
        return None
    from transformers import AutoTokenizer

    try:
        return AutoTokenizer.from_pretrained(path, local_files_only=True)
    except (OSError, ValueError):
        return None
