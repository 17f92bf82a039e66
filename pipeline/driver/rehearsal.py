"""Rehearsals: the first pairs of a build, asked of the model for a trial, or of nobody to see how long prompts are.

A trial runs in a folder of its own beside the build's. Its requests are the build's, so the build takes over the
journals, and asks for nothing twice.
"""

from __future__ import annotations

import dataclasses
import time
from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np
import numpy.typing as npt

from pipeline.driver.prepare import OtherBuildError, check_output, find_intact_manifest, prepare
from pipeline.driver.spent import engine_times
from pipeline.generation import dummy
from pipeline.generation.completions import AnyRequest, ChoiceRequest, Completion, Outcome, Request
from pipeline.generation.packaged import model_path
from pipeline.generation.roles import Role, managed_servers, naming_keys
from pipeline.generation.server import require_vllm
from pipeline.generation.service import close_generation_services, generation_service
from pipeline.io import storage
from pipeline.io.locks import LOCK, locked
from pipeline.io.outages import waiting_for_stores
from pipeline.io.storage import AnyPath
from pipeline.plan import BuildPlan, Spent
from pipeline.runtime import progress
from pipeline.sampling import pairs as sampling
from schemas.base import BudgetError, UsageError
from schemas.config import BuildConfig, DummyEngine, ReplayEngine
from schemas.manifest import EngineTime

_MARK = ".trial"
"""Name of a file in a trial's folder, which may be deleted."""
MEASURES = ("requests", "questions", "prompt_tokens", "completion_tokens")
STAGES = ("replies", "verification")

Amounts = npt.NDArray[np.float64]


@dataclass
class Rehearsal:
    """What the first pairs of a build took.

    Attributes:
        amounts: Of each stage, the `MEASURES` of every pair, shape (pairs, 4).
        attempts: Attempts that were judged.
        accepted: Accepted attempts, which are pairs.
        characters: Mean characters of a post and of a reply.
    """

    amounts: dict[str, Amounts]
    attempts: int
    accepted: int
    characters: tuple[float, float]

    @property
    def pairs(self) -> int:
        """Return the number of pairs."""
        return len(self.amounts["replies"])


@dataclass
class Trial:
    """A rehearsal by the build's own model.

    Attributes:
        rehearsal: What the pairs took.
        times: Time of the clients by role.
        windows: Sequences that each client has kept in flight at most.
        replayed: Requests that an earlier trial had asked, which say nothing of the speed.
        journal_bytes: Size of the journals.
    """

    rehearsal: Rehearsal
    times: Mapping[str, EngineTime]
    windows: Mapping[str, int]
    replayed: int
    journal_bytes: int


class Complete(Protocol):
    """Completes the requests of a shard."""

    def __call__(self, journal: str, requests: Sequence[AnyRequest], role: Role) -> Sequence[Outcome]:
        """Return their outcomes, in order."""


Count = Callable[[AnyRequest, Outcome], tuple[float, float]]
"""Returns the prompt and completion tokens of a request."""


def rehearse(plan: BuildPlan, pairs: int, attempts: int, complete: Complete, count: Count) -> Rehearsal:
    """Run the first sampled pairs of a build, without Beam and without storing rows.

    Args:
        plan: The build, whose folder is prepared.
        pairs: Most pairs.
        attempts: Most attempts at each.
        complete: Completes requests.
        count: Counts their tokens.
    """
    # Imports Beam, which a build that only takes over a trial does not need yet.
    from pipeline.driver import plumbing

    amounts: dict[str, list[Amounts]] = defaultdict(list)
    tried = accepted = 0
    posts: list[int] = []
    replies: list[int] = []
    left = pairs
    for spec in (spec for spec in plan.shards() if spec.source == "sampled"):
        if left <= 0:
            break
        shard = sampling.load_drafts(spec, plan)
        shard = dataclasses.replace(shard, drafts=shard.drafts[:left])
        left -= len(shard.drafts)
        first = spec.start
        own = {stage: np.zeros((len(shard.drafts), len(MEASURES))) for stage in STAGES}
        posts += [len(draft.post.prompt) for draft in shard.drafts]
        for attempt in range(attempts):
            is_last = attempt + 1 == attempts
            shard = sampling.render_prompts(plumbing.sample(shard, plan, attempt), plan)
            shard = shard.with_outcomes(complete(shard.journal, shard.requests(), "generation"))
            for draft in shard.drafts:
                _add(own["replies"][draft.index - first], draft.requests, draft.outcomes, count)
                replies += [len(outcome.text) for outcome in draft.outcomes if isinstance(outcome, Completion)]
            shard = plumbing.validate(shard, plan, is_last)
            if plan.config.verification.is_on and shard.unverified:
                asked = plumbing.ask(shard, plan, attempt)
                asked = asked.with_outcomes(complete(asked.journal, asked.requests(), "verification"))
                for claim in asked.claims:
                    _add(own["verification"][claim.index - first], claim.requests, claim.outcomes, count)
                shard = plumbing.settle(asked, plan, is_last)
        tried += len(shard.pairs) + len(shard.rejections)
        accepted += len(shard.pairs)
        for stage in STAGES:
            amounts[stage].append(own[stage])
    means = tuple(float(np.mean(lengths)) if lengths else 0.0 for lengths in (posts, replies))
    joined = {stage: np.concatenate(found) for stage, found in amounts.items()}
    return Rehearsal(joined, tried, accepted, (means[0], means[1]))


def _add(amounts: Amounts, requests: Sequence[AnyRequest], outcomes: Sequence[Outcome], count: Count) -> None:
    for request, outcome in zip(requests, outcomes, strict=True):
        amounts += (1, request.sequences, *count(request, outcome))


