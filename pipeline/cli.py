"""The command line: `everyuser plan | build | status | inspect | check | report | review | publish | space`.

Exit codes: 0 done, 1 failed, 2 wrong usage, 3 stopped by the budget, 130 stopped.
"""

from __future__ import annotations

import contextlib
import importlib.metadata
import importlib.util
import json
import logging
import os
import threading
import traceback
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.text import Text

from pipeline.report.settings import JudgeSettings, ReportSettings
from pipeline.runtime import logs
from pipeline.runtime.exits import end_process
from schemas import SCHEMA_VERSION
from schemas.base import BudgetError, UsageError, UserError
from schemas.config import PublishConfig, SamplingConfig
from schemas.loader import load_config, validate
from schemas.review import ReviewSettings
from schemas.terminal import Terminal, say, say_error

if TYPE_CHECKING:
    from pipeline.driver.quickstart import Quickstart

app = typer.Typer(
    help="Build personalised preference datasets.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
)
space_app = typer.Typer(help="Look at a preference space.", no_args_is_help=True)
app.add_typer(space_app, name="space")

# Defaults of the options.
_REPORT, _JUDGE, _REVIEW = ReportSettings(), JudgeSettings(), ReviewSettings()
_PUBLISH = PublishConfig(repo_id="owner/name")

out = Terminal()
err = Terminal(stderr=True)

Debug = Annotated[bool, typer.Option("--debug", help="Show tracebacks, each retry, and the runner's log.")]
Verbose = Annotated[bool, typer.Option("--verbose", help="Show each shard stored and each file uploaded.")]


def _print_version(is_asked: bool) -> None:
    if is_asked:
        say(out, f"everyuser {importlib.metadata.version('everyuser')} (schema {SCHEMA_VERSION})")
        raise typer.Exit


@app.callback()
def options(
    version: Annotated[
        bool, typer.Option("--version", callback=_print_version, is_eager=True, help="Show the version and exit.")
    ] = False,
) -> None:
    """Options of the command as a whole."""


@app.command(context_settings={"allow_extra_args": True})
def build(
    context: typer.Context,
    config: Annotated[
        str,
        typer.Argument(metavar="CONFIG", help="A YAML file (docs/config.md lists its keys), or `quickstart`."),
    ],
    output: Annotated[
        str | None,
        typer.Option(
            "--output",
            "-o",
            metavar="DIR",
            help="Output folder, or an address such as s3://BUCKET/my; by default out/NAME.",
        ),
    ] = None,
    overrides: Annotated[
        list[str] | None,
        typer.Option("--set", metavar="KEY=VALUE", help="Override a key, such as pairs=500; may be repeated."),
    ] = None,
    detach: Annotated[
        bool, typer.Option("--detach", help="Submit the build to the runner as one job, and do not wait for it.")
    ] = False,
    retry_lost: Annotated[
        bool,
        typer.Option(
            "--retry-lost", help="Ask again for rows that a finished build lost to timeouts and server errors."
        ),
    ] = False,
    verbose: Verbose = False,
    debug: Debug = False,
) -> None:
    """Build a dataset, or resume a build.

    The same command on the same output resumes where an earlier run stopped.
    Arguments after `--` go to Beam: `-- --direct_running_mode=multi_processing --direct_num_workers=4`.
    """
    # Set before Beam is imported, as the import warns of extras that are not installed. Threads of Beam that are
    # stopped print tracebacks without meaning.
    logging.getLogger().setLevel(logging.INFO if debug else logging.CRITICAL + 1)
    if not debug:
        threading.excepthook = lambda _: None
    with _reported(debug, verbose, resumes=True):
        if context.args and not context.args[0].startswith("-"):
            raise UsageError(f"unexpected argument '{context.args[0]}'; name one CONFIG, and Beam's options after --")
        quickstart = _quickstart(overrides or (), output) if config == "quickstart" else None
        # Printed first, as the imports take seconds.
        first = (quickstart and quickstart.choice) or f"checking {config} and what it names"
        out.print(Text(first), soft_wrap=not out.is_terminal)
        from pipeline.build import build as run_build
        from pipeline.build import submit
        from pipeline.console.build_display import BuildDisplay
        from pipeline.driver.configuration import read_config
        from pipeline.io import storage

        settings = quickstart.config if quickstart else read_config(config, overrides or ())
        folder = storage.parse(output or f"out/{settings.name}")
        if not storage.is_local(folder) and folder.protocol == "memory":
            raise UsageError(
                f"--output {folder}: memory:// is emptied when the command ends; name a folder of this machine, "
                "such as out/my, or of a bucket, such as s3://BUCKET/my"
            )
        if detach:
            submitted = submit(settings, folder.absolute(), context.args, retry_lost)
            job = f" as job {submitted.job}" if submitted.job else ""
            state = f"submitted{job}; manifest.json says when it is complete"
            say(out, f"{folder}: {state if submitted.is_new else 'finished already'}")
            return
        publishing = None
        if settings.publish is not None:
            from pipeline.console.publish_display import PublishDisplay

            publishing = PublishDisplay(out)
        with BuildDisplay(out) as display:
            manifest = run_build(settings, folder.absolute(), context.args, display, publishing, retry_lost)
        display.summary(manifest, folder, config)
        if publishing:
            publishing.summary()


