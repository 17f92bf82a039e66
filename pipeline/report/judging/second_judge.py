"""`everyuser report --judge`: ask a judge about a sample of a finished build, and keep what it found in `judge/`.

`judge/` is laid out as a build's folder is: space, templates and journal. The same command resumes from the journal,
and another judge's answers are added to it.
"""

from __future__ import annotations

import copy
import dataclasses
import hashlib
from collections.abc import Callable, Sequence
from typing import NamedTuple

import orjson
from pydantic import ValidationError

from pipeline.generation.completions import AnyRequest, Failure, Outcome, choice_head
from pipeline.generation.packaged import check_model, model_path
from pipeline.generation.server import require_vllm
from pipeline.generation.service import close_generation_services, generation_service
from pipeline.io import storage
from pipeline.io.outages import waiting_for_stores
from pipeline.io.storage import AnyPath, write_text
from pipeline.plan import BuildPlan, ShardSpec
from pipeline.quality.rules import Violation
from pipeline.report.judging.judge_figures import JudgedPair, second_figures
from pipeline.report.judging.sample import SampledPair, draw_pairs
from pipeline.report.judging.swap import read_preferences, swap_requests
from pipeline.report.settings import JudgeSettings
from pipeline.report.source import Build, open_build
from pipeline.runtime.inputs import read_templates, write_inputs
from pipeline.runtime.resources import resources
from pipeline.verification.ask import Claim, VerifyShard, ask_judge
from pipeline.verification.judging import judge_claims
from schemas.base import UsageError, UserError
from schemas.config import BuildConfig, DummyEngine, LimitsConfig, ReplayEngine, VllmEngine
from schemas.loader import apply_override, build_config
from schemas.records import SeedPost
from schemas.report import SecondJudgeFigures

_FOLDER = "judge"
_FIGURES = "figures.json"
_JOURNAL = "answers"
_SETTABLE = ("verification", "requests")
"""Sections that may be set for a judge of a finished build."""

Progress = Callable[[str, int, int], None]
Notice = Callable[[str], None]


def judge_build(folder: AnyPath, settings: JudgeSettings, progress: Progress, notice: Notice) -> None:
    """Ask a judge about a sample of the build in `folder`, and store the figures for its report.

    Args:
        folder: The build's output folder; the caller must hold its lock.
        settings: The judge and the size of the sample.
        progress: Receives the steps.
        notice: Receives lines about what lasts.

    Raises:
        UsageError: There is no finished build, its pool is missing, or a setting is wrong.
        UserError: The judge cannot be asked; the same command resumes.
    """
    build = open_build(folder)
    plan = judge_plan(build, settings.overrides)
    engine, model = plan.config.verification.engine, plan.config.judge
    if isinstance(engine, VllmEngine):
        require_vllm(engine)
        check_model(model)
    sample = draw_pairs(build, settings.pairs, settings.seed)
    write_inputs(plan.output, build.space, read_templates(folder, build.manifest.parts["templates"]))
    questions = [_questions(sampled, plan) for sampled in sample]
    with waiting_for_stores(plan.config.requests.outage_seconds, notice):
        if isinstance(engine, VllmEngine):
            model_path(model, notice)
        outcomes = _ask([each.requests for each in questions], plan, progress)
    judged = [found for each, answers in zip(questions, outcomes, strict=True) if (found := _read(each, answers, plan))]
    unanswered = (
        f"{len(sample) - len(judged)} of {len(sample)} pairs have no answer of {model}{_first_failure(outcomes)}"
    )
    if sample and not judged:
        raise UserError(f"{unanswered}; the same command asks again where the cause may pass")
    if len(judged) < len(sample):
        notice(unanswered)
    figures = second_figures(judged, len(sample), build)
    write_text(plan.output / _FIGURES, figures.model_dump_json(indent=1) + "\n")


def read_figures(build: Build) -> SecondJudgeFigures | None:
    """Return the figures of the last judge of these files, or None."""
    path = build.folder / _FOLDER / _FIGURES
    if not storage.is_file(path):
        return None
    try:
        found = SecondJudgeFigures.model_validate_json(storage.read_bytes(path))
    except ValidationError:
        raise UsageError(f"{path} is damaged or of another version; delete it, or use --judge again") from None
    return found if found.files_digest == build.manifest.files_digest else None


