"""Evaluation of a policy against its reference, as in the paper, with controls and reversed preferences in addition."""

from __future__ import annotations

import gc
import hashlib
import time
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import Annotated, Any, Literal, NamedTuple

import numpy as np
import numpy.typing as npt
import torch
from pydantic import Field

from everyuser_train import models
from everyuser_train.config import Dtype, EvalData, Part
from everyuser_train.data import Loaded, load
from everyuser_train.display import ProgressCallback
from everyuser_train.examples import Example
from everyuser_train.metrics import (
    LEVEL,
    REPLICATES,
    Cases,
    Estimate,
    FloatArray,
    IntArray,
    by_dimension,
    estimates,
    flips,
    per_case,
)
from everyuser_train.personas import NO_PERSONA, Method, Persona, Source, evaluation_persona
from everyuser_train.prompts import cleaner, fit_prompt, messages
from everyuser_train.report import Contrast, Flip, Kind, PoleResult, Report, Result
from everyuser_train.score import Encoded, Scores, cached_score, encode, model_key
from schemas.base import Record, UsageError, UserError
from schemas.packaged_models import cache_folder

Parts = Annotated[tuple[Part, ...], Field(min_length=1)]


class EvaluateConfig(Record):
    """One evaluation of a model against a reference."""

    model: str = Field(description="The policy: a Hub id, a folder (of a model or of adapters), or a packaged model.")
    model_revision: str | None = Field(None, description="Revision of a Hub model.")
    reference: str | None = Field(None, description="The reference; null: the model that the adapters were trained on.")
    reference_revision: str | None = Field(None, description="Revision of a Hub reference.")
    data: EvalData
    method: Method = Field(description="`ica` or `pba`, as the model was trained.")
    directions: Annotated[tuple[Source, ...], Field(min_length=1)] = Field(
        ("target",), description="`pba`: the example's own direction, the aggregate of the persona's parts, or both."
    )
    parts: Annotated[tuple[Parts, ...], Field(min_length=1)] = Field(
        (("ugc", "pair", "demo"), ("ugc",), ("pair",), ("demo",)),
        description="Sets of persona parts; controls and dimensions use the first.",
    )
    cases: int | None = Field(None, ge=1, description="Examples to evaluate, chosen by the seed; null: all.")
    items: int = Field(4, ge=0, description="History items of each kind.")
    lengths: tuple[Annotated[int, Field(ge=0)], ...] = Field(
        (0, 2, 4, 8, 16),
        description="History lengths to compare, in items of each kind, without the portrait.",
    )
    shuffled: bool = Field(True, description="Control: the persona of an example with another post.")
    baseline: bool = Field(True, description="Control: no persona.")
    flip: bool = Field(True, description="Reverse the history pairs and the target pair.")
    dimensions: bool = Field(True, description="Report each dimension and pole.")
    max_length: int = Field(8192, ge=32, description="Most tokens of prompt and reply; history items are cut first.")
    batch_tokens: int = Field(8192, ge=1, description="Most tokens of a batch, padding included.")
    dtype: Dtype = Field("float32", description="Data type of the computation.")
    attention: str | None = Field(None, description="Attention implementation of transformers, such as `sdpa`.")
    cache: str | None = Field(None, description="Folder of the scores; null: `everyuser/scores` in the user's cache.")
    seed: int = Field(0, ge=0, lt=2**31, description="Seed of all randomness.")
    replicates: int = Field(REPLICATES, ge=1, description="Resamples of a bootstrap interval.")


class Condition(NamedTuple):
    """One way to show the persona. `parts` is empty where it has no meaning; `direction` is PBA's."""

    kind: Kind | Literal["flip", "flipped"]
    parts: tuple[Part, ...]
    direction: Source | None
    items: int


class Prepared(NamedTuple):
    """Cases of a condition within the length limit: rows of their examples, and of both replies among the sequences."""

    rows: IntArray
    chosen: IntArray
    rejected: IntArray
    dropped: int
    shortened: int
    mean_items: float


class Measured(NamedTuple):
    """A condition's prepared cases with their log-probabilities."""

    prepared: Prepared
    cases: Cases


