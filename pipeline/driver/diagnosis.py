"""Lines about a run that is hopeless or slow, while it goes on: a cause, a figure, and the key to change."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import NamedTuple

from pipeline.driver.losses import remedy_for
from pipeline.runtime.recent import Recent

_FIRST_ATTEMPTS = 32
"""Attempts without a pair that say enough: where a quarter succeeds, they happen once in ten thousand runs."""
_ENOUGH_REJECTIONS = 64
_POOR = 1 / 3
"""Share of accepted attempts below which the commonest reason is named."""
_WARM_UP = 120.0
"""Seconds for which requests must be at work: the window finds its size, and the first prompts are read."""
_PACE_SECONDS = 120.0
_SILENT_SECONDS = 120.0


class Diagnosis:
    """Watches the counts of a run and reports each cause once.

    Args:
        notice: Takes a line.
        writes: Whether the model writes texts. A choice is one token, whose pace says nothing of the engine.
    """

    def __init__(self, notice: Callable[[str], None], writes: bool) -> None:
        self._notice = notice
        self._writes = writes
        self._known: set[str] = set()
        self._engine = _Engine()

    def update(self, counts: Mapping[str, int], now: float) -> None:
        """Report what the counts show for the first time. `now` is a monotonic time."""
        found = explain_rejections(counts)
        if self._writes:
            found |= self._engine.explain(counts, now)
        for cause, line in found.items():
            if cause not in self._known:
                self._known.add(cause)
                self._notice(line)


class Verdicts(NamedTuple):
    """Attempts at a pair, accepted and rejected, and the rejections by "stage/reason"."""

    accepted: int
    rejected: int
    reasons: Mapping[str, int]

    @property
    def tried(self) -> int:
        """Return the number of attempts."""
        return self.accepted + self.rejected


def latest_verdicts(counts: Mapping[str, int]) -> Verdicts:
    """Return the verdicts that have fallen; before the first, the early ones on a part of a shard.

    A pair that waits for the judge counts as accepted until the judge rejects it.
    """
    prefix = "" if counts.get("accepted", 0) + counts.get("rejected", 0) else "early/"
    reasons = _with_prefix(counts, f"{prefix}rejected/")
    pairs = {key: number for key, number in reasons.items() if not key.startswith("annotate/")}
    waiting = 0 if prefix else counts.get("validated", 0) - counts.get("judged", 0)
    return Verdicts(counts.get(f"{prefix}accepted", 0) + waiting, counts.get(f"{prefix}rejected", 0), pairs)


def explain_rejections(counts: Mapping[str, int]) -> dict[str, str]:
    """Return a line by cause: nothing was accepted, or few and most rejections have one reason.

    Args:
        counts: Those of `runtime.progress`, with every verdict as it falls.
    """
    verdicts = latest_verdicts(counts)
    annotations = {f"annotate/{key}": n for key, n in _with_prefix(counts, "rejected/annotate/").items()}
    return _explain("pair", "attempts", verdicts.accepted, verdicts.reasons) | _explain(
        "annotation", "responses", counts.get("annotated", 0), annotations
    )


def _with_prefix(counts: Mapping[str, int], prefix: str) -> dict[str, int]:
    return {name.removeprefix(prefix): number for name, number in counts.items() if name.startswith(prefix)}


def _explain(result: str, tries: str, good: int, reasons: Mapping[str, int]) -> dict[str, str]:
    bad = sum(reasons.values())
    key = max(reasons, key=lambda reason: reasons[reason], default="")
    if not good and bad >= _FIRST_ATTEMPTS:
        why = f"{reasons[key]} as {key}: {remedy_for(reasons)}"
        return {f"no {result}": f"no {result} yet: all of the first {bad} {tries} were rejected, {why}"}
    if bad >= _ENOUGH_REJECTIONS and reasons[key] > bad / 2 and good < _POOR * (good + bad):
        shares = f"{reasons[key] / bad:.0%} of {bad} rejections are {key}, and {good / (good + bad):.0%} of {tries}"
        return {key: f"{shares} are accepted: {remedy_for(reasons)}"}
    return {}


class _Engine:
    """The engine's pace since requests are at work. A server that starts, pauses or is out is not judged."""

    def __init__(self) -> None:
        self._since: float | None = None

    def explain(self, counts: Mapping[str, int], now: float) -> dict[str, str]:
        """Return a line by cause: the engine sends nothing, or less than a token a second for each sequence."""
        in_flight, answers = counts.get("in_flight", 0), counts.get("answers", 0)
        if not in_flight or counts.get("paused") or counts.get("outage"):
            self._since = None
            return {}
        if self._since is None:
            self._since, self._before = now, answers
            self._tokens = Recent(_PACE_SECONDS)
        self._tokens.add(now, counts.get("tokens_heard", 0))
        rate, quiet = self._tokens.rate, self._tokens.quiet_seconds
        if quiet >= _SILENT_SECONDS:
            advice = (
                "check the server and its log; if it is only slow, use a smaller generation.model or engine.in_flight"
            )
            return {"silent": f"the engine has sent nothing for {quiet:.0f} s, for {in_flight} requests: {advice}"}
        # Some replies are heard only at their end, so the pace is known when each request has had a turn.
        is_known = now - self._since >= _WARM_UP and answers - self._before >= in_flight
        if not is_known or not 0 < rate < in_flight:
            return {}
        pace = f"{rate:.3g} tokens/s for {in_flight} requests in flight, less than one a second for each"
        advice = (
            "use a smaller generation.model or a faster machine; a lower engine.in_flight ends single replies sooner"
        )
        return {"slow": f"the engine makes {pace}: {advice}"}
