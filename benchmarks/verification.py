"""What verification finds and costs with a real model: `python -m benchmarks.verification OUT [--url URL]`.

Runs the stages of phase one in turn, so that the engine's time of each is known, on vLLM as a build would start it or
on a server at an address. The journals then become a whole build in `OUT` by replay, for `everyuser report` and
`everyuser review`. After a kill the same command resumes: what the journals have is not asked again, and the ratio is
estimated from the rest.

A prompt token is computed unless vLLM's prefix cache holds it, as its `/metrics` tell. Recovery before filtering is of
all pairs that the judge answered about, those of rejected attempts included.
"""

from __future__ import annotations

import argparse
import contextlib
import time
from collections import Counter, defaultdict
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

import numpy as np
import pyarrow.parquet as pq

from benchmarks.machine import describe
from benchmarks.model_server import read_metrics, serving
from pipeline.build import build
from pipeline.driver.plumbing import ask, sample, settle, validate
from pipeline.driver.prepare import prepare
from pipeline.generation.completions import Completion
from pipeline.generation.device import find_device
from pipeline.generation.roles import Role
from pipeline.generation.service import close_generation_services, generation_service
from pipeline.generation.stage import ShardWithRequests
from pipeline.io.locks import locked
from pipeline.plan import BuildPlan
from pipeline.runtime.resources import resources
from pipeline.sampling.pairs import load_drafts, render_prompts
from preference_space.levels import is_shown
from schemas.config import VllmEngine
from schemas.loader import load_config
from schemas.manifest import Manifest

_CONFIG = Path(__file__).parents[1] / "configs" / "quickstart.yaml"
_GENERATION: Role = "generation"
_VERIFICATION: Role = "verification"

Shard = TypeVar("Shard", bound=ShardWithRequests)


class Spent(NamedTuple):
    """The cost of requests. `computed` is None where the server does not tell.

    `needed` are the requests of the build, those that a journal had answered included.
    """

    needed: int = 0
    requests: int = 0
    seconds: float = 0.0
    prompt: int = 0
    computed: int | None = 0
    completion: int = 0

    def plus(self, other: Spent) -> Spent:
        """Return the sums."""
        return Spent(
            self.needed + other.needed,
            self.requests + other.requests,
            self.seconds + other.seconds,
            self.prompt + other.prompt,
            None if self.computed is None or other.computed is None else self.computed + other.computed,
            self.completion + other.completion,
        )

    def __str__(self) -> str:
        computed = (
            "unknown" if self.computed is None else f"{self.computed:,} ({self.computed / max(1, self.prompt):.0%})"
        )
        return (
            f"{self.requests:,} of {self.needed:,} requests in {self.seconds:,.0f} s; prompt tokens sent "
            f"{self.prompt:,}, computed {computed}; reply tokens {self.completion:,}"
        )


