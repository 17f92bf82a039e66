"""A whole build as large as AlignX, without a model: `python -m benchmarks.scale OUT`. Prints minutes, memory, bytes.

655,811 sampled pairs, mirrored to 1,311,622 examples, by the command `everyuser build` with the engine `dummy`: every
stage and every rule, but no server, no HTTP client and no journal. Posts are random words, as many and as long as an
AlignX-like build would have, with topics of the space. `OUT` keeps the posts, the build and its output.

A phase ends when its files appear. Memory is sampled four times a second over the build's process and its children.
Each page counts once, shared by the processes that have it (PSS); resident sets are also summed.

`--set verification.mode=filter` adds the judge, whose answers are as random as the replies. `--set persona=users` makes
the same number of pairs of users, by default 8 of each.

With `--profile` a smaller build runs in one process, whose stacks are sampled a hundred times a second. A sample counts
for the outermost function that is a step of the DAG, and within it for the innermost named part. Samples outside all
steps are Beam's and others'.
"""

from __future__ import annotations

import argparse
import contextlib
import gc
import inspect
import json
import logging
import subprocess
import sys
import threading
import time
from collections import defaultdict
from collections.abc import Callable, Sequence
from pathlib import Path
from types import CodeType, FrameType
from typing import Any, NamedTuple

import numpy as np
import orjson
import psutil
import pyarrow.parquet as pq
from pydantic import BaseModel

from benchmarks.machine import busy_seconds, describe
from benchmarks.report import draw_texts
from pipeline.assembly import examples, leaks, portraits
from pipeline.assembly.history import choose_histories
from pipeline.assembly.mirror import mirror
from pipeline.assembly.user_histories import choose_user_histories
from pipeline.assembly.validate import validate_examples
from pipeline.build import Observer, build
from pipeline.driver import finish, prepare
from pipeline.driver.resume import Work
from pipeline.generation import completions, dummy
from pipeline.generation.service import GenerationService
from pipeline.io import shards, storage
from pipeline.plan import BuildPlan
from pipeline.quality import rules as validate
from pipeline.questions.choices import Questionnaire
from pipeline.sampling import pairs
from pipeline.sampling import posts as seeds
from pipeline.verification.ask import ask_judge
from pipeline.verification.findings import read_findings
from pipeline.verification.judging import judge_claims
from preference_space.space import PreferenceSpace, load_space
from prompts.renderer import Template
from schemas.arrow import to_table
from schemas.loader import load_config

_PAIRS = 655_811
_PROFILED_PAIRS = 20_000
_PAIRS_PER_USER = 8
_POSTS = 100_000
_WORDS = 60
"""Words of a post, on average, besides its title."""
_TITLE_WORDS = 9
_CONFIG, _FOLDER, _LOG = "scale.yaml", "build", "build.log"

_MEMORY_SECONDS = 0.25
_STACK_SECONDS = 0.01
_SWITCH_SECONDS = 1e-6
"""How long a thread may keep the interpreter. With Python's 5 ms, and even with half of one, samples pile up where the
working thread gives it up by itself: parsing posts looked like reading their file."""
_LINES = 20

_STEPS: dict[str, Sequence[Callable[..., Any]]] = {
    "prepare": [prepare.prepare],
    "open": [pairs.load_drafts],
    "sample": [pairs.sample_directions],
    "render": [pairs.render_prompts],
    "generate (dummy)": [GenerationService.submit],
    "validate": [pairs.validate_pairs],
    "ask the judge": [ask_judge],
    "verify": [judge_claims, pairs.settle_pairs],
    "store pairs": [pairs.store_pairs],
    "losses": [finish.count_rows, finish.check_losses],
    "shared replies": [leaks.find_shared_replies],
    "assemble": [examples.assemble],
    "portraits": [portraits.write_portraits],
    "mirror": [mirror],
    "validate examples": [validate_examples],
    "store examples": [examples.store_examples],
    "finish": [finish.complete_manifest],
}
"""The steps of the DAG, and of the driver, in their order."""
_REST, _GARBAGE = "Beam and rest", "collecting garbage"

_PARTS: dict[str, Sequence[Callable[..., Any]]] = {
    "records (Pydantic)": [BaseModel.__init__, BaseModel.model_validate, BaseModel.model_dump],
    "seed posts": [seeds.read_posts, seeds.split_posts],
    "traits": [PreferenceSpace.traits],
    "templates": [Template.render, Template.render_block],
    "requests": [completions.make_request],
    "replies": [dummy.complete],
    "questions": [Questionnaire.requests],
    "answers": [read_findings],
    "rules": [validate.check_reply, validate.check_pair],
    "read": [shards.read_shard, shards.read_groups],
    "histories": [choose_histories, choose_user_histories],
    "tables (Arrow)": [to_table],
    "Parquet, zstd": [shards._write],
    "hash, sync": [shards.staged_shard, storage.atomic],
}
"""Parts of steps."""


