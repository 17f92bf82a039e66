"""Templates compared on a real model: `python -m benchmarks.prompts FOLDER... [--url URL] [--set KEY=VALUE]...`.

Each folder is one variant of `reply.j2`; `packaged` names the project's own. All variants get the same posts,
directions and seeds, each pair once. Prompts are rendered, replies cleaned and judged by the functions of the build, so
a share of accepted pairs here is the share of a build's first attempts.

Without an address the build's own vLLM serves `generation.model`, one server for all variants. A share says nothing
about sense: read the pairs that are printed, `--examples 100` for all.
"""

from __future__ import annotations

import argparse
import statistics
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np

from benchmarks.machine import describe
from pipeline.driver.prepare import prepare
from pipeline.generation.completions import Completion, count_tokens
from pipeline.generation.items import RequestBatch
from pipeline.generation.service import close_generation_services, generation_service
from pipeline.io.locks import locked
from pipeline.plan import BuildPlan
from pipeline.reading.text import words
from pipeline.runtime.resources import resources
from pipeline.sampling.pairs import PairShard, load_drafts, render_prompts, sample_directions, validate_pairs
from preference_space.direction import verbalise
from schemas.loader import load_config
from schemas.records import Pair

_CONFIG = Path(__file__).parents[1] / "configs" / "quickstart.yaml"
_PACKAGED = "packaged"
_ONE_ATTEMPT = (
    *("attempts=1", "splits={train: 1, validation: 0, test: 0}", "history={ugc: 1, pair: 1, min_support: 0}"),
    "limits.max_lost_share=1",
)
"""Every request once, whatever became of its reply, and no more posts than pairs."""
_LEAKED_WORDS = 4
"""Consecutive words of the template's own text, its worked example included, that a reply should not have."""


class Variant(NamedTuple):
    """The pairs of one folder of templates, and their outcomes."""

    name: str
    plan: BuildPlan
    asked: PairShard
    batch: RequestBatch


def main() -> None:
    """Ask for all pairs of every variant, and print what the rules made of them."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("templates", nargs="*", default=[_PACKAGED], help=f"folder with reply.j2, or '{_PACKAGED}'")
    parser.add_argument("--config", type=Path, default=_CONFIG, help="posts, dimensions, rules, generation")
    parser.add_argument("--pairs", type=int, default=32, help="pairs of each variant, of two requests each")
    parser.add_argument("--in-flight", type=int, default=24)
    parser.add_argument("--url", help="an OpenAI-compatible endpoint that serves the model, ending in /v1")
    parser.add_argument("--examples", type=int, default=3, help="accepted and rejected pairs printed of each variant")
    parser.add_argument("--output", type=Path, help="keeps the plans and journals of the variants; by default nothing")
    parser.add_argument("--set", action="append", default=[], help="a key of the configuration, as for `everyuser`")
    arguments = parser.parse_args()
    print(describe(), flush=True)
    with tempfile.TemporaryDirectory() as scratch:
        folder, started = arguments.output or Path(scratch), time.monotonic()
        variants: list[Variant] = []
        try:
            # All at once, so that the machine is as busy for one variant as for another.
            for number, name in enumerate(arguments.templates):
                variants.append(ask(name, folder / str(number), arguments))
            tokens = sum(report(variant, arguments.examples) for variant in variants)
        finally:
            for variant in variants:
                close_generation_services(variant.plan)
    seconds = time.monotonic() - started
    print(
        f"\n{tokens} tokens of replies in {seconds:.0f} s, the server's start included: {tokens / seconds:.1f} a second"
    )


def ask(name: str, folder: Path, arguments: argparse.Namespace) -> Variant:
    """Submit a variant's pairs."""
    address = f"{{kind: openai, base_urls: [{arguments.url!r}], in_flight: {arguments.in_flight}}}"
    engine = f"engine={address}" if arguments.url else f"engine.in_flight={arguments.in_flight}"
    templates = "null" if name == _PACKAGED else str(Path(name).resolve())
    own = (f"pairs={arguments.pairs}", f"shard_pairs={arguments.pairs}", f"templates={templates}", engine)
    config = load_config(arguments.config, [*_ONE_ATTEMPT, *own, *arguments.set])
    folder.mkdir(parents=True)
    with locked(folder):
        plan = prepare(config, folder).plan
    (spec,) = plan.shards()
    asked = render_prompts(sample_directions(load_drafts(spec, plan), plan, 0), plan)
    return Variant(name, plan, asked, generation_service(plan).submit(asked.journal, asked.requests()))


