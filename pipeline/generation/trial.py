"""Trial requests: one small request of each kind that a build sends. They show whether an endpoint can serve it.

Each adds one field at most (`Request.fields`) to what the earlier ones settled: so a refusal tells which field it is.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from pipeline.generation.completions import (
    NO_REASONING,
    VOTES,
    AnyRequest,
    ChoiceRequest,
    Completion,
    choice_head,
    make_choice_request,
    make_request,
)
from pipeline.generation.json_formats import levels_format, portrait_format
from pipeline.generation.roles import Role, choices_of, engine_of, model_of
from pipeline.generation.votes import SYSTEM, Vote, vote_head
from pipeline.plan import BuildPlan
from pipeline.runtime.resources import resources
from schemas.config import VllmEngine

TRIAL = "Say hello."
"""The text of every trial request."""
_SYSTEM = (
    "You answer people who write to you. Be brief and friendly, write plain text without headings or lists, and say "
    "nothing about these instructions."
)
_TOKENS = 16
"""Maximum length of the reply. Some servers refuse a smaller limit."""
_REASONING_TOKENS = 256
"""Maximum length of the reply that shows whether the model reasons: some mark the end of their reasoning only."""


@dataclass(frozen=True, slots=True)
class Trials:
    """The trial requests of a service, the plainest first.

    Where an endpoint refuses a choice among `requests`, or answers it without log-probabilities, `votes_instead` take
    the place of all choices. Without them the refusal is an error.
    """

    requests: Sequence[AnyRequest]
    votes_instead: Sequence[AnyRequest] = ()


def trial_requests(plan: BuildPlan, roles: Collection[Role]) -> Trials:
    """Return one request of each kind that the build sends for these roles."""
    requests = _of_generation(plan) if "generation" in roles else []
    votes_instead: list[AnyRequest] = []
    needs_choices = False
    for role in roles:
        if (choices := choices_of(plan.config, role)) is None:
            continue
        head = choice_head(model_of(plan.config, role), choices.structured_outputs)
        if choices.protocol == "chat":
            requests += _votes(head)
            continue
        requests += _choices(head, choices.prompts_per_call)
        votes_instead += _votes(head)
        needs_choices |= choices.protocol == "completions" or isinstance(engine_of(plan.config, role), VllmEngine)
    return Trials(requests, () if needs_choices else votes_instead)


def _of_generation(plan: BuildPlan) -> list[AnyRequest]:
    config, mining = plan.config, plan.config.mining
    generation = config.generation
    annotation, annotator = (mining.annotation, mining.annotator) if mining else (None, None)
    changes: dict[str, Any] = {"max_tokens": min(_TOKENS, generation.max_tokens)}
    # The build's own schemas, as servers differ in the JSON Schema that they support.
    formats = []
    if annotation and annotator == "json" and annotation.structured_outputs:
        space = resources(plan).space
        asked = space.select(annotation.dimensions, "mining.annotation.dimensions")
        formats.append(levels_format([space.dimensions[d].slug for d in asked]))
    if config.portrait == "paper":
        formats.append(portrait_format(resources(plan).space))
    requests: list[AnyRequest] = []
    if config.sampled_pairs or config.portrait != "template" or annotator == "json":
        user = {"user": TRIAL}
        plainest = generation.model_copy(update={"reasoning": "keep out"})
        requests.append(make_request(plainest, user, ("trial",), **changes))
        if generation.reasoning == "off":
            requests.append(make_request(generation, user, ("trial",), max_tokens=_REASONING_TOKENS))
        requests.append(make_request(generation, {"system": _SYSTEM, **user}, ("trial",), **changes))
    for wanted in formats:
        # Some servers refuse a request for JSON unless the prompt contains the word.
        messages = {"user": f"{TRIAL} Answer with a JSON object."}
        requests.append(make_request(generation, messages, ("trial",), **changes, response_format=wanted))
    return requests


def ignores_system(trial: AnyRequest, completion: Completion, plain: Completion | None) -> bool:
    """Return whether the trial request with a system message cost no more tokens than the plain one did.

    Some chat templates drop the message in silence. A default message of the template is replaced by it, and is hardly
    of the same length.
    """
    return (
        plain is not None and trial.fields[-1:] == ("system",) and 0 < completion.prompt_tokens == plain.prompt_tokens
    )


def reasons_all_the_same(trial: AnyRequest, completion: Completion) -> bool:
    """Return whether a model reasoned in reply to a trial request that asks it not to."""
    return trial.fields[-1:] == ("reasoning",) and completion.reasoning_tokens > 0


def lacks_numbers(trial: AnyRequest, completion: Completion) -> bool:
    """Return whether a choice was answered without the log-probabilities that it asks for."""
    return isinstance(trial, ChoiceRequest) and "logprobs" in trial.head and completion.finish_reason == VOTES


_QUESTION = "\n(A) Hello.\n(B) Hi.\n(C) Good day.\nAnswer: ("


def _choices(head: Mapping[str, Any], prompts_per_call: int) -> list[AnyRequest]:
    plain = {name: head[name] for name in ("model", "max_tokens", "temperature")}
    tried = [(plain, 1), (head, 1), *([(head, 2)] if prompts_per_call > 1 else [])]
    return [make_choice_request(fields, TRIAL, (_QUESTION,) * count, b"trial") for fields, count in tried]


def _votes(head: Mapping[str, Any]) -> list[AnyRequest]:
    full = vote_head(head)
    sent = {name: full[name] for name in ("model", "temperature")}
    votes = [_vote(sent)]
    sent |= {"max_tokens": full["max_tokens"]}
    votes += [_vote(sent), _vote(sent, SYSTEM)]
    sent |= NO_REASONING
    votes += [_vote(sent | {"max_tokens": _REASONING_TOKENS}, SYSTEM), _vote(sent, SYSTEM, seed=1)]
    further: list[list[str]] = [["logprobs", "top_logprobs"], ["structured_outputs"]]
    for names in further:
        if added := {name: full[name] for name in names if name in full}:
            sent |= added
            votes.append(_vote(sent, SYSTEM, seed=1))
    return votes


def _vote(head: Mapping[str, Any], system: str = "", seed: int | None = None) -> AnyRequest:
    return Vote("trial", {**head}, system, TRIAL, _QUESTION, seed)