class Moment(NamedTuple):
    """Memory of a build's processes, largest first, in bytes."""

    when: float
    pss: list[int]
    rss: int


class Watch:
    """Memory and processor time of a process and all its children, while it runs."""

    def __init__(self, pid: int) -> None:
        self.moments: list[Moment] = []
        self._pid = pid
        self._processor: dict[int, float] = {}

    @property
    def processor_seconds(self) -> float:
        """Return processor seconds of all processes that were seen."""
        return sum(self._processor.values())

    def look(self) -> None:
        """Record memory and processor time of one moment."""
        with contextlib.suppress(psutil.Error):
            root = psutil.Process(self._pid)
            pss, rss = [], 0
            for process in (root, *root.children(recursive=True)):
                with contextlib.suppress(psutil.Error):
                    memory, used = process.memory_full_info(), process.cpu_times()
                    pss.append(getattr(memory, "pss", memory.rss))
                    rss += memory.rss
                    self._processor[process.pid] = used.user + used.system
            self.moments.append(Moment(time.time(), sorted(pss, reverse=True), rss))

    def peak(self, begin: float, end: float) -> Moment:
        """Return the moment with the most memory in a span of time."""
        inside = [moment for moment in self.moments if begin <= moment.when <= end]
        return max(inside, key=lambda moment: sum(moment.pss), default=Moment(begin, [], 0))


class Phase(NamedTuple):
    """A part of a build, in seconds since the epoch."""

    name: str
    begin: float
    end: float

    @property
    def seconds(self) -> float:
        """Return its seconds."""
        return self.end - self.begin