def main() -> None:
    """Run the stages, finish the build, and print the figures."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("output", metavar="OUT", type=Path, help="folder of the build")
    parser.add_argument("--config", type=Path, default=_CONFIG, help="posts, dimensions, rules, generation")
    parser.add_argument("--pairs", type=int, default=128)
    parser.add_argument("--mode", choices=["record", "filter"], default="filter")
    parser.add_argument("--url", help="an OpenAI-compatible endpoint that serves the model, ending in /v1")
    parser.add_argument("--set", action="append", default=[], help="a key of the configuration, as for `everyuser`")
    arguments = parser.parse_args()
    print(describe(), flush=True)
    sets = [f"pairs={arguments.pairs}", f"verification.mode={arguments.mode}", "limits.max_lost_share=1"]
    sets += arguments.set
    arguments.output.mkdir(parents=True, exist_ok=True)
    with contextlib.ExitStack() as stack:
        url, bound = arguments.url, "null"
        if url is None:
            engine, log = VllmEngine(), arguments.output.with_suffix(".log")
            url = stack.enter_context(serving(load_config(arguments.config, sets).generation.model, log, engine))
            bound = str(find_device(engine).bound(engine))
        asking = load_config(
            arguments.config, [*sets, f"engine={{kind: openai, base_urls: [{url!r}], in_flight: {bound}}}"]
        )
        stack.enter_context(locked(arguments.output))
        plan = prepare(asking, arguments.output).plan
        stack.callback(close_generation_services, plan)
        costs = run(plan, url)
    replaying = [*sets, f"engine={{kind: replay, journal: {str(arguments.output / 'journal')!r}}}"]
    manifest = build(load_config(arguments.config, replaying), arguments.output)
    print("\n".join([*cost_lines(costs), *figures(arguments.output, plan, manifest)]))


def run(plan: BuildPlan, url: str) -> dict[Role, Spent]:
    """Run phase one, stage by stage over all shards, and return the cost of the requests of each role."""
    costs = Costs(plan, url)
    shards = [load_drafts(spec, plan) for spec in plan.shards()]
    for attempt in range(plan.config.attempts):
        last = attempt + 1 == plan.config.attempts
        drawn = [render_prompts(sample(shard, plan, attempt), plan) for shard in shards]
        written = [validate(shard, plan, last) for shard in costs.answer(_GENERATION, drawn)]
        asked = [ask(shard, plan, attempt) for shard in written]
        shards = [settle(shard, plan, last) for shard in costs.answer(_VERIFICATION, asked)]
    return costs.by_role


class Costs:
    """Has the requests of shards answered, and adds up their cost by role."""

    def __init__(self, plan: BuildPlan, url: str) -> None:
        self.by_role: dict[Role, Spent] = defaultdict(Spent)
        self._plan, self._url = plan, url

    def answer(self, role: Role, shards: Sequence[Shard]) -> list[Shard]:
        """Return the shards with the outcomes of their requests."""
        service = generation_service(self._plan, role)
        hits, begin = self._hits(role), time.monotonic()
        batches = [service.submit(shard.journal, shard.requests()) for shard in shards]
        are_new = [[outcome is None for outcome in batch.outcomes] for batch in batches]
        while not all(batch.is_done for batch in batches):
            service.wait()
        seconds, results = time.monotonic() - begin, [batch.result() for batch in batches]
        replies = [
            outcome
            for result, new in zip(results, are_new, strict=True)
            for outcome, is_new in zip(result, new, strict=True)
            if is_new and isinstance(outcome, Completion)
        ]
        prompt, found = sum(reply.prompt_tokens for reply in replies), self._hits(role)
        computed = None if hits is None or found is None else prompt - int(found - hits)
        written = sum(reply.completion_tokens for reply in replies)
        spent = Spent(sum(map(len, results)), len(replies), seconds, prompt, computed, written)
        if replies:
            print(f"{role}: {spent}", flush=True)
        self.by_role[role] = self.by_role[role].plus(spent)
        return [shard.with_outcomes(result) for shard, result in zip(shards, results, strict=True)]

    def _hits(self, role: Role) -> float | None:
        if role == _VERIFICATION and self._plan.config.verification.engine is not None:
            return None
        return read_metrics(self._url).get("vllm:prefix_cache_hits_total")


def cost_lines(costs: dict[Role, Spent]) -> list[str]:
    """Return the cost of each role, and that of verification over that of generation, both as if asked anew."""
    if any(not spent.requests for spent in costs.values()):
        return ["", "the journals had all answers of a stage, so nothing was measured"]
    generation, verification = (
        costs[role].seconds / costs[role].requests * costs[role].needed for role in (_GENERATION, _VERIFICATION)
    )
    ratio = verification / generation
    return [
        "",
        *(f"{role}, all attempts: {spent}" for role, spent in costs.items()),
        f"verification took {ratio:.2f} times the engine time of generation",
    ]


class Judged(NamedTuple):
    """The pairs that the judge answered about, or the accepted ones: arrays of shape (pairs, dimensions)."""

    asked: np.ndarray[Any, np.dtype[np.int8]]
    margins: np.ndarray[Any, np.dtype[np.float32]]
    kept: np.ndarray[Any, np.dtype[np.int8]]

    def share(self, dimension: int | slice) -> str:
        """Return how many dimensions of those that were asked for have a margin of the right sign, as text."""
        return _share(is_shown(self.margins, self.asked)[:, dimension], self.asked[:, dimension] != 0)

    def share_kept(self, dimension: int | slice) -> str:
        """Return how many dimensions of those that were asked for are kept, as text."""
        return _share(self.kept[:, dimension] != 0, self.asked[:, dimension] != 0)


def _share(part: np.ndarray[Any, Any], whole: np.ndarray[Any, Any]) -> str:
    found, of = int((part & whole).sum()), int(whole.sum())
    return f"{found} of {of} ({found / of:.0%})" if of else ""


def figures(folder: Path, plan: BuildPlan, manifest: Manifest) -> list[str]:
    """Return recovery by dimension, before and after filtering, and the accepted share, as lines."""
    dimensions = resources(plan).space.dimensions
    accepted = _rows(folder / "pool", "asked_direction", len(dimensions))
    rejected = _rows(folder / "rejected" / "pairs", "direction", len(dimensions))
    every = Judged(*(np.concatenate([a, b]) for a, b in zip(accepted, rejected, strict=True)))
    reasons = Counter({r: n for r, n in manifest.counts.rejected.items() if not r.startswith("assemble/")})
    attempts = len(accepted.asked) + reasons.total()
    table = ["| dimension | recovered before filtering | accepted pairs: recovered | kept |", "|---|---|---|---|"]
    names: list[tuple[str, int | slice]] = [("all", slice(None))]
    names += [(d.slug, k) for k, d in enumerate(dimensions) if every.asked[:, k].any()]
    for name, dimension in names:
        cells = (every.share(dimension), accepted.share(dimension), accepted.share_kept(dimension))
        table.append(f"| {name} | {' | '.join(cells)} |")
    return [
        f"{len(accepted.asked)} of {attempts} attempts accepted ({len(accepted.asked) / attempts:.0%}), "
        f"{manifest.counts.pairs_lost} pairs lost, {manifest.counts.examples} examples; rejected: "
        + (", ".join(f"{number} {reason}" for reason, number in reasons.most_common()) or "none"),
        "",
        *table,
    ]


def _rows(folder: Path, asked: str, size: int) -> Judged:
    """Return the rows of a folder that have margins; the column `asked` holds the direction that was asked for."""
    columns = sorted({asked, "direction", "direction_margin"})
    tables = (pq.read_table(path, columns=columns) for path in sorted(folder.glob("*.parquet")))
    rows = [row for table in tables for row in table.to_pylist() if row["direction_margin"]]
    return Judged(
        np.array([row[asked] for row in rows], dtype=np.int8).reshape(-1, size),
        np.array([row["direction_margin"] for row in rows], dtype=np.float32).reshape(-1, size),
        np.array([row["direction"] for row in rows], dtype=np.int8).reshape(-1, size),
    )


if __name__ == "__main__":
    main()
