"""The command line: `everyuser build | inspect | space`. Exit codes: 0 done, 1 failed, 2 wrong usage, 130 stopped."""

from __future__ import annotations

import contextlib
import logging
import re
import threading
import traceback
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated

import numpy as np
import typer
from rich.console import Console
from rich.text import Text

from schemas.base import UsageError, UserError

app = typer.Typer(
    help="Build personalised preference datasets.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
)
space_app = typer.Typer(help="Look at a preference space.", no_args_is_help=True)
app.add_typer(space_app, name="space")

out = Console(highlight=False, emoji=False)
err = Console(stderr=True, highlight=False, emoji=False)

Debug = Annotated[bool, typer.Option("--debug", help="Show tracebacks and the runner's log.")]


@app.command(context_settings={"allow_extra_args": True})
def build(
    context: typer.Context,
    config: Annotated[Path, typer.Argument(metavar="CONFIG", help="A YAML file; docs/config.md lists its keys.")],
    output: Annotated[
        str | None, typer.Option("--output", "-o", metavar="DIR", help="Output folder; by default out/NAME.")
    ] = None,
    overrides: Annotated[
        list[str] | None, typer.Option("--set", metavar="KEY=VALUE", help="Override a key; may be repeated.")
    ] = None,
    debug: Debug = False,
) -> None:
    """Build a dataset, or go on where an earlier run of the same command stopped.

    What follows `--` goes to Beam: `-- --direct_running_mode=multi_processing --direct_num_workers=4`.
    """
    # Before Beam is imported, which warns of extras that are not installed; and its threads, when they are stopped,
    # print tracebacks that tell nothing.
    logging.getLogger().setLevel(logging.INFO if debug else logging.CRITICAL)
    if not debug:
        threading.excepthook = lambda _: None
    with _reported(debug):
        from pipeline.build import build as run_build
        from pipeline.display import Display
        from schemas.loader import load_config

        if context.args and not context.args[0].startswith("-"):
            raise UsageError(f"unexpected argument '{context.args[0]}': one configuration at a time")
        settings = load_config(config, overrides or ())
        if output is not None and "://" in output:
            raise UsageError(f"--output {output}: only a folder that this machine has mounted can be written to")
        folder = Path(output) if output else Path("out") / settings.name
        with Display(out) as display:
            manifest = run_build(settings, folder.absolute(), context.args, display)
        display.summary(manifest, folder)


@app.command()
def inspect(
    folder: Annotated[Path, typer.Argument(metavar="DIR", help="A finished build.")],
    row: Annotated[
        str | None, typer.Option("--row", metavar="ID", help="An example's id; by default the first.")
    ] = None,
    count: Annotated[int, typer.Option("--count", "-n", min=1, help="How many examples to show.")] = 1,
    debug: Debug = False,
) -> None:
    """Show examples readably: the post, both replies, the direction in words, the history."""
    with _reported(debug):
        from pipeline.inspect import find_examples, show

        for example in find_examples(folder, row, count):
            show(example, out)


@space_app.command("show")
def space_show(
    space: Annotated[str, typer.Argument(metavar="SPACE", help="`alignx`, or a YAML file.")] = "alignx",
    slug: Annotated[str | None, typer.Option("--dimension", metavar="SLUG", help="Show one dimension whole.")] = None,
    debug: Debug = False,
) -> None:
    """List a space's dimensions."""
    with _reported(debug):
        from pipeline.inspect import show_dimension, show_space
        from preference_space.space import load_space

        loaded = load_space(space)
        if slug is None:
            show_space(loaded, out)
        elif slug in loaded.index:
            show_dimension(loaded.dimensions[loaded.index[slug]], out)
        else:
            raise UsageError(f"space '{loaded.name}' has no dimension '{slug}'")


@space_app.command("check")
def space_check(
    space: Annotated[str, typer.Argument(metavar="SPACE", help="A YAML file.")], debug: Debug = False
) -> None:
    """Check a space file."""
    with _reported(debug):
        from pipeline.inspect import say
        from preference_space.space import load_space

        loaded = load_space(space)
        say(out, f"{space}: space '{loaded.name}', {len(loaded)} dimensions, fingerprint {loaded.fingerprint}")


@space_app.command("sample")
def space_sample(
    space: Annotated[str, typer.Argument(metavar="SPACE", help="`alignx`, or a YAML file.")] = "alignx",
    points: Annotated[int, typer.Option("-n", min=1, help="How many points to draw.")] = 1000,
    config: Annotated[
        Path | None, typer.Option("--config", metavar="CONFIG", help="Take `sampling` and `seed` from a configuration.")
    ] = None,
    debug: Debug = False,
) -> None:
    """Draw points as a build would, each for a post about one topic, and report what they cover."""
    with _reported(debug):
        from pipeline.inspect import say, show_coverage
        from preference_space.coverage import Coverage
        from preference_space.direction import verbalise
        from preference_space.sampling import Sampler
        from preference_space.space import load_space
        from schemas.config import SamplingConfig
        from schemas.loader import load_config

        loaded = load_space(space)
        settings = load_config(config) if config else None
        sampling, seed = (settings.sampling, settings.seed) if settings else (SamplingConfig(), 0)
        sampler, coverage = Sampler(loaded, sampling, seed), Coverage(loaded)
        topics = [d.slug for d in loaded.dimensions if d.topical] or [""]
        for start in range(0, points, 4096):
            records = np.arange(start, min(start + 4096, points))
            directions = sampler.draw("sample", 0, records, [[topics[i % len(topics)]] for i in records])
            coverage.add(directions)
            if start == 0:
                for direction in directions[:5]:
                    say(out, verbalise(loaded, direction))
        show_coverage(coverage, out)


@contextlib.contextmanager
def _reported(debug: bool) -> Iterator[None]:
    """Errors as one line with the way out; a traceback only with `--debug`."""
    try:
        yield
    except KeyboardInterrupt:
        err.print("[bold]stopped[/]: run the same command again to go on; finished work is kept")
        raise typer.Exit(130) from None
    except BrokenPipeError:
        raise typer.Exit(0) from None
    except Exception as error:
        if debug:
            traceback.print_exc()
        known = isinstance(error, UserError)
        text = str(error) if known else f"{type(error).__name__}: {' '.join(str(error).split())[:300]}"
        hint = "" if known else " (--debug shows where)"
        line = " ".join(re.sub(r"[\x00-\x1f\x7f-\x9f]", " ", text).split())
        err.print(Text.assemble(("error", "bold red"), f": {line}{hint}"), soft_wrap=True)
        raise typer.Exit(2 if isinstance(error, UsageError) else 1) from None


def main() -> None:
    """Entry point of `everyuser`."""
    app()


if __name__ == "__main__":
    main()
