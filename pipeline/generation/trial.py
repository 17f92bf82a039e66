"""Trial requests: one small request of each kind that a build sends. They show whether an endpoint can serve it.

Each adds one field at most (`Request.fields`) to what the earlier ones settled: so a refusal tells which field it is.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from pipeline.generation.completions import AnyRequest, Completion, choice_head, make_choice_request, make_request
from pipeline.generation.json_formats import levels_format, portrait_format
from pipeline.plan import BuildPlan
from pipeline.runtime.resources import resources

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


def trial_requests(plan: BuildPlan) -> list[AnyRequest]:
    """Return one request of each kind that the build needs, the plainest first."""
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
    if annotation and annotator == "choice":
        head = choice_head(generation.model, annotation.structured_outputs)
        plain = {name: head[name] for name in ("model", "max_tokens", "temperature")}
        requests += [_choices(plain, 1), _choices(head, 1)]
        if annotation.prompts_per_call > 1:
            requests.append(_choices(head, 2))
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
    return trial.fields == ("reasoning",) and completion.reasoning_tokens > 0


def _choices(head: Mapping[str, Any], questions: int) -> AnyRequest:
    return make_choice_request(head, TRIAL, ("\n(A) Hello.\n(B) Hi.\n(C) Good day.\nAnswer: (",) * questions, b"trial")
