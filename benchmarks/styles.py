"""Both styles side by side: `python -m benchmarks.styles [--config FILE] [--set KEY=VALUE]... [--output FOLDER]`.

One post and one person give four replies: those of `style: peer` and those of `style: assistant`, each for the person
and for the opposite one. Prompts are rendered, and replies cleaned and judged, by the functions of the build; a refused
pair gets another attempt. Any engine of a configuration will do. The output folder keeps the journals, so the same
command prints the same replies again without a model.
"""

from __future__ import annotations

import argparse
import textwrap
from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np

from benchmarks.machine import describe
from pipeline.driver.prepare import prepare
from pipeline.generation.service import close_generation_services, generation_service
from pipeline.io.locks import locked
from pipeline.plan import BuildPlan
from pipeline.runtime.resources import resources
from pipeline.sampling.pairs import load_drafts, render_prompts, validate_pairs
from pipeline.sampling.posts import read_posts
from preference_space.direction import Direction, verbalise
from preference_space.space import PreferenceSpace
from schemas.base import UserError
from schemas.config import BuildConfig
from schemas.loader import load_config
from schemas.records import Pair, SeedPost

_CONFIG = Path(__file__).parents[1] / "configs" / "quickstart.yaml"
_ONE_PAIR = (
    *("pairs=1", "shard_pairs=1", "splits={train: 1, validation: 0, test: 0}", "mining=null"),
    *("history={ugc: 0, pair: 0, min_support: 0}", "verification.mode=off", "persona=matched", "users=null"),
    "kinds={near: 0, restraint: 0}",
)
_PERSON = ("extraversion=-1", "conscientiousness=1")
_WIDTH = 118


def main() -> None:
    """Ask for the four replies, and print them."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--config", type=Path, default=_CONFIG, help="posts, space, rules, generation, engine")
    parser.add_argument("--post", default="dilemma-14", help="id of a post of `seeds`")
    parser.add_argument("--person", nargs="+", default=_PERSON, metavar="SLUG=LEVEL", help="levels are 1 and -1")
    parser.add_argument("--output", type=Path, default=Path("out/styles"), help="keeps plans and journals")
    parser.add_argument("--set", action="append", default=[], help="a key of the configuration, as for `everyuser`")
    arguments = parser.parse_args()
    print(describe(), flush=True)
    plans: list[BuildPlan] = []
    try:
        for style in ("peer", "assistant"):
            config = load_config(arguments.config, [*_ONE_PAIR, *arguments.set, f"style={style}"])
            with locked(arguments.output / style):
                plans.append(prepare(config, arguments.output / style).plan)
        space, post = resources(plans[0]).space, find_post(plans[0].config, arguments.post)
        person = parse_person(arguments.person, space)
        show("post", f"{post.title} {post.text}")
        show("person", verbalise(space, person))
        for plan in plans:
            pair = ask(plan, post, person)
            show(f"{plan.config.style}, chosen", pair.chosen)
            show(f"{plan.config.style}, rejected", pair.rejected)
    finally:
        for plan in plans:
            close_generation_services(plan)


def find_post(config: BuildConfig, identity: str) -> SeedPost:
    """Return a post of the configuration's seeds."""
    for post in read_posts(config.seeds, Counter(), config.limits.max_unreadable_share):
        if post.id == identity:
            return post
    raise UserError(f"--post {identity}: {config.seeds.path} has no such post")


def parse_person(levels: Sequence[str], space: PreferenceSpace) -> Direction:
    """Return the direction of levels such as `openness=-1`."""
    person = np.zeros(len(space), dtype=np.int8)
    for slug, _, level in (each.partition("=") for each in levels):
        space.require(slug, "--person")
        if level not in ("1", "-1"):
            raise UserError(f"--person {slug}={level}: the level is not 1 or -1")
        person[space.index[slug]] = int(level)
    return person


def ask(plan: BuildPlan, post: SeedPost, person: Direction) -> Pair:
    """Return the first pair that the rules accept."""
    service, shard = generation_service(plan), load_drafts(plan.shards()[0], plan)
    for attempt in range(plan.config.attempts):
        draft = replace(shard.drafts[0], post=post, traits=person, direction=person, attempt=attempt)
        asked = render_prompts(replace(shard, drafts=[draft]), plan)
        batch = service.submit(asked.journal, asked.requests())
        while not batch.is_done:
            service.wait()
        judged = validate_pairs(asked.with_outcomes(batch.result()), plan, last=True)
        if judged.pairs:
            return judged.pairs[0]
        print(f"attempt {attempt} is refused: {judged.rejections[0].reason}: {judged.rejections[0].detail}", flush=True)
    raise UserError(f"style {plan.config.style}: none of {plan.config.attempts} attempts is accepted; raise attempts")


def show(name: str, text: str) -> None:
    """Print a text beside its name."""
    lines = textwrap.wrap(text, _WIDTH - 21)
    print("\n".join(f"{name if k == 0 else '':<20} {line}" for k, line in enumerate(lines)), flush=True)


if __name__ == "__main__":
    main()