def rehearse_without_model(plan: BuildPlan, pairs: int, tokens: Callable[[Sequence[str]], float]) -> Rehearsal:
    """Run pairs once with replies of the engine `dummy`. Completion tokens are the most that replies may have.

    Args:
        plan: The build, whose folder is prepared.
        pairs: Most pairs.
        tokens: Returns the tokens of a prompt, given the texts of its messages.
    """

    def complete(journal: str, requests: Sequence[AnyRequest], role: Role) -> Sequence[Outcome]:
        return [dummy.complete(request) for request in requests]

    def count(request: AnyRequest, outcome: Outcome) -> tuple[float, float]:
        if isinstance(request, ChoiceRequest):
            prefix = tokens([request.prefix])
            return sum(prefix + tokens([question]) for question in request.questions), request.sequences
        assert isinstance(request, Request)  # noqa: S101 - votes are made of choices by a client alone
        generation = plan.config.generation
        return tokens(request.texts), generation.token_limit(generation.max_tokens)

    return rehearse(plan, pairs, 1, complete, count)


def trial_folder(output: AnyPath) -> AnyPath:
    """Return the folder of a build's trial, which is beside the build's; in a bucket's root, within it."""
    return output.with_name(f"{output.name}.trial") if output.name else output / ".trial"


def run_trial(config: BuildConfig, output: AnyPath, pairs: int, notice: Callable[[str], None]) -> Trial:
    """Build the first pairs by the build's model, in `trial_folder(output)`.

    Raises:
        UsageError: The configuration cannot be built, or asks no model for pairs; or `output` cannot hold it.
        UserError: The model cannot be asked.
        BudgetError: The trial alone would pass one of the build's `limits`.
    """
    if not config.sampled_pairs:
        raise UsageError("--trial: only sampled pairs can be tried, and all pairs of this build are mined")
    if isinstance(config.engine, DummyEngine | ReplayEngine):
        raise UsageError(f"--trial: engine '{config.engine.kind}' asks no model; leave --trial out")
    for role, engine, model in managed_servers(config):
        with naming_keys(role, config):
            require_vllm(engine)
            model_path(model, notice)
    folder = trial_folder(output)
    with waiting_for_stores(config.requests.outage_seconds, notice):
        # Before any model is asked for a build that has no place.
        check_output(output)
        _check_trial_folder(folder)
        with locked(folder):
            storage.write_text(folder / _MARK, "A trial of a build. It may be deleted.\n")
            plan = dataclasses.replace(_prepared(config, folder), spent=Spent(began=time.time()))
            progress.delete_counts(folder)
            try:
                return _run(plan, pairs)
            except BudgetError as error:
                raise BudgetError(
                    f"--trial {pairs}: stopped before {error} would be passed; replies are kept, and the same command "
                    f"with a higher limit (--set {error}=...) continues; or try fewer pairs"
                ) from error
            finally:
                close_generation_services(plan)
                progress.delete_counts(folder)


def _check_trial_folder(folder: AnyPath) -> None:
    """Delete an earlier trial of another version. Raise `UsageError` for a folder that is none of ours."""
    if storage.is_file(folder / _MARK):
        return
    check_output(folder)
    if find_intact_manifest(folder) is not None:
        raise UsageError(f"{folder} holds a build that is no trial; choose another --output")


def _prepared(config: BuildConfig, folder: AnyPath) -> BuildPlan:
    """Prepare a trial's folder. That of another configuration is emptied."""
    try:
        return prepare(config, folder).plan
    except OtherBuildError:
        # Any other error leaves the replies of an earlier trial where they are.
        pass
    for name in storage.list_names(folder):
        if name not in (LOCK, _MARK):
            (storage.remove if storage.is_file(folder / name) else storage.remove_tree)(folder / name)
    return prepare(config, folder).plan


def _run(plan: BuildPlan, pairs: int) -> Trial:
    journals: set[tuple[Role, str]] = set()

    def complete(journal: str, requests: Sequence[AnyRequest], role: Role) -> Sequence[Outcome]:
        journals.add((role, journal))
        service = generation_service(plan, role)
        batch = service.submit(journal, requests)
        while not batch.is_done:
            service.wait()
        return batch.result()

    def count(request: AnyRequest, outcome: Outcome) -> tuple[float, float]:
        if not isinstance(outcome, Completion):
            return 0, 0
        return outcome.prompt_tokens, outcome.completion_tokens

    try:
        rehearsal = rehearse(plan, pairs, plan.config.attempts, complete, count)
    finally:
        for role, journal in journals:
            generation_service(plan, role).finish(journal)
    counts = {role: progress.counters_for(plan.output, role).counts() for role in ("generation", "verification")}
    times: dict[str, EngineTime] = {}
    for found in counts.values():
        times |= engine_times(found)
    folder = plan.output / "journal"
    sizes = [storage.size(folder / name) for name in storage.list_names(folder) if name.endswith(".jsonl")]
    return Trial(
        rehearsal,
        times,
        {role: found.get("window", 0) for role, found in counts.items()},
        sum(found.get("requests_replayed", 0) for found in counts.values()),
        sum(sizes),
    )


def adopt_trial(plan: BuildPlan) -> int:
    """Copy the journals of the build's trial, if there is one, where the build has none. Return their number."""
    source = trial_folder(plan.output)
    manifest = find_intact_manifest(source)
    if manifest is None or manifest.fingerprint != plan.fingerprint:
        return 0
    there = {*storage.list_names(plan.output / "journal")}
    names = [
        name
        for name in storage.list_names(source / "journal")
        if name.endswith(".jsonl") and not there & {name, name.replace(".jsonl", ".parts")}
    ]
    for name in names:
        storage.write_bytes(plan.output / "journal" / name, storage.read_bytes(source / "journal" / name))
    return len(names)