@app.command()
def plan(
    config: Annotated[
        str,
        typer.Argument(metavar="CONFIG", help="A YAML file (docs/config.md lists its keys), or `quickstart`."),
    ],
    trial: Annotated[
        int | None,
        typer.Option("--trial", min=2, metavar="N", help="Build N pairs by the model, in DIR.trial, to reckon by."),
    ] = None,
    output: Annotated[
        str | None,
        typer.Option("--output", "-o", metavar="DIR", help="The build's folder, which takes over what a trial asked."),
    ] = None,
    prices: Annotated[
        list[str] | None,
        typer.Option(
            "--price",
            metavar="NAME=NUMBER",
            help="A price of the engine (prompt, completion: of a million tokens; hour), or of what is rented, such as "
            "h100=11; may be repeated.",
        ),
    ] = None,
    overrides: Annotated[
        list[str] | None,
        typer.Option("--set", metavar="KEY=VALUE", help="Override a key, such as pairs=500; may be repeated."),
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print the plan as JSON.")] = False,
    verbose: Verbose = False,
    debug: Debug = False,
) -> None:
    """Reckon what a build will take, before it runs: requests, tokens, time, money and disk.

    All checks of a build's start are made. Without --trial no model is asked.
    """
    logging.getLogger().setLevel(logging.INFO if debug else logging.CRITICAL + 1)
    with _reported(debug, verbose, resumes=trial is not None):
        from pipeline.console.forecast_display import show_forecast
        from pipeline.driver.configuration import read_config
        from pipeline.driver.forecast import plan_by_trial, plan_without_model
        from pipeline.driver.prices import with_prices
        from pipeline.io import storage

        names = dict.fromkeys(("prompt", "completion", "hour"), 0.0)
        rented = with_prices(prices or (), names)
        own = [price for price in prices or () if price.partition("=")[0] in names]
        keys = [*(overrides or ()), *(f"engine.price.{price}" for price in own)]
        quickstart = _quickstart(keys, output) if config == "quickstart" else None
        settings = quickstart.config if quickstart else read_config(config, keys)
        if trial is None:
            found = plan_without_model(settings, rented)
        else:
            folder = storage.parse(output or f"out/{settings.name}").absolute()
            found = plan_by_trial(settings, folder, trial, rented, lambda line: say(err, line))
        if as_json:
            say(out, found.model_dump_json(indent=1))
        else:
            show_forecast(found, out)


@app.command()
def status(
    folder: Annotated[
        str, typer.Argument(metavar="DIR", help="A build's folder, or an address such as s3://BUCKET/my.")
    ],
    as_json: Annotated[bool, typer.Option("--json", help="Print the state as JSON.")] = False,
    debug: Debug = False,
) -> None:
    """Show the state of a build that runs or has ended, also elsewhere.

    Only the files of its folder are read, and none is changed.
    """
    with _reported(debug):
        from pipeline.console.status_display import show_status
        from pipeline.driver.status import find_status
        from pipeline.io.storage import parse

        found = find_status(parse(folder))
        if as_json:
            say(out, found.model_dump_json(indent=1))
        else:
            show_status(found, out)


@app.command()
def inspect(
    folder: Annotated[str, typer.Argument(metavar="DIR", help="A finished build.")],
    row: Annotated[
        str | None, typer.Option("--row", metavar="ID", help="An example's id; by default the first.")
    ] = None,
    count: Annotated[int, typer.Option("--count", "-n", min=1, help="How many examples to show.")] = 1,
    debug: Debug = False,
) -> None:
    """Show examples of a build.

    An example has a post, two replies, the direction in words, and the history.
    """
    with _reported(debug):
        from pipeline.console.show import find_examples, show
        from pipeline.io.storage import parse

        for example in find_examples(parse(folder), row, count):
            show(example, out)


@app.command()
def check(
    folder: Annotated[str, typer.Argument(metavar="DIR", help="A build's folder.")], debug: Debug = False
) -> None:
    """Check every file of a build.

    Names, hashes, checksums and fingerprints are compared with the build's own record.
    """
    with _reported(debug):
        from pipeline.driver.check import check_build
        from pipeline.io.storage import parse

        found = check_build(parse(folder))
        for problem in found.problems:
            say(err, problem)
        if found.problems:
            raise UserError(f"{folder}: {len(found.problems)} of {found.checks} checks failed")
        say(out, f"{folder}: {found.checks} checks, all as built; the build is {found.state}")


@app.command()
def report(
    folder: Annotated[str, typer.Argument(metavar="DIR", help="A finished build.")],
    benchmarks: Annotated[
        list[Path] | None,
        typer.Option(
            "--benchmark",
            metavar="FILE",
            help="Look for this file's texts in the dataset: JSON, JSONL, Parquet or text; may be repeated.",
        ),
    ] = None,
    words: Annotated[
        int, typer.Option("--benchmark-words", min=1, help="Words in a row that a text must share with a benchmark.")
    ] = _REPORT.contamination_words,
    examples: Annotated[
        int, typer.Option("--examples", min=0, help="Examples that the page shows.")
    ] = _REPORT.examples,
    rejections: Annotated[
        int, typer.Option("--rejections", min=0, help="Rejected rows that the page shows.")
    ] = _REPORT.rejections,
    prompt_price: Annotated[
        float | None, typer.Option("--prompt-price", min=0, help="Price of a million prompt tokens.")
    ] = None,
    completion_price: Annotated[
        float | None, typer.Option("--completion-price", min=0, help="Price of a million completion tokens.")
    ] = None,
    currency: Annotated[str, typer.Option("--currency", help="Currency of the prices.")] = _REPORT.currency,
    workers: Annotated[int | None, typer.Option("--workers", min=1, help="Processes; by default one a CPU.")] = None,
    judge: Annotated[
        bool,
        typer.Option("--judge", help="Ask a judge about a sample of the pairs first; the answers are kept in judge/."),
    ] = False,
    judge_pairs: Annotated[
        int, typer.Option("--judge-pairs", min=1, help="Pairs that the judge is asked about.")
    ] = _JUDGE.pairs,
    overrides: Annotated[
        list[str] | None,
        typer.Option(
            "--set",
            metavar="KEY=VALUE",
            help="With --judge: another judge than the build's, such as verification.model=NAME; may be repeated.",
        ),
    ] = None,
    verbose: Verbose = False,
    debug: Debug = False,
) -> None:
    """Measure a build, and write its report.

    Writes report.html, report.json and figures/ into the build's folder, and the main figures into its card.
    With --judge, a judge says which dimensions the replies of a sample show, and which reply the portraits' persons
    would prefer. A judge of another family than the build's tells most. The same command resumes.
    """
    with _reported(debug, verbose, resumes=judge):
        from pipeline.card.render import write_card
        from pipeline.console.display import Display
        from pipeline.io.locks import locked
        from pipeline.io.manifests import CARD
        from pipeline.io.storage import parse
        from pipeline.report.run import write_report
        from pipeline.report.source import open_build

        given = {
            "contamination": [str(path) for path in benchmarks or ()],
            "contamination_words": words,
            "examples": examples,
            "rejections": rejections,
            "prompt_price": prompt_price,
            "completion_price": completion_price,
            "currency": currency,
            "workers": workers,
        }
        settings = validate(ReportSettings, given, "everyuser report")
        build_folder = parse(folder)
        # Opened before the lock is taken, so that a folder without a build is left alone.
        manifest = open_build(build_folder).manifest
        if overrides and not judge:
            raise UsageError("--set is about a judge; add --judge")
        with locked(build_folder):
            with Display(out) as display:
                if judge:
                    from pipeline.report.judging.second_judge import judge_build

                    judge_settings = JudgeSettings(overrides or (), judge_pairs)
                    judge_build(build_folder, judge_settings, display.measure, display.notice)
                found, pictures = write_report(build_folder, settings, display.measure)
            write_card(build_folder, manifest, found, pictures)
        for path in ("report.html", "report.json", CARD):
            say(out, f"in    {build_folder / path}")


@app.command()
def review(
    folder: Annotated[str, typer.Argument(metavar="DIR", help="A finished build.")],
    more: Annotated[
        list[Path] | None, typer.Argument(metavar="[LABELS]...", help="More files of labels, after --score.")
    ] = None,
    labels: Annotated[
        list[Path] | None,
        typer.Option("--score", metavar="LABELS", help="Score this file, which the page exported, and write no page."),
    ] = None,
    as_json: Annotated[
        bool, typer.Option("--json", help="Print the score as JSON, with every disagreement in full.")
    ] = False,
    pairs: Annotated[int, typer.Option("--pairs", metavar="N", help="Pairs on the page.")] = _REVIEW.pairs,
    seed: Annotated[int, typer.Option("--seed", help="Seed of the sample.")] = _REVIEW.seed,
    before: Annotated[
        float,
        typer.Option(
            "--before", metavar="SHARE", help="Share of the pairs drawn as they were before verification filtered."
        ),
    ] = _REVIEW.before,
    output: Annotated[
        str | None, typer.Option("--output", "-o", metavar="FILE", help="The page; by default DIR/review.html.")
    ] = None,
    debug: Debug = False,
) -> None:
    """Let people check the directions of a build.

    Writes a page with a blind sample: posts, both replies, and a question for each dimension. It exports labels, which
    `everyuser review DIR --score labels.json [more.json ...]` compares with the dataset, the judge and each other.
    """
    with _reported(debug):
        from pipeline.console.review_display import show_score
        from pipeline.io.storage import parse
        from pipeline.report.source import open_build
        from pipeline.review.blind_sample import draw_sample
        from pipeline.review.labels import read_all_labels
        from pipeline.review.review_page import write_sheet
        from pipeline.review.score import score

        if not labels and (more or as_json):
            raise UsageError(f"{more[0] if more else '--json'} needs --score; name the files of labels after it")
        opened = open_build(parse(folder))
        if labels:
            found = score(opened, read_all_labels([*labels, *(more or ())]))
            if as_json:
                say(out, json.dumps(found.model_dump(mode="json"), indent=1))
            else:
                show_score(found, out)
            return
        settings = validate(ReviewSettings, {"pairs": pairs, "seed": seed, "before": before}, "everyuser review")
        sheet = draw_sample(opened, settings).sheet
        path = parse(output) if output else opened.folder / "review.html"
        write_sheet(sheet, path)
        questions = sum(len(pair.questions) for pair in sheet.pairs)
        say(out, f"in    {path}: {len(sheet.pairs)} pairs, {questions} questions")
        say(out, f"next  open it in a browser, export the labels, and run: everyuser review {folder} --score LABELS")


@app.command()
def publish(
    folder: Annotated[str, typer.Argument(metavar="DIR", help="A finished build.")],
    repo_id: Annotated[str, typer.Argument(metavar="REPO_ID", help="The dataset repository on the Hub, owner/name.")],
    private: Annotated[
        bool, typer.Option("--private/--public", help="Who sees the repository: its owner, or everybody.")
    ] = _PUBLISH.private,
    revision: Annotated[
        str, typer.Option("--revision", metavar="BRANCH", help="The branch to publish to.")
    ] = _PUBLISH.revision,
    tag: Annotated[str | None, typer.Option("--tag", metavar="TAG", help="A tag for the commit.")] = None,
    message: Annotated[str | None, typer.Option("--message", metavar="TEXT", help="The commit's message.")] = None,
    force: Annotated[
        bool, typer.Option("--force", help="Publish a build although it is unfinished or beyond its limits.")
    ] = False,
    verbose: Verbose = False,
    debug: Debug = False,
) -> None:
    """Publish a build on the Hugging Face Hub.

    One commit makes all files visible. The same command resumes where an earlier run stopped. The token comes from
    HF_TOKEN, or from `hf auth login`.
    """
    with _reported(debug, verbose, resumes=True):
        from pipeline.console.publish_display import PublishDisplay
        from pipeline.io import storage
        from pipeline.io.locks import locked
        from pipeline.io.manifests import load_manifest
        from pipeline.publishing.publish import publish as run_publish

        given = {"repo_id": repo_id, "private": private, "revision": revision, "tag": tag, "message": message}
        settings = validate(PublishConfig, given, "everyuser publish")
        build_folder = storage.parse(folder).absolute()
        # Read before the lock is taken, so that a folder without a build is left alone.
        load_manifest(build_folder)
        with locked(build_folder), PublishDisplay(out) as display:
            run_publish(build_folder, settings, force, observer=display)
        display.summary()


@space_app.command("show")
def space_show(
    space: Annotated[str, typer.Argument(metavar="SPACE", help="`alignx`, `alignx_plus`, or a YAML file.")] = "alignx",
    slug: Annotated[str | None, typer.Option("--dimension", metavar="SLUG", help="Show one dimension in full.")] = None,
    debug: Debug = False,
) -> None:
    """List a space's dimensions."""
    with _reported(debug):
        from pipeline.console.show import show_dimension, show_space
        from preference_space.space import load_space

        loaded = load_space(space)
        if slug is None:
            show_space(loaded, out)
        elif slug in loaded.index:
            show_dimension(loaded.dimensions[loaded.index[slug]], out)
        else:
            raise UsageError(f"space '{loaded.name}' has no dimension '{slug}'; all: everyuser space show {space}")


@space_app.command("check")
def space_check(
    space: Annotated[str, typer.Argument(metavar="SPACE", help="A YAML file.")], debug: Debug = False
) -> None:
    """Check a space file."""
    with _reported(debug):
        from preference_space.space import load_space

        loaded = load_space(space)
        say(out, f"{space}: space '{loaded.name}', {len(loaded)} dimensions, fingerprint {loaded.fingerprint}")


@space_app.command("sample")
def space_sample(
    space: Annotated[
        str | None,
        typer.Argument(
            metavar="SPACE",
            help="`alignx`, `alignx_plus`, or a YAML file; by default the configuration's, or `alignx`.",
        ),
    ] = None,
    points: Annotated[int, typer.Option("-n", min=1, help="How many points to draw.")] = 1000,
    config: Annotated[
        Path | None,
        typer.Option(
            "--config", metavar="CONFIG", help="Take `space`, `sampling`, `seed` and `users` from a configuration."
        ),
    ] = None,
    debug: Debug = False,
) -> None:
    """Draw points of a space, and show what they cover.

    Points are drawn as in a build: the first users of a configuration that has some, otherwise each point for a post
    about one topic.
    """
    with _reported(debug):
        import numpy as np

        from pipeline.console.show import show_coverage
        from pipeline.driver.feasibility import check_users
        from preference_space.coverage import Coverage
        from preference_space.direction import verbalise
        from preference_space.sampling import Sampler
        from preference_space.space import load_space

        settings = load_config(config) if config else None
        loaded = load_space(space or (settings.space if settings else "alignx"))
        sampling, seed = (settings.sampling, settings.seed) if settings else (SamplingConfig(), 0)
        sampler, coverage = Sampler(loaded, sampling, seed), Coverage(loaded)
        users = settings.users if settings else None
        if settings:
            check_users(settings, sampler)
        topics = [d.slug for d in loaded.dimensions if d.topical] or [""]
        for start in range(0, points, 4096):
            records = np.arange(start, min(start + 4096, points))
            if users:
                directions = sampler.users(records, users.active.min, users.active.max)
            else:
                directions = sampler.draw("sample", 0, records, [[topics[i % len(topics)]] for i in records])
            coverage.add(directions)
            if start == 0:
                for direction in directions[:5]:
                    say(out, verbalise(loaded, direction))
        show_coverage(coverage, out)


def _quickstart(overrides: Sequence[str], output: str | None) -> Quickstart:
    from pipeline.driver.quickstart import load_quickstart
    from pipeline.io.storage import parse

    return load_quickstart(overrides, parse(output or "out/quickstart"))


def _log(line: str) -> None:
    # On a terminal the console that draws the bar prints it, above the bar.
    say(out if out.is_terminal and err.is_terminal else err, line)


@contextlib.contextmanager
def _reported(debug: bool, verbose: bool = False, resumes: bool = False) -> Iterator[None]:
    """Print log records, and an error as one line before the exit; a traceback only with `--debug`."""
    level = logging.DEBUG if debug else logging.INFO if verbose else logging.WARNING
    try:
        with logs.shown(level, _log):
            yield
    except KeyboardInterrupt:
        advice = ": finished work is kept; run the same command again to resume" if resumes else ""
        err.print(f"[bold]stopped[/]{advice}")
        raise typer.Exit(130) from None
    except Exception as error:
        if debug:
            traceback.print_exc()
        if isinstance(error, ModuleNotFoundError) and importlib.util.find_spec("apache_beam") is None:
            error = UserError(f"{error.name} is not installed; run: pip install 'everyuser[build]'")
        say_error(err, error)
        code = 2 if isinstance(error, UsageError) else 3 if isinstance(error, BudgetError) else 1
        raise typer.Exit(code) from None


def main() -> None:
    """Run the command line."""
    # Read when Arrow is imported, here and in worker processes. Its own allocator keeps memory that is no longer used.
    os.environ.setdefault("ARROW_DEFAULT_MEMORY_POOL", "system")
    try:
        app()
    except SystemExit as end:
        end_process(end.code if isinstance(end.code, int) else 0 if end.code is None else 1)


if __name__ == "__main__":
    main()