def evaluate(settings: EvaluateConfig, progress: ProgressCallback | None = None) -> Report:
    """Score the policy and the reference under all conditions, and return the metrics.

    Raises `UsageError` for unusable settings, data or models, and `UserError` for later failures.
    """
    started = time.monotonic()
    progress = progress or (lambda _stage, _done, _total: None)
    policy = Scorer(settings.model, settings.model_revision, settings)
    reference = _reference(settings)
    loaded = load(settings.data, settings.data.split)
    chosen = sample(loaded.pairs, settings.cases or len(loaded.pairs), settings.seed)
    loaded = loaded._replace(examples=[loaded.examples[row] for row in chosen], pairs=loaded.pairs[chosen])
    conditions, notes = plan(settings, loaded)
    tokenizer = models.load_tokenizer(settings.model, settings.model_revision)
    sequences, prepared = prepare(conditions, loaded, settings, tokenizer, progress)
    policy_scores = policy.scores(sequences, partial(progress, "policy"))
    # If both are the same model, cached scores make every tie exact.
    reference_scores = reference.scores(sequences, partial(progress, "reference"))
    measured = {
        condition: Measured(those, _cases(those, policy_scores, reference_scores))
        for condition, those in zip(conditions, prepared, strict=True)
    }
    posts = np.array([example.post for example in loaded.examples])

    def summary(values: dict[str, FloatArray], rows: IntArray) -> dict[str, Estimate]:
        return estimates(values, posts[rows], settings.seed, settings.replicates)

    results, contrasts = _results(measured, posts, summary)
    return Report(
        model=settings.model,
        reference=reference.name,
        data=settings.data.path,
        split=settings.data.split,
        method=settings.method,
        dtype=settings.dtype,
        seed=settings.seed,
        level=LEVEL,
        examples=len(loaded.examples),
        seconds=time.monotonic() - started,
        results=tuple(results),
        contrasts=tuple(contrasts),
        flips=tuple(_flips(measured, posts, summary)),
        dimensions=tuple(_dimensions(settings, loaded, measured[conditions[0]], posts)),
        notes=tuple(notes),
    )


def sample(pairs: IntArray, size: int, seed: int) -> list[int]:
    """Return `size` rows in ascending order. Larger samples contain smaller ones, as rows are ranked by a hash.

    `pairs` (N,) is the number of each row's pair. Mirror images are sampled together.
    """

    def rank(row: int) -> tuple[bytes, int]:
        return hashlib.blake2b(f"cases\x1f{seed}\x1f{pairs[row]}".encode(), digest_size=16).digest(), row

    return sorted(sorted(range(len(pairs)), key=rank)[:size])


def plan(settings: EvaluateConfig, loaded: Loaded) -> tuple[list[Condition], list[str]]:
    """Return the conditions of an evaluation, the main one first, and notes on those that the data do not allow."""
    examples, notes = loaded.examples, []
    has = {
        "ugc": any(example.ugc for example in examples),
        "pair": any(example.pair for example in examples),
        "demo": any(example.portrait for example in examples),
    }
    lacking = [part for part in has if not has[part] and any(part in parts for parts in settings.parts)]
    if lacking:
        notes.append(f"no example has {' or '.join(lacking)}")
    # Without the missing parts, some sets are equal.
    kept = list(dict.fromkeys(tuple(part for part in parts if has[part]) for parts in settings.parts))
    sets = [parts for parts in kept if parts]
    history = tuple(part for part in sets[0] if part != "demo") if sets else ()

    conditions = []
    sources: tuple[Source | None, ...] = (
        (None,) if settings.method == "ica" else tuple(dict.fromkeys(settings.directions))
    )
    for source in sources:
        if source == "target":
            conditions.append(Condition("persona", (), source, settings.items))
        else:
            conditions += [Condition("persona", parts, source, settings.items) for parts in sets]
            if history and settings.lengths:
                lengths, beyond = _lengths(settings.lengths, history, examples)
                conditions += [Condition("length", history, source, length) for length in lengths]
                if beyond:
                    notes.append(f"no history is longer than {lengths[-1]}: lengths {_listed(beyond)} left out")
    if not conditions:
        raise UsageError(f"{settings.data.path} has none of the persona parts in `parts`")
    if settings.shuffled:
        if partners(np.array([example.post for example in examples]), settings.seed) is None:
            notes.append("no control with someone else's persona: more than half of the examples share a post")
        else:
            main: dict[Source | None, Condition] = {}
            for condition in conditions:
                main.setdefault(condition.direction, condition)
            conditions += [condition._replace(kind="shuffled") for condition in main.values()]
    if settings.baseline:
        conditions.append(Condition("none", (), None, 0))
    if settings.flip:
        for source in sources:
            if source == "target":
                possible = loaded.space is not None and any(example.direction is not None for example in examples)
            else:
                possible = has["pair"]
            if possible:
                parts: tuple[Part, ...] = () if source == "target" else ("pair",)
                conditions += [Condition(kind, parts, source, settings.items) for kind in _FLIP]
            else:
                lacks = "directions and a space" if source == "target" else "history pairs"
                notes.append(f"no flip: the dataset has no {lacks}")
    return conditions, notes


