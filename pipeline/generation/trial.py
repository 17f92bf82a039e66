"""Trial requests: one small request of each kind that a build sends. They show whether an endpoint can serve it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from pipeline.generation.completions import AnyRequest, choice_head, make_choice_request, make_request
from pipeline.generation.json_formats import levels_format, portrait_format
from pipeline.plan import BuildPlan
from pipeline.runtime.resources import resources

TRIAL = "Say hello."
"""The text of every trial request."""
_TOKENS = 16
"""Maximum length of the reply. Some servers refuse a smaller limit."""


def trial_requests(plan: BuildPlan) -> list[AnyRequest]:
    """Return one request of each kind that the build needs, the plainest first."""
    config, mining = plan.config, plan.config.mining
    annotation, annotator = (mining.annotation, mining.annotator) if mining else (None, None)
    changes: dict[str, Any] = {"max_tokens": min(_TOKENS, config.generation.max_tokens)}
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
        requests.append(make_request(config.generation, {"user": TRIAL}, ("trial",), **changes))
    for wanted in formats:
        # Some servers refuse a request for JSON unless the prompt contains the word.
        messages = {"user": f"{TRIAL} Answer with a JSON object."}
        requests.append(make_request(config.generation, messages, ("trial",), **changes, response_format=wanted))
    if annotation and annotator == "choice":
        head = choice_head(config.generation.model, annotation.structured_outputs)
        plain = {name: head[name] for name in ("model", "max_tokens", "temperature")}
        requests += [_choices(plain, 1), _choices(head, 1)]
        if annotation.prompts_per_call > 1:
            requests.append(_choices(head, 2))
    return requests


def _choices(head: Mapping[str, Any], questions: int) -> AnyRequest:
    return make_choice_request(head, TRIAL, ("\n(A) Hello.\n(B) Hi.\n(C) Good day.\nAnswer: (",) * questions, b"trial")
