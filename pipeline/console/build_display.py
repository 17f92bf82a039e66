"""What a build prints: its phases as they go, and a summary."""

from __future__ import annotations

import shlex
from collections import Counter
from collections.abc import Mapping, Sequence

from pipeline.build import Observer
from pipeline.console.display import Display
from pipeline.console.phases import Building, Gathering
from pipeline.console.times import time_lines
from pipeline.driver.losses import remedy_for, summarise_rejections
from pipeline.driver.resume import Work
from pipeline.io.manifests import MANIFEST
from pipeline.io.storage import AnyPath, is_local
from pipeline.plan import BuildPlan
from pipeline.sampling.assignment import count_restraint_pairs
from schemas.config import BuildConfig
from schemas.loader import validate
from schemas.manifest import Counts, Manifest
from schemas.terminal import say


class BuildDisplay(Display, Observer):
    """Shows one phase of a build after another."""

    def prepared(self, plan: BuildPlan, dropped: Mapping[str, int], is_recovered: bool) -> None:
        """Print which posts were dropped, and where the build goes."""
        if is_recovered:
            self.notice("manifest.json was missing or damaged and is written again; the list of earlier runs is lost")
        for reason, number in sorted(dropped.items()):
            self.notice(f"seeds: {number} posts dropped ({reason})")
        self.notice(f"building into {plan.output}")

    def gathering_begins(self, name: str, plan: BuildPlan, steps: int) -> None:
        """Begin to follow the reading or the joining of threads."""
        if steps:
            self.follow(Gathering(name, plan, steps))

    def gathered(self, counts: Mapping[str, int], first_unreadable: str) -> None:
        """Print how many threads are used, and what was dropped."""
        self.notice(
            f"threads: {counts.get('threads/used', 0)} used, of {counts.get('posts/read', 0)} posts and "
            f"{counts.get('responses/read', 0)} responses read"
        )
        for reason, number in sorted(counts.items(), key=lambda entry: -entry[1]):
            if "/" in reason and reason.split("/")[1] not in ("read", "used"):
                self.notice(f"  dropped {number:>7}  {reason}")
        if first_unreadable:
            self.notice(f"left out, the first row that cannot be read: {first_unreadable}")

    def phase_begins(self, name: str, plan: BuildPlan, work: Work) -> None:
        """Print what earlier runs have built, and begin to follow the rest."""
        done, todo, lost = work
        if lost:
            self.notice(f"{name}: asking again for {lost} rows lost to timeouts and server errors")
        if done:
            self.notice(f"{name}: {len(done)} of {len(done) + len(todo)} shards are there already")
        if todo:
            if name == "pairs":
                pairs = sum(spec.count for spec in todo)
                self.notice(f"pairs: {pairs} to build in {len(todo)} shards; at most {len(todo)} workers share them")
            self.follow(Building(name, plan, todo))

    def phase_ends(self) -> None:
        """Stop following."""
        self.stop()

    def summary(self, manifest: Manifest, folder: AnyPath, config: str) -> None:
        """Print what the configuration at `config` has built, where, and how to load it."""
        counts = manifest.counts
        attempts = counts.pairs_accepted + sum(
            number
            for reason, number in counts.rejected.items()
            if not reason.startswith(("annotate", "assemble", "portrait"))
        )
        splits: Counter[str] = Counter()
        for entry in manifest.files:
            splits[entry.path.rpartition("/")[2].split("-")[0]] += entry.rows
        self.notice(
            f" {counts.examples} examples ({', '.join(f'{split} {rows}' for split, rows in splits.items())}) "
            f"from {counts.pairs_accepted} pairs; {counts.pairs_accepted} of {attempts} attempts accepted",
            "built",
            "bold green",
        )
        built = validate(BuildConfig, manifest.config, MANIFEST)
        asked = 2 * counts.pairs_asked - count_restraint_pairs(built) if built.mirror else counts.pairs_asked
        if shortfall := asked - counts.examples:
            why = f"{summarise_rejections(folder, counts.rejected)}; {remedy_for(counts.rejected)}"
            self.notice(f" {shortfall} of {asked} examples are missing: {why}", "short", "yellow")
        for reason, number in sorted(counts.rejected.items(), key=lambda entry: -entry[1]):
            self.notice(f"  rejected {number:>6}  {reason}")
        if counts.cleaned:
            steps = sorted(counts.cleaned.items(), key=lambda entry: -entry[1])
            self.notice(f"  texts cleaned before they were judged: {', '.join(f'{name} {n}' for name, n in steps)}")
        if counts.verification.pairs:
            self.notice(f"  {_verified(manifest)}")
        if counts.kinds.keys() & {"near", "restraint"}:
            self.notice(f"  pairs by kind: {_kinds(counts)}")
        if unanswered := _unanswered(counts):
            command = f"everyuser build {shlex.quote(config)} -o {shlex.quote(str(folder))} --retry-lost"
            lost = f"{unanswered} lost to timeouts and server errors"
            self.notice(f"  {lost}; to ask again: {command}", "open", "yellow")
        seconds = sum(run.seconds for run in manifest.runs)
        spent = f"{counts.prompt_tokens} prompt and {counts.completion_tokens} completion tokens"
        reasoned = f" ({counts.reasoning_tokens} of them reasoning)" if counts.reasoning_tokens else ""
        self.notice(f"  {spent}{reasoned} in all attempts, {seconds:.0f} s")
        if any(run.cost is not None for run in manifest.runs):
            money = sum(run.cost or 0.0 for run in manifest.runs)
            self.notice(f"  {built.prices[0].currency if built.prices else ''} {money:.4g} for all runs")
        if manifest.runs and manifest.runs[-1].requests_sent:
            run = manifest.runs[-1]
            self.notice(
                f"  last run: {run.requests_sent} requests sent, {run.in_flight:g} in flight on average, "
                f"{run.queue_seconds:g} s in the queue and {run.request_seconds:g} s at the model each; "
                f"{run.server_restarts} server restarts"
            )
        for line in time_lines(manifest.runs[-1].time if manifest.runs else {}):
            self.notice(f"  {line}")
        # Lines to copy are never wrapped.
        for line in (
            f"in    {folder}",
            f"look  everyuser inspect {folder}",
            f"load  {_loading(folder, [split for split, rows in splits.items() if rows])}",
        ):
            say(self._console, line)