_FLIP: tuple[Literal["flip", "flipped"], ...] = ("flip", "flipped")


def _lengths(asked: Sequence[int], parts: Sequence[Part], examples: Sequence[Example]) -> tuple[list[int], list[int]]:
    """Return the lengths with distinct results, ascending, and those longer than any history."""
    longest = max(
        max(len(example.ugc) if "ugc" in parts else 0, len(example.pair) if "pair" in parts else 0)
        for example in examples
    )
    lengths = sorted(set(asked))
    kept = [length for k, length in enumerate(lengths) if k == 0 or lengths[k - 1] < longest]
    return kept, lengths[len(kept) :]


def _listed(numbers: Sequence[int]) -> str:
    return ", ".join(map(str, numbers))


def partners(posts: npt.NDArray[Any], seed: int) -> IntArray | None:
    """Return a permutation (N,) that pairs each case with one of another post, or None if one post has too many."""
    _, group, sizes = np.unique(posts, return_inverse=True, return_counts=True)
    largest = int(sizes.max())
    if 2 * largest > len(group):
        return None
    purpose = int.from_bytes(hashlib.blake2b(b"partners", digest_size=8).digest(), "little")
    generator = np.random.Generator(np.random.Philox(key=[seed, purpose]))
    place = generator.permutation(len(sizes))
    # Cases in random order, grouped by post. A rotation by the largest group's size leaves no case in its own group.
    order = np.lexsort((generator.random(len(group)), place[group]))
    partner = np.empty(len(group), dtype=np.int64)
    partner[order] = np.roll(order, -largest)
    return partner


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
        whole = messages(settings.method, example.prompt, persona, cleaner(tokenizer))
        name = _hash([*(turn["content"] for turn in whole), example.chosen, example.rejected])
        if name not in made:
            replies = example.chosen, example.rejected
            prompt = fit_prompt(tokenizer, settings.method, example.prompt, persona, replies, settings.max_length)
            if prompt is None:
                made[name] = None
            else:
                made[name] = len(sequences), prompt != whole
                sequences.extend(encode(tokenizer, [(prompt, reply) for reply in replies]))
        return made[name]

    prepared = []
    total = len(conditions) * len(loaded.examples)
    for number, condition in enumerate(conditions):
        rows, places, dropped, shortened, items = [], [], 0, 0, 0
        for row, example, persona in _personas(condition, loaded, settings):
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


def _personas(condition: Condition, loaded: Loaded, settings: EvaluateConfig) -> Iterator[tuple[int, Example, Persona]]:
    """Yield the cases of a condition: row, example, and the persona in its prompt."""
    source = condition.direction or "target"

    def persona(example: Example) -> Persona:
        return evaluation_persona(example, condition.parts, condition.items, settings.method, source, loaded.space)

    examples = loaded.examples
    partner = None
    if condition.kind == "shuffled":
        partner = partners(np.array([example.post for example in examples]), settings.seed)
    for row, example in enumerate(examples):
        if condition.kind == "none":
            yield row, example, NO_PERSONA
        elif partner is not None:
            yield row, example, persona(examples[partner[row]])
        elif condition.kind in _FLIP:
            if example.direction is None if condition.direction == "target" else not example.pair:
                continue
            shown = example.flipped() if condition.kind == "flipped" else example
            yield row, shown, persona(shown)
        else:
            yield row, example, persona(example)


def _hash(texts: Sequence[str]) -> bytes:
    digest = hashlib.blake2b(digest_size=16)
    for text in texts:
        data = text.encode("utf-8", "surrogatepass")
        digest.update(b"%d\n" % len(data) + data)
    return digest.digest()