def judge_plan(build: Build, overrides: Sequence[str]) -> BuildPlan:
    """Return a plan that has the judge alone, and whose folder is `judge/` of the build.

    Raises `UsageError` for a key of another section, or a value that is wrong.
    """
    document = copy.deepcopy(build.manifest.config)
    for override in overrides:
        (section, *_) = apply_override(document, override, "verification.model=NAME")
        if section not in _SETTABLE:
            raise UsageError(f"--set {override}: of a finished build only {' and '.join(_SETTABLE)} can be set")
    config = build_config(document, "everyuser report --judge")
    engine = config.verification.engine or config.engine
    if isinstance(engine, ReplayEngine):
        raise UsageError(
            "--judge: the build replayed its replies, and a replay cannot judge; name a judge, such as "
            "--set verification.model=NAME --set 'verification.engine={kind: openai, base_urls: [URL]}'"
        )
    judged = config.model_copy(
        update={
            # Nothing is generated, so the build's own engine need not answer.
            "engine": DummyEngine(kind="dummy"),
            # The budget is the build's, whose runs have used it.
            "limits": LimitsConfig(),
            # Nothing is rejected, and what is recorded is before filtering.
            "verification": config.verification.model_copy(
                update={"mode": "record", "engine": engine, "model": config.judge}
            ),
        }
    )
    hashes = {"space": build.manifest.parts["space"], **build.manifest.parts["templates"]}
    return BuildPlan(build.folder / _FOLDER, _fingerprint(build, judged), judged, hashes=hashes)


_PRICE = {"engine": {"price": True}}
"""What changes no answer of a judge."""


def _fingerprint(build: Build, config: BuildConfig) -> str:
    """Return a hash of the build, and of the judge and its questions."""
    parts = [build.manifest.fingerprint, config.judge, config.verification.model_dump(mode="json", exclude=_PRICE)]
    return hashlib.sha256(orjson.dumps(parts)).hexdigest()


class _Questions(NamedTuple):
    """The questions about a pair: those of verification, which its claim holds, and those of persona swap, if any."""

    sampled: SampledPair
    claim: Claim
    swap: Sequence[AnyRequest]

    @property
    def requests(self) -> list[AnyRequest]:
        """Return all requests, those of the claim first."""
        return [*self.claim.requests, *self.swap]


def _questions(sampled: SampledPair, plan: BuildPlan) -> _Questions:
    pair, verification = sampled.pair, plan.config.verification
    # The pool has title and text in one.
    post = SeedPost(id=pair.post_id, text=pair.prompt)
    asked = pair.model_copy(update={"direction": pair.asked_direction or pair.direction})
    claim = Claim(int(pair.pair_id.rpartition("-")[2]), post, asked)
    shard = ask_judge(VerifyShard(ShardSpec(sampled.split, 0, 1, 0, 1), [claim], None), plan, pair.attempt)
    swap: Sequence[AnyRequest] = ()
    if pair.kind != "restraint":
        head = choice_head(plan.config.judge, verification.structured_outputs)
        swap = swap_requests(sampled, post, resources(plan).templates["prefer"], head)
    return _Questions(sampled, shard.claims[0], swap)


def _ask(requests: Sequence[Sequence[AnyRequest]], plan: BuildPlan, progress: Progress) -> list[list[Outcome]]:
    """Return the outcomes of the requests about each pair, from the journal or by the judge."""
    service = generation_service(plan, "verification")
    try:
        batches = [service.submit(_JOURNAL, each) for each in requests]
        while (done := sum(batch.is_done for batch in batches)) < len(batches):
            progress("judged pairs", done, len(batches))
            service.wait()
        progress("judged pairs", done, done)
        service.finish(_JOURNAL)
    finally:
        close_generation_services(plan)
    return [batch.result() for batch in batches]


def _first_failure(outcomes: Sequence[Sequence[Outcome]]) -> str:
    found = (outcome for answers in outcomes for outcome in answers if isinstance(outcome, Failure))
    return next((f" ({failure.detail})" for failure in found), "")


def _read(questions: _Questions, outcomes: Sequence[Outcome], plan: BuildPlan) -> JudgedPair | None:
    """Return what the judge found in a pair; None where a question has no answer."""
    split = len(questions.claim.requests)
    claim = dataclasses.replace(questions.claim, outcomes=tuple(outcomes[:split]))
    (verdict,) = judge_claims([claim], plan).verdicts
    preferences = read_preferences(outcomes[split:]) if questions.swap else None
    if verdict.cause is not None or isinstance(preferences, Violation | Failure):
        return None
    return JudgedPair(questions.sampled, verdict.pair, preferences)