def _unanswered(counts: Counts) -> str:
    numbers = {"pairs": counts.pairs_unanswered, "responses": counts.threads.get("responses/unanswered", 0)}
    return " and ".join(f"{number} {name}" for name, number in numbers.items() if number)


def _verified(manifest: Manifest) -> str:
    """Return what the judge found: of all pairs before filtering, then of the accepted ones."""
    found, settings = manifest.counts.verification, manifest.config["verification"]
    judge = settings["model"] or manifest.config["generation"]["model"]
    parts = [
        f"{judge} recovered {found.recovered / found.asked:.0%} of {found.asked} dimensions of {found.pairs} pairs",
        f"{found.neutral} dimensions of accepted pairs made neutral",
    ]
    if found.drift_asked:
        parts.append(f"{found.drifted / found.drift_asked:.0%} of {found.drift_asked} others differ")
    return "; ".join(parts)


def _kinds(counts: Counts) -> str:
    """Return the accepted pairs of each kind, and what the judge recovered of it before filtering."""
    parts = []
    for kind, number in counts.kinds.items():
        found = counts.verification_by_kind.get(kind)
        share = (
            f" ({found.recovered / found.asked:.0%} of {found.asked} dimensions recovered)"
            if found and found.asked
            else ""
        )
        parts.append(f"{kind} {number}{share}")
    return ", ".join(parts)


def _loading(folder: AnyPath, splits: Sequence[str]) -> str:
    """Return the call that loads the splits that have rows; one without a row cannot be opened.

    `load_dataset` reads no card in an object store, so there the call names the files.
    """
    if is_local(folder):
        return f'datasets.load_dataset("{folder}")'
    files = ", ".join(f'"{split}": "{folder}/data/{split}-*.parquet"' for split in splits)
    return f'datasets.load_dataset("parquet", data_files={{{files}}})'
