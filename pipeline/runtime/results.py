"""Files of a finished shard: its rows, its rejections, and a count of losses in both footers."""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import astuple, dataclass
from types import MappingProxyType
from typing import Any

from pipeline.io.shards import read_meta, write_shard
from pipeline.io.storage import AnyPath
from pipeline.plan import BuildPlan, ShardSpec
from pipeline.runtime import timing
from schemas.arrow import arrow_schema, to_table
from schemas.records import Pair, Rejection

TOKEN_COUNTS = ("prompt_tokens", "completion_tokens", "reasoning_tokens")
"""Names of the token counts in footers, counters and manifests."""


@dataclass(frozen=True, slots=True)
class Tokens:
    """Token counts of replies. Those of reasoning are among those of completions."""

    prompt: int = 0
    completion: int = 0
    reasoning: int = 0

    def __add__(self, other: Tokens) -> Tokens:
        """Return the sums."""
        return Tokens(self.prompt + other.prompt, self.completion + other.completion, self.reasoning + other.reasoning)

    @property
    def meta(self) -> dict[str, int]:
        """Return the counts by name."""
        return dict(zip(TOKEN_COUNTS, astuple(self), strict=True))


NO_TOKENS = Tokens()


PAIR_SCHEMA = arrow_schema(Pair)
REJECTION_SCHEMA = arrow_schema(Rejection)


def store_pool(
    spec: ShardSpec,
    plan: BuildPlan,
    pairs: Sequence[Pair],
    rejections: Sequence[Rejection],
    tokens: Tokens,
    open_responses: int = 0,
    cleaned: Mapping[str, int] = MappingProxyType({}),
    verification: Mapping[str, Mapping[str, int]] = MappingProxyType({}),
) -> dict[str, Any]:
    """Write a pool shard. Its rejections are written first: the file of pairs marks the shard as done.

    Args:
        spec: The shard.
        plan: The build.
        pairs: Accepted pairs, in any order.
        rejections: Failed attempts.
        tokens: Of all attempts.
        open_responses: Responses of mined threads that timeouts or server errors left without levels.
        cleaned: Replies that each step of cleaning changed.
        verification: What the judge found by kind of pair, with the names of `VerificationCounts`.

    Returns:
        The footer's `meta`. Its `content` is a hash of the pairs, by which shards of examples know their input.
    """
    ordered = sorted(pairs, key=lambda pair: pair.pair_id)
    meta = {
        "asked": spec.count,
        "accepted": len(pairs),
        "examples": 0,
        **loss_meta(plan, rejections, open_responses),
        **tokens.meta,
        "cleaned": dict(cleaned),
        "kinds": dict(Counter(pair.kind for pair in ordered)),
        "verification_by_kind": {kind: dict(found) for kind, found in verification.items()},
        "content": _content(ordered),
    }
    stored = better_stored(plan, "pool", spec, meta)
    if stored is not None:
        return stored
    write_rejections(plan.path("rejected/pairs", spec), rejections, meta)
    write_shard(plan.path("pool", spec), PAIR_SCHEMA, [to_table(ordered, PAIR_SCHEMA)], meta)
    timing.stored(plan.path("pool", spec), f"{len(pairs)} of {spec.count} pairs")
    return meta


def _content(pairs: Sequence[Pair]) -> str:
    return hashlib.blake2b("\n".join(pair.model_dump_json() for pair in pairs).encode(), digest_size=16).hexdigest()


def loss_meta(plan: BuildPlan, rejections: Sequence[Rejection], open_responses: int = 0) -> dict[str, Any]:
    """Return what a footer says of losses: numbers of `lost` and `unanswered` pairs, `open` rows, and reasons.

    A lost pair is unanswered if a timeout or server error failed any of its attempts. `open` counts what another run
    would ask for again: responses of mined threads, otherwise unanswered pairs.
    """
    final = {rejection.record_id for rejection in rejections if rejection.final}
    unanswered = len(final & {rejection.record_id for rejection in rejections if rejection.may_pass})
    return {
        "fingerprint": plan.fingerprint,
        "lost": len(final),
        "unanswered": unanswered,
        "open": open_responses or unanswered,
        "rejected": dict(Counter(f"{r.stage}/{r.reason}" for r in rejections)),
    }


def better_stored(plan: BuildPlan, folder: str, spec: ShardSpec, meta: Mapping[str, Any]) -> dict[str, Any] | None:
    """Return the footer of the stored shard if it must stay, because asking again lost no fewer rows; else None.

    Without a journal, or with a server that still fails, asking again could lose what an earlier run received.
    """
    stored = read_meta(plan.path(folder, spec)) if plan.reopens_shards else None
    if stored is None or any(stored.get(key) != meta.get(key) for key in ("fingerprint", "made_of")):
        return None
    return stored if stored["open"] <= meta["open"] else None


def write_rejections(path: AnyPath, rejections: Sequence[Rejection], meta: Mapping[str, Any]) -> None:
    """Write a shard's rejections, ordered by record and attempt."""
    ordered = sorted(rejections, key=lambda rejection: (rejection.record_id, rejection.attempt))
    write_shard(path, REJECTION_SCHEMA, [to_table(ordered, REJECTION_SCHEMA)], meta)