def main() -> None:
    """Build, and print the figures."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("output", metavar="OUT", type=Path, help="folder for posts and build")
    parser.add_argument("--pairs", type=int, help=f"by default {_PAIRS}, with --profile {_PROFILED_PAIRS}")
    parser.add_argument("--posts", type=int, default=_POSTS, help="distinct posts")
    parser.add_argument("--workers", type=int, default=2, help="worker processes; 1: the build's own")
    parser.add_argument("--set", action="append", default=[], help="a key of the configuration, as for `everyuser`")
    parser.add_argument("--profile", action="store_true", help="print where the time goes, in one process")
    parser.add_argument("--child", action="store_true", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.child:
        profile(arguments.output, arguments.set)
        return
    if (arguments.output / _FOLDER).exists():
        parser.error(f"{arguments.output / _FOLDER} exists already; the times of a resumed build mean nothing")
    print(describe())
    number = arguments.pairs or (_PROFILED_PAIRS if arguments.profile else _PAIRS)
    lay_out(arguments.output, number, arguments.posts, arguments.set)
    if arguments.profile:
        sets = [part for override in arguments.set for part in ("--set", override)]
        command = [sys.executable, "-m", "benchmarks.scale", str(arguments.output), "--child", *sets]
        # In a session of its own, it does not report Ctrl-C a second time.
        sys.exit(subprocess.run(command, check=False, start_new_session=True).returncode)
    run(arguments.output, arguments.workers, arguments.set)


def lay_out(output: Path, number: int, posts: int, overrides: Sequence[str]) -> None:
    """Write posts and configuration: for `number` pairs, or for the users who have as many."""
    output.mkdir(parents=True, exist_ok=True)
    rng = np.random.default_rng(0)
    topical = np.array([dimension.slug for dimension in load_space("alignx").dimensions if dimension.topical])
    titles, texts = draw_texts(rng, posts, _TITLE_WORDS, 2), draw_texts(rng, posts, _WORDS, _WORDS / 3)
    with (output / "posts.jsonl").open("wb") as file:
        for title, text in zip(titles, texts, strict=True):
            topics = rng.choice(topical, rng.integers(1, 4), replace=False)
            file.write(orjson.dumps({"title": title, "text": text, "topics": topics.tolist()}) + b"\n")
    users = {"users": {"count": number // _PAIRS_PER_USER, "pairs_per_user": _PAIRS_PER_USER}}
    config: dict[str, Any] = {
        "name": "scale",
        **(users if "persona=users" in overrides else {"pairs": number}),
        "seeds": {"path": "posts.jsonl"},
        "engine": {"kind": "dummy"},
        "generation": {"model": "dummy"},
    }
    (output / _CONFIG).write_text(json.dumps(config))
    made = load_config(output / _CONFIG, overrides)
    pairs = f"{made.sampled_pairs} pairs" + (f" of {made.users.count} users" if made.users else "")
    words = sum(len(text.split()) for text in (*titles, *texts)) / posts
    print(f"{pairs} about {posts} posts of {words:.0f} words on average, title included", flush=True)


def run(output: Path, workers: int, overrides: Sequence[str]) -> None:
    """Build by the command, watch it, and print time and memory."""
    beam = ["--", "--direct_running_mode=multi_processing", f"--direct_num_workers={workers}"] if workers > 1 else []
    sets = [part for override in overrides for part in ("--set", override)]
    given = ["build", str(output / _CONFIG), "--output", str(output / _FOLDER), *sets, *beam]
    print(f"runs: everyuser {' '.join(given)}", flush=True)
    others = busy_seconds()
    with (output / _LOG).open("wb") as log:
        begin = time.time()
        command = [sys.executable, "-m", "pipeline.cli", *given]
        with subprocess.Popen(command, stdout=log, stderr=subprocess.STDOUT) as process:
            watch = Watch(process.pid)
            while process.poll() is None:
                watch.look()
                time.sleep(_MEMORY_SECONDS)
        end = time.time()
    others = (busy_seconds() - others - watch.processor_seconds) / (end - begin)
    if process.returncode:
        sys.exit(f"the build failed:\n{(output / _LOG).read_text(errors='replace')[-4000:]}")
    folder = output / _FOLDER
    counts = json.loads((folder / "manifest.json").read_text())["counts"]
    rows = sum(pq.read_metadata(path).num_rows for path in (folder / "data").iterdir())
    if rows != counts["examples"]:
        sys.exit(f"the shards hold {rows} examples, the manifest says {counts['examples']}")
    print(
        f"{rows} examples of {counts['pairs_asked']} pairs asked for, {counts['pairs_accepted']} accepted; "
        f"rejected: {', '.join(f'{number} {reason}' for reason, number in counts['rejected'].items()) or 'none'}"
    )
    print(f"{watch.processor_seconds:.0f} s of processor time; other work: {others:.2f} cores\n")
    print(
        "\n".join([*_phase_table(phases(folder, begin, end), watch, counts, workers), "", *_folder_table(folder, rows)])
    )


def phases(folder: Path, begin: float, end: float) -> list[Phase]:
    """Return when each phase ended. Templates are written after the checks, shared replies between the phases."""
    ends = [
        _latest(folder / "templates"),
        _latest(folder / "pool", ".parquet"),
        (folder / "pool" / "shared_replies.json").stat().st_mtime,
        _latest(folder / "data"),
        end,
    ]
    names = ("start", "pairs", "between", "examples", "finish")
    return [Phase(name, *edges) for name, *edges in zip(names, [begin, *ends], ends, strict=False)]


def _latest(folder: Path, suffix: str = "") -> float:
    return max(path.stat().st_mtime for path in folder.iterdir() if path.name.endswith(suffix))


def _phase_table(found: Sequence[Phase], watch: Watch, counts: dict[str, Any], workers: int) -> list[str]:
    lines = [
        "| phase | minutes | pairs/s | examples/s | peak memory (PSS) | resident sets |",
        "|---|---|---|---|---|---|",
    ]
    whole = Phase(f"all, {workers} worker{'s' * (workers != 1)}", found[0].begin, found[-1].end)
    for phase in (*found, whole):
        pairs_done = counts["pairs_asked"] if phase.name in ("pairs", "examples", whole.name) else 0
        rows = counts["examples"] if phase.name in ("examples", whole.name) else 0
        peak = watch.peak(phase.begin, phase.end)
        each = ", ".join(_mib(pss) for pss in peak.pss if pss > 1 << 20)
        memory = f"{_mib(sum(peak.pss))} MiB" + (f" ({each})" if phase is whole and len(peak.pss) > 1 else "")
        speeds = (f"{number / phase.seconds:,.0f}" if number else "" for number in (pairs_done, rows))
        lines.append(
            f"| {' | '.join([phase.name, f'{phase.seconds / 60:.2f}', *speeds, memory, _mib(peak.rss) + ' MiB'])} |"
        )
    return lines


def _folder_table(folder: Path, rows: int) -> list[str]:
    sizes: dict[str, list[int]] = {}
    for path in folder.rglob("*"):
        if path.is_file():
            sizes.setdefault(path.relative_to(folder).parent.as_posix(), []).append(path.stat().st_size)
    table = [(f"`{name}`", found) for name, found in sorted(sizes.items())]
    table.append(("all", [size for found in sizes.values() for size in found]))
    lines = ["| folder | files | MiB | bytes an example |", "|---|---|---|---|"]
    return [*lines, *(f"| {name} | {len(of)} | {sum(of) / 2**20:,.1f} | {sum(of) / rows:.0f} |" for name, of in table)]


def _mib(size: int) -> str:
    return f"{size / 2**20:,.0f}"


class Stacks(Observer):
    """A sampling profiler of all threads: seconds by phase, step and part, and by line of our own code.

    Collecting garbage is a part of whatever set it off.
    """

    def __init__(self) -> None:
        self.seconds: dict[tuple[str, str, str], float] = defaultdict(float)
        self.lines: dict[tuple[str, str], float] = defaultdict(float)
        self._phase = "start"
        self._steps, self._parts = _by_code(_STEPS), _by_code({**_PARTS, _GARBAGE: [self._mark]})
        self._root = f"{Path(__file__).parents[1]}/"
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._watch, daemon=True)

    def __enter__(self) -> Stacks:
        gc.callbacks.append(self._mark)
        self._thread.start()
        return self

    def __exit__(self, *error: object) -> None:
        self._over.set()
        self._thread.join()
        gc.callbacks.remove(self._mark)

    def phase_begins(self, name: str, plan: BuildPlan, work: Work) -> None:
        """Take the phase's name."""
        self._phase = name

    def phase_ends(self) -> None:
        """Attribute what follows to the driver."""
        self._phase = "between" if self._phase == "pairs" else "finish"

    def _mark(self, moment: str, facts: dict[str, int]) -> None:
        """Run before and after a garbage collection, which has no frame: a delayed sample belongs to it."""

    def _watch(self) -> None:
        last = time.perf_counter()
        while not self._over.wait(_STACK_SECONDS):
            stacks = [
                self._place(frame) for thread, frame in sys._current_frames().items() if thread != self._thread.ident
            ]
            now = time.perf_counter()
            working = [(step, part, line) for step, part, line in stacks if step]
            # A thread outside all steps waits, or is Beam's.
            for step, part, line in working or [(_REST, "", ("", ""))]:
                self.seconds[self._phase, step, part] += (now - last) / max(1, len(working))
                self.lines[line] += (now - last) / max(1, len(working))
            last = now

    def _place(self, frame: FrameType | None) -> tuple[str, str, tuple[str, str]]:
        """Return a thread's outermost step, innermost part and innermost line of our code."""
        step = part = ""
        line = ("", "")
        while frame:
            code = frame.f_code
            step = self._steps.get(code, step)
            part = part or self._parts.get(code, "")
            if part == _GARBAGE:
                line = (_GARBAGE, "")
            if not line[0] and code.co_filename.startswith(self._root):
                line = (f"{code.co_filename.removeprefix(self._root)}:{frame.f_lineno}", code.co_qualname)
            frame = frame.f_back
        return step, part, line


