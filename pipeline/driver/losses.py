"""Messages about lost pairs: the most frequent reasons with counts, an example, and a remedy."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from pipeline.io import storage
from pipeline.io.shards import read_metas, read_shard
from pipeline.io.storage import AnyPath
from schemas.config import LimitsConfig
from schemas.manifest import Counts

_LATER = ("assemble/", "portrait/")
"""Stages of phase two, whose rejections are in a separate folder."""
_AUTHORS = dict.fromkeys(("validate", "verify", "portrait"), "the model wrote") | {"annotate": "response and answers"}
_MOST_REASONS = 3
_LONGEST_DETAIL = 160
_LONGEST_TEXT = 120

_HISTORY = "use more pairs, larger shard_pairs or history.blocks, fewer history.ugc and history.pair"
_USERS = "with persona users instead more users.pairs_per_user"
_MODEL = "use another generation.model or other templates"
_SERVER = "check the server and its log"
_JSON = "use a model that writes JSON, or set mining.annotation.structured_outputs"
REMEDIES = {
    "sample/no_dimension": "give posts topics, or let more dimensions be active (sampling)",
    "annotate/unfinished": "raise mining.annotation.max_tokens",
    "annotate/schema": f"{_JSON}; mining.annotation.mode: choice needs none",
    "annotate/no_option": "set mining.annotation.structured_outputs, or mining.annotation.mode: json",
    "annotate/incomplete": "set mining.annotation.mode: json or protocol: chat, or a smaller prompts_per_call",
    "portrait/unfinished": f"{_MODEL}; with portrait: model, raise generation.max_tokens",
    "portrait/schema": "use a model that writes JSON, or portrait: model",
    "portrait/inconsistent": "set portrait: template, or history.consistency: strict",
    "mine/too_few_responses": "use threads with more responses, or find out why they were not annotated",
    "mine/one_cluster": "lower mining.annotation.min_confidence, or ask about more mining.annotation.dimensions",
    "mine/margin": "widen mining.min_margin to mining.max_margin",
    "verify/too_few_dimensions": f"{_MODEL}, raise attempts, or lower verification.min_margin or min_dimensions",
    "verify/too_small_share": f"{_MODEL}, raise attempts, or lower verification.min_margin or min_share",
    "verify/drift": f"{_MODEL}, or raise verification.max_drift",
    "verify/quality": f"{_MODEL}, or lower verification.min_quality",
    "verify/quality_gap": f"{_MODEL}, or raise verification.max_quality_gap",
    "verify/margin": "raise verification.max_margin",
    "verify/no_option": "use another verification.model, or set verification.structured_outputs",
    "verify/incomplete": "set verification.protocol: chat, or a smaller verification.prompts_per_call",
    "mine/repeated": "lower mining.pairs_per_post",
    "history_too_short": f"{_HISTORY}, or a lower sampling.max_active; {_USERS}, or a lower users.min_items, "
    "kinds.near or kinds.restraint",
    "history_without_support": f"lower history.min_support, or {_HISTORY}; {_USERS}, or a lower users.active.max",
    "history_inconsistent": f"set history.consistency: strict, or {_HISTORY}",
    "reply_in_another_split": f"the model repeats itself: raise generation.temperature, or {_MODEL}",
    "unfinished": "raise generation.max_tokens, or lower cleaning.min_cut_share",
    "empty": _MODEL,
    "lead_in_alone": f"take strings that cut replies short, such as a line break, out of generation.stop, or {_MODEL}",
    "too_short": f"lower rules.min_words, or {_MODEL}",
    "too_long": "lower generation.max_tokens",
    "control_character": _MODEL,
    "control_token": f"{_MODEL}, or change rules.control_tokens",
    "refusal_or_meta": _MODEL,
    "markup": f"{_MODEL}, or change rules.markup",
    "repetitive": f"{_MODEL}, or raise rules.max_repeated_share",
    "language": f"{_MODEL}, or change rules.language",
    "copied": f"{_MODEL}, or raise rules.copied_ngram",
    "length_ratio": f"{_MODEL}, or raise rules.max_length_ratio",
    "equal": f"raise generation.temperature, or {_MODEL}",
    "near_equal": f"raise generation.temperature or rules.max_similarity, or {_MODEL}",
    "schema": "see the detail for the rule of the record that the row breaks",
    "timeout": f"{_SERVER}: these requests fail even alone; if it needs longer, raise requests.timeout_seconds",
    "server_died": "logs/model-server.log says why the server dies",
    "http_404": f"{_SERVER}: one of several behind an address may lack the model; then use --retry-lost",
    "http_4": "the server refuses these requests: change what it names, or use another generation.model",
}
"""Remedies by stage and reason, by reason, or by the first six characters of the reason."""


def summarise_rejections(output: AnyPath, rejected: Mapping[str, int]) -> str:
    """Return the most frequent reasons ("stage/reason") with their counts, and a rejected row of the first."""
    if not rejected:
        return "no reason is known"
    ordered = sorted(rejected.items(), key=lambda entry: (-entry[1], entry[0]))
    named = ", ".join(f"{reason} {count}" for reason, count in ordered[:_MOST_REASONS])
    more = f" and {len(ordered) - _MOST_REASONS} more" if len(ordered) > _MOST_REASONS else ""
    example = _example(output, ordered[0][0])
    return f"{named}{more}{f' (for example {example})' if example else ''}"


def remedy_for(rejected: Mapping[str, int]) -> str:
    """Return the remedy for the most frequent reason."""
    if not rejected:
        return ""
    key = min(rejected, key=lambda reason: (-rejected[reason], reason))
    reason = key.rpartition("/")[2]
    return REMEDIES.get(key) or REMEDIES.get(reason) or REMEDIES.get(reason[:6]) or _SERVER


def losses_message(output: AnyPath, counts: Counts, limits: LimitsConfig) -> str:
    """Return the message for a run that loses too many pairs.

    Args:
        output: The build's folder, from which an example is read.
        counts: The funnel; `rejected` must have the reasons.
        limits: Of the run, which `max_lost_share` ends.
    """
    why = summarise_rejections(output, counts.rejected)
    lost = f"{counts.pairs_lost} of {counts.pairs_asked} pairs were lost"
    if counts.pairs_unanswered and limits.allows(counts.pairs_lost - counts.pairs_unanswered, counts.pairs_asked):
        return (
            f"{lost}, {counts.pairs_unanswered} of them because requests failed: {why}; {_SERVER}, then run the same "
            "command again, which sends these requests again"
        )
    return (
        f"{lost}, more than limits.max_lost_share = {limits.max_lost_share:g}: {why}; {remedy_for(counts.rejected)}; "
        "or raise the limit (rejected/ holds each with its reason)"
    )


def _example(output: AnyPath, key: str) -> str:
    """Return id, detail and texts of a rejection with this reason; empty where it has neither of the last two."""
    stage, _, reason = key.partition("/")
    folder = output / ("rejected/examples" if key.startswith(_LATER) else "rejected/pairs")
    files = [name for name in storage.list_names(folder) if name.endswith(".parquet") and not name.startswith(".")]
    for name, meta in zip(files, read_metas(folder, files), strict=True):
        if meta and meta["rejected"].get(key):
            columns = ["stage", "reason", "record_id", "detail", "texts"]
            for row in read_shard(folder / name, columns).to_pylist():
                if (row["stage"], row["reason"]) == (stage, reason):
                    facts = [_shortened(row["detail"], _LONGEST_DETAIL), _quoted(stage, row["texts"])]
                    return f"{row['record_id']}: {'; '.join(filter(None, facts))}" if any(facts) else ""
    return ""


def _quoted(stage: str, texts: Sequence[str]) -> str:
    """Return the texts of a rejection whose cause they are. Those of a failed request or a short history are good."""
    who = _AUTHORS.get(stage)
    found = " and ".join(f'"{_shortened(text, _LONGEST_TEXT)}"' for text in texts if text.strip())
    return f"{who} {found}" if who and found else ""


def _shortened(text: str, longest: int) -> str:
    line = " ".join(text.split())
    return line if len(line) <= longest else f"{line[:longest]}..."