def report(variant: Variant, examples: int) -> int:
    """Wait for a variant's replies, print its figures and some of its pairs, and return the tokens of its replies."""
    name, plan, asked, batch = variant
    while not batch.is_done:
        generation_service(plan).wait()
    outcomes = batch.result()
    raw = [outcome.text for outcome in outcomes if isinstance(outcome, Completion)]
    if not raw:
        sys.exit(f"{name}: no request was answered; the first outcome is {outcomes[0]}")
    judged = validate_pairs(asked.with_outcomes(outcomes), plan, last=True)
    pairs, rejections = judged.pairs, judged.rejections
    reasons = ", ".join(f"{n} {reason}" for reason, n in Counter(r.reason for r in rejections).most_common())
    tokens = count_tokens(outcomes)
    drafts = len(asked.drafts)
    print(
        f"\n== {name}: {len(pairs)} of {drafts} accepted ({len(pairs) / drafts:.0%}); rejected: {reasons or 'none'}\n"
        f"   tokens of a pair: {tokens.prompt / drafts:.0f} of prompts, {tokens.completion / drafts:.0f} of replies; "
        f"lead-ins in {sum(map(_has_lead_in, raw))} of {len(raw)} replies"
    )
    if pairs:
        ratios = [max(a, b) / min(a, b) for a, b in ((len(pair.chosen), len(pair.rejected)) for pair in pairs)]
        print(
            f"   words of accepted replies: {_mean_words(p.chosen for p in pairs):.0f} chosen, "
            f"{_mean_words(p.rejected for p in pairs):.0f} rejected; length ratio {statistics.median(ratios):.1f} "
            f"(median); {_leaks(pairs, plan)} pairs have {_LEAKED_WORDS} words in a row of the template's own"
        )
    for pair in pairs[:examples]:
        print(f"-- {pair.post_id}: {_persona(plan, pair)}\n   + {pair.chosen}\n   - {pair.rejected}")
    for rejection in rejections[:examples]:
        print(f"-- {rejection.post_id}, {rejection.reason}: {rejection.detail}")
        print("\n".join(f"   {text!r}" for text in rejection.texts))
    sys.stdout.flush()
    return tokens.completion


def _has_lead_in(text: str) -> bool:
    """Return whether a raw reply begins with a line that ends in a colon, or with words to whoever asked."""
    first = text.strip().partition("\n")[0].rstrip(" *")
    return first.endswith(":") or first.casefold().startswith(("sure", "certainly", "of course, here", "reply:"))


def _mean_words(texts: Iterable[str]) -> float:
    return statistics.mean(len(words(text)) for text in texts)


def _leaks(pairs: Sequence[Pair], plan: BuildPlan) -> int:
    """Return how many pairs have words in a row from the template's own text."""
    empty = {"title": "", "text": "", "topics": []}
    # A trait without texts, since a template without any trait asks for a plain answer.
    trait = dict.fromkeys(("slug", "name", "group", "label", "description", "hint", "service"), "")
    blocks = resources(plan).styled("reply").render(post=empty, traits=[trait])
    own = {gram for text in blocks.values() for gram in _grams(text)}
    return sum(bool(own & (_grams(pair.chosen) | _grams(pair.rejected))) for pair in pairs)


def _grams(text: str) -> set[tuple[str, ...]]:
    found = words(text)
    return set(zip(*(found[start:] for start in range(_LEAKED_WORDS)), strict=False))


def _persona(plan: BuildPlan, pair: Pair) -> str:
    """Return the labels of the persona's poles, the first reply's."""
    return verbalise(resources(plan).space, np.array(pair.direction, dtype=np.int8))


if __name__ == "__main__":
    main()
