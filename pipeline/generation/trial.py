"""Trial questions: one small request of each kind that a build sends, asked before the work and when in doubt."""

from __future__ import annotations

from typing import Any

from pipeline.generation.requests import AnyRequest, choice_head, json_format, make_choice_request, make_request
from pipeline.plan import BuildPlan

TRIAL = "Say hello."
"""The text of every trial question."""
_TOKENS = 16
"""Longest answer; some servers refuse a smaller limit."""
_SCHEMA = {
    "type": "object",
    "properties": {"greeting": {"type": "string"}},
    "required": ["greeting"],
    "additionalProperties": False,
}


def trial_requests(plan: BuildPlan) -> list[AnyRequest]:
    """Return one request of each kind that the build needs, the plainest first."""
    config, mining = plan.config, plan.config.mining
    # The adapters of rated datasets bring every level.
    annotation = mining.annotation if mining and mining.source.kind in ("dump", "threads") else None
    mode = annotation.mode if annotation else None
    asks_for_json = config.portrait == "paper" or bool(annotation and mode == "json" and annotation.constrain)
    changes: dict[str, Any] = {"max_tokens": min(_TOKENS, config.generation.max_tokens)}
    requests: list[AnyRequest] = []
    if config.sampled_pairs or config.portrait != "template" or mode == "json":
        requests.append(make_request(config.generation, {"user": TRIAL}, ("trial",), **changes))
    if asks_for_json:
        changes |= {"response_format": json_format("trial", _SCHEMA)}
        requests.append(make_request(config.generation, {"user": TRIAL}, ("trial",), **changes))
    if annotation and mode == "choice":
        head = choice_head(config.generation.model, annotation.constrain)
        requests.append(make_choice_request(head, TRIAL, ("\n(A) Hello.\n(B) Hi.\n(C) Good day.\n",), b"trial"))
    return requests