def _by_code(named: dict[str, Sequence[Callable[..., Any]]]) -> dict[CodeType, str]:
    """Return the name of each function, method, property or context manager by its code, as frames show it."""
    found: dict[CodeType, str] = {}
    for name, functions in named.items():
        for function in functions:
            plain: Any = inspect.unwrap(getattr(function, "fget", function))
            found[plain.__code__] = name
    return found


def profile(output: Path, overrides: Sequence[str]) -> None:
    """Build once in a separate process with sampled stacks, and print the shares."""
    logging.getLogger().setLevel(logging.CRITICAL)
    sys.setswitchinterval(_SWITCH_SECONDS)
    config = load_config(output / _CONFIG, overrides)
    with Stacks() as stacks:
        manifest = build(config, output / _FOLDER, observer=stacks)
    whole, number = sum(stacks.seconds.values()), manifest.counts.pairs_asked
    print(f"{manifest.counts.examples} examples of {number} pairs in {whole:.1f} s, imports left out\n")
    print("| phase | step | part | seconds | us a pair | share |\n|---|---|---|---|---|---|")
    order = [*_STEPS, _REST]
    for phase in ("start", "pairs", "between", "examples", "finish"):
        spent = {key[1:]: seconds for key, seconds in stacks.seconds.items() if key[0] == phase}
        _print_row([f"**{phase}**", "", ""], sum(spent.values()), number, whole)
        for step in sorted({step for step, _ in spent}, key=order.index):
            parts = {part: seconds for (of, part), seconds in spent.items() if of == step}
            _print_row(["", step, ""], sum(parts.values()), number, whole)
            for part, seconds in sorted(parts.items(), key=lambda entry: -entry[1]):
                if len(parts) > 1:
                    _print_row(["", "", part or "its own"], seconds, number, whole)
    print("\n| line | function | seconds | us a pair | share |\n|---|---|---|---|---|")
    hottest = sorted(stacks.lines.items(), key=lambda entry: -entry[1])
    for (line, function), seconds in hottest[: _LINES + 1]:
        if line:
            _print_row([line, function], seconds, number, whole)


def _print_row(cells: Sequence[str], seconds: float, number: int, whole: float) -> None:
    print(f"| {' | '.join([*cells, f'{seconds:.2f}', f'{1e6 * seconds / number:.0f}', f'{seconds / whole:.1%}'])} |")


if __name__ == "__main__":
    main()
