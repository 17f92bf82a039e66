"""Ways to ask a judge, compared with people: `python -m benchmarks.judges BUILD LABELS... --url URL [options]`.

The judge is asked about the questions of a build that people answered on the page of `everyuser review`, once for each
folder of templates (`annotate.j2`; `packaged` names the project's own) and each number of option orders. Agreement is
the share of equal answers where the person names a reply and the margin is not zero; AUC is the chance that a margin is
larger where the person found more of the positive pole, over the questions that the judge answered. A prompt token is
computed unless the server's prefix cache holds it, as the `/metrics` of vLLM tell.
"""

from __future__ import annotations

import argparse
import dataclasses
import tempfile
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from benchmarks.machine import describe
from benchmarks.model_server import read_metrics
from pipeline.generation.service import close_generation_services, generation_service
from pipeline.plan import BuildPlan, ShardSpec
from pipeline.report.judging.second_judge import judge_plan
from pipeline.report.source import Build, open_build
from pipeline.review import statistics
from pipeline.review.blind_sample import Drawn
from pipeline.review.labels import read_all_labels
from pipeline.review.score import Label, join_labels
from pipeline.runtime.inputs import write_inputs
from pipeline.verification.ask import Claim, VerifyShard, ask_judge
from pipeline.verification.judging import judge_claims
from prompts.renderer import load_templates
from schemas.records import Pair, SeedPost

_PACKAGED = "packaged"


class Variant(NamedTuple):
    """A way to ask: a folder of templates, and the number of option orders."""

    templates: str
    orders: int


def main() -> None:
    """Ask in every way, and print agreement and cost of each."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("build", metavar="BUILD", type=Path, help="folder of a finished build")
    parser.add_argument("labels", metavar="LABELS", type=Path, nargs="+", help="file that the review page exported")
    parser.add_argument("--url", required=True, help="an OpenAI-compatible endpoint that serves the judge")
    parser.add_argument("--templates", nargs="+", default=[_PACKAGED], help=f"folders, or '{_PACKAGED}'")
    parser.add_argument("--orders", type=int, nargs="+", default=[3, 1])
    parser.add_argument("--in-flight", type=int, default=24)
    parser.add_argument("--output", type=Path, help="keeps the answers; the same command then asks for the rest alone")
    parser.add_argument("--set", action="append", default=[], help="a key of `verification` or `requests`")
    arguments = parser.parse_args()
    print(describe(), flush=True)
    build = open_build(arguments.build)
    joined = join_labels(build, read_all_labels(arguments.labels))
    labels = [label for found in joined.values() for label in found.labels if label.level]
    engine = f"verification.engine={{kind: openai, base_urls: [{arguments.url!r}], in_flight: {arguments.in_flight}}}"
    # Nothing is asked but what the person was asked.
    only = ["verification.drift_dimensions=0", "verification.quality=false"]
    print("| templates | orders | agreement | kappa | AUC | no margin | prompt tokens a pair | computed | seconds |")
    print("|---|---|---|---|---|---|---|---|---|")
    with tempfile.TemporaryDirectory() as scratch:
        folder = arguments.output or Path(scratch)
        for templates in arguments.templates:
            for orders in arguments.orders:
                overrides = [engine, *only, f"verification.orders={orders}", *arguments.set]
                output = folder / f"{Path(templates).name}-{orders}"
                plan = make_plan(build, overrides, templates, output)
                print(f"| {templates} | {orders} | {compare(plan, labels, arguments.url)} |", flush=True)


def make_plan(build: Build, overrides: Sequence[str], templates: str, output: Path) -> BuildPlan:
    """Return a plan that has the judge alone, with these templates, in a folder of its own."""
    found = load_templates(None if templates == _PACKAGED else Path(templates))
    write_inputs(output, build.space, found)
    hashes = {"space": build.space.fingerprint, **{name: each.fingerprint for name, each in found.items()}}
    return dataclasses.replace(judge_plan(build, overrides), output=output, hashes=hashes)


def compare(plan: BuildPlan, labels: Sequence[Label], url: str) -> str:
    """Ask about the labelled questions, and return the cells of agreement and cost."""
    claims = list(make_claims(labels, plan))
    service, before, begin = generation_service(plan, "verification"), read_metrics(url), time.monotonic()
    try:
        batches = [service.submit("answers", claim.requests) for claim in claims]
        while not all(batch.is_done for batch in batches):
            service.wait()
        service.finish("answers")
    finally:
        close_generation_services(plan)
    seconds, after = time.monotonic() - begin, read_metrics(url)
    answered = [
        dataclasses.replace(claim, outcomes=tuple(b.result())) for claim, b in zip(claims, batches, strict=True)
    ]
    judged = judge_claims(answered, plan)
    margins_of = {verdict.pair.pair_id: verdict.pair.direction_margin for verdict in judged.verdicts}
    margins = np.array(
        [margins_of[label.question.pair.name][label.question.dimension] for label in labels], dtype=np.float64
    )
    hits = "vllm:prefix_cache_hits_total"
    sent = judged.tokens.prompt
    computed = f"{(sent - after[hits] + before[hits]) / len(claims):,.0f}" if hits in before else "unknown"
    cost = f"{sent / len(claims):,.0f} | {computed} | {seconds:,.0f}"
    return f"{agreement(labels, margins)} | {cost}"


def make_claims(labels: Sequence[Label], plan: BuildPlan) -> Iterator[Claim]:
    """Yield the labelled pairs with the requests about their labelled dimensions."""
    pairs: dict[Drawn, list[int]] = {}
    for label in labels:
        pairs.setdefault(label.question.pair, []).append(label.question.dimension)
    for index, (drawn, dimensions) in enumerate(pairs.items()):
        direction = [level if d in dimensions else 0 for d, level in enumerate(drawn.asked)]
        pair = Pair(
            pair_id=drawn.name,
            post_id=drawn.post_id,
            prompt=drawn.prompt,
            chosen=drawn.chosen,
            rejected=drawn.rejected,
            direction=tuple(direction),
            topics=(),
            source="sampled",
            model="",
            attempt=0,
            prompt_tokens=0,
            completion_tokens=0,
        )
        claim = Claim(index, SeedPost(id=drawn.post_id, text=drawn.prompt), pair)
        yield ask_judge(VerifyShard(ShardSpec("test", 0, 1, 0, 1), [claim], None), plan, 0).claims[0]


def agreement(labels: Sequence[Label], margins: npt.NDArray[np.float64]) -> str:
    """Return agreement and kappa with their intervals, AUC, and the share of questions without a margin."""
    levels = np.array([label.level for label in labels])
    posts = [label.question.pair.post_id for label in labels]
    signs = np.nan_to_num(np.sign(margins)).astype(int)
    counts = statistics.decided(statistics.tables(posts, levels.tolist(), signs.tolist()))
    share, kappa = statistics.share(counts), statistics.bootstrap(counts, statistics.kappa)
    is_answered = ~np.isnan(margins)
    positive, negative = margins[is_answered & (levels > 0)], margins[is_answered & (levels < 0)]
    wins = (positive[:, None] > negative).mean() + (positive[:, None] == negative).mean() / 2
    cells = [f"{each.value:.2f} ({each.low:.2f} to {each.high:.2f})" if each else "" for each in (share, kappa)]
    return " | ".join([*cells, f"{wins:.2f}", f"{np.mean(signs == 0):.0%}"])


if __name__ == "__main__":
    main()