class Scorer:
    """A model with cached scores. It is loaded only while a score is missing."""

    def __init__(self, name: str, revision: str | None, settings: EvaluateConfig) -> None:
        self.name = name
        self._revision = revision
        self._settings = settings
        self.key = model_key(name, revision, settings.dtype)

    def scores(self, sequences: Sequence[Encoded], progress: Callable[[int, int], None]) -> Scores:
        """Return the scores of the sequences."""
        settings, done = self._settings, 0
        folder = Path(settings.cache).expanduser() if settings.cache else cache_folder() / "scores"

        def advance(more: int) -> None:
            nonlocal done
            done += more
            progress(done, len(sequences))

        def load_model() -> Any:
            return models.load_model(self.name, self._revision, settings.dtype, settings.attention)

        scores = cached_score(folder, self.key, load_model, sequences, settings.batch_tokens, advance)
        # Frees memory for the next model.
        gc.collect()
        torch.cuda.empty_cache()
        return scores


def _reference(settings: EvaluateConfig) -> Scorer:
    reference = models.reference_of(settings.model, settings.reference, settings.reference_revision)
    return Scorer(reference.name, reference.revision, settings)


def _cases(prepared: Prepared, policy: Scores, reference: Scores) -> Cases:
    chosen, rejected = prepared.chosen, prepared.rejected
    return Cases(
        policy.logp[chosen],
        policy.logp[rejected],
        reference.logp[chosen],
        reference.logp[rejected],
        policy.tokens[chosen],
        policy.tokens[rejected],
    )


Summary = Callable[[dict[str, FloatArray], IntArray], dict[str, Estimate]]


def _results(
    measured: dict[Condition, Measured], posts: npt.NDArray[Any], summary: Summary
) -> tuple[list[Result], list[Contrast]]:
    results, contrasts = [], []
    main: dict[Source | None, Measured] = {}
    for condition, (prepared, cases) in measured.items():
        kind = condition.kind
        if kind == "flip" or kind == "flipped":
            continue
        values = per_case(cases)
        results.append(
            Result(
                kind=kind,
                parts=condition.parts,
                direction=condition.direction,
                items=None if kind == "none" else condition.items,
                cases=len(prepared.rows),
                posts=len(np.unique(posts[prepared.rows])),
                dropped=prepared.dropped,
                shortened=prepared.shortened,
                mean_items=prepared.mean_items,
                metrics=summary(values, prepared.rows),
            )
        )
        if kind == "persona":
            main.setdefault(condition.direction, measured[condition])
        if kind == "shuffled" or kind == "none":
            for source, own in main.items():
                if kind == "none" or source == condition.direction:
                    rows, left, right = np.intersect1d(own.prepared.rows, prepared.rows, return_indices=True)
                    both = {name: column[left] - values[name][right] for name, column in per_case(own.cases).items()}
                    contrasts.append(
                        Contrast(kind=kind, direction=source, cases=len(rows), metrics=summary(both, rows))
                    )
    return results, contrasts


def _flips(measured: dict[Condition, Measured], posts: npt.NDArray[Any], summary: Summary) -> Iterator[Flip]:
    for condition, before in measured.items():
        if condition.kind == "flip":
            after = measured[condition._replace(kind="flipped")]
            rows, left, right = np.intersect1d(before.prepared.rows, after.prepared.rows, return_indices=True)
            values = flips(before.cases.take(left), after.cases.take(right))
            yield Flip(
                direction=condition.direction,
                cases=len(rows),
                posts=len(np.unique(posts[rows])),
                metrics=summary(values, rows),
            )


def _dimensions(
    settings: EvaluateConfig, loaded: Loaded, main: Measured, posts: npt.NDArray[Any]
) -> Iterator[PoleResult]:
    directions = [loaded.examples[row].direction for row in main.prepared.rows]
    known = np.array([k for k, direction in enumerate(directions) if direction is not None], dtype=np.int64)
    if not settings.dimensions or not len(known):
        return
    levels = np.stack([direction for direction in directions if direction is not None])
    values = {name: column[known] for name, column in per_case(main.cases).items()}
    poles = by_dimension(values, levels, posts[main.prepared.rows[known]], settings.seed, settings.replicates)
    for pole in poles:
        slug, labels = str(pole.dimension), ("", "")
        if loaded.space is not None:
            dimension = loaded.space.dimensions[pole.dimension]
            slug, labels = dimension.slug, (dimension.positive.label, dimension.negative.label)
        yield PoleResult(
            dimension=pole.dimension,
            slug=slug,
            label=labels[pole.level < 0],
            level=1 if pole.level > 0 else -1,
            cases=pole.cases,
            metrics=pole.metrics,
        )
