"""The command line: `everyuser-train fit | render | evaluate | infer | judge | chat`.

Exit codes: 0 done, 1 failed, 2 wrong usage, 130 stopped.
"""

from __future__ import annotations

import contextlib
import importlib.metadata
import logging
import os
import sys
import traceback
import warnings
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Annotated, TypeVar, get_args

import typer

from schemas.base import Record, UsageError
from schemas.terminal import Terminal, print_table, say, say_error

app = typer.Typer(
    help="Align models with personas, and measure it.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
)

# In a file or a pipe a panel has room for two replies side by side.
out = Terminal(width=None if sys.stdout.isatty() else 160)
err = Terminal(stderr=True)

Debug = Annotated[bool, typer.Option("--debug", help="Show tracebacks, warnings and the libraries' logs.")]
Set = Annotated[list[str] | None, typer.Option("--set", metavar="KEY=VALUE", help="Set a key; may be repeated.")]
Config = Annotated[Path | None, typer.Argument(metavar="CONFIG", help="A YAML file with the command's keys.")]
Model = Annotated[str | None, typer.Option("--model", "-m", help="The policy: a folder, a Hub id, a packaged model.")]
Reference = Annotated[
    str | None, typer.Option("--reference", "-r", help="The reference; by default the model that training began with.")
]
Data = Annotated[str | None, typer.Option("--data", "-d", help="A folder, a Hub id, or a JSON or JSONL file.")]
Split = Annotated[str | None, typer.Option("--split", help="Its split; by default `test`.")]
Space = Annotated[str | None, typer.Option("--space", help="A preference_space.yaml, if the data have none.")]
Directions = Annotated[
    list[str] | None,
    typer.Option("--directions", metavar="FILE", help="What `infer` wrote about the data; may be repeated."),
]
Limit = Annotated[int | None, typer.Option("--limit", min=1, help="Use at most this many examples.")]
BaseUrl = Annotated[
    str | None, typer.Option("--base-url", help="An OpenAI-compatible endpoint, with its version: http://.../v1")
]
ServedModel = Annotated[str | None, typer.Option("--served-model", help="The model's name there.")]
MethodOption = Annotated[
    str | None, typer.Option("--method", help="`ica` or `pba`; by default what the model was trained by.")
]

_KEYS = {
    "model": "model",
    "reference": "reference",
    "data": "data.path",
    "split": "data.split",
    "space": "data.space",
    "directions": "data.directions",
    "limit": "data.limit",
    "method": "method",
}
"""Configuration keys of the options that commands share."""

R = TypeVar("R", bound=Record)


def _print_version(is_asked: bool) -> None:
    if is_asked:
        say(out, f"everyuser-train {importlib.metadata.version('everyuser-train')}")
        raise typer.Exit


@app.callback()
def options(
    version: Annotated[
        bool, typer.Option("--version", callback=_print_version, is_eager=True, help="Show the version and exit.")
    ] = False,
) -> None:
    """Options of the command as a whole."""


@app.command()
def fit(
    context: typer.Context,
    config: Annotated[Path, typer.Argument(metavar="CONFIG", help="A YAML file; configs/ has examples.")],
    output: Annotated[str | None, typer.Option("--output", "-o", metavar="DIR", help="Output folder.")] = None,
    overrides: Set = None,
    debug: Debug = False,
) -> None:
    """Train a model, or resume where an earlier run of the same command stopped."""
    with _reported(debug, resumes=True):
        from everyuser_train.config import FitConfig
        from everyuser_train.display import Display

        settings = _settings(FitConfig, context, output="output")
        main = os.environ.get("RANK", "0") == "0"
        with Display(out if main else Terminal(quiet=True)) as display:
            display.note("loading")
            from everyuser_train.fit import fit as run_fit

            display.note(f"the model is in {run_fit(settings, display)}")


@app.command()
def render(
    context: typer.Context,
    trainer: Annotated[str, typer.Option("--format", "-f", help="trl, reward, openrlhf, axolotl or llamafactory.")],
    # Required, since the output in a file of `fit` is that of `fit`.
    output: Annotated[str, typer.Option("--output", "-o", metavar="DIR", help="New or empty folder.")],
    config: Annotated[
        Path | None, typer.Argument(metavar="CONFIG", help="A YAML file of `fit`, for the rows that `fit` trains on.")
    ] = None,
    data: Data = None,
    split: Annotated[
        list[str] | None,
        typer.Option("--split", help="May be repeated; by default the splits that `fit` trains on and evaluates."),
    ] = None,
    space: Space = None,
    directions: Directions = None,
    limit: Limit = None,
    method: Annotated[str | None, typer.Option("--method", help="`ica` or `pba`.")] = None,
    model: Annotated[
        str | None,
        typer.Option("--model", "-m", help="The model to train: its tokenizer cuts prompts to training.max_length."),
    ] = None,
    epochs: Annotated[float | None, typer.Option("--epochs", help="Passes over the data, 1 by default.")] = None,
    overrides: Set = None,
    debug: Debug = False,
) -> None:
    """Write the rows that `fit` trains on as a dataset for another trainer."""
    with _reported(debug):
        from everyuser_train.config import RenderConfig

        settings = _settings(
            RenderConfig,
            context,
            split="splits",
            method="persona.method",
            model="model.name",
            epochs="training.epochs",
            trainer="format",
            output="output",
        )
        from everyuser_train.render import render as run_render

        for name, facts in run_render(settings).items():
            lost = f"; {facts['too_long']} left out, too long for training.max_length" if facts["too_long"] else ""
            say(out, f"{name}: {facts['rows']} rows of {facts['examples']} examples{lost}")
        say(out, f"written to {settings.output}")


@app.command()
def evaluate(
    context: typer.Context,
    config: Config = None,
    model: Model = None,
    reference: Reference = None,
    data: Data = None,
    split: Split = None,
    space: Space = None,
    directions: Directions = None,
    limit: Limit = None,
    method: MethodOption = None,
    output: Annotated[
        str, typer.Option("--output", "-o", metavar="DIR", help="Folder for report.json and report.png.")
    ] = "out/evaluation",
    overrides: Set = None,
    debug: Debug = False,
) -> None:
    """Measure a model against its reference, or a reward model: accuracies with intervals and controls."""
    with _reported(debug, resumes=True):
        from everyuser_train.config import EvaluateConfig
        from everyuser_train.display import Display
        from everyuser_train.evaluate import evaluate as run_evaluate
        from everyuser_train.report import save, show

        settings = _settings(EvaluateConfig, context)
        with Display(err) as display:
            report = run_evaluate(settings, display.stage)
        save(report, Path(output))
        show(report, out)
        say(out, f"written to {output}")


@app.command()
def infer(
    context: typer.Context,
    config: Config = None,
    data: Data = None,
    split: Split = None,
    space: Space = None,
    limit: Limit = None,
    annotator: Annotated[
        str | None, typer.Option("--annotator", help="A model that runs here: a folder, a Hub id, a packaged model.")
    ] = None,
    base_url: BaseUrl = None,
    served_model: ServedModel = None,
    output: Annotated[
        str | None, typer.Option("--output", "-o", metavar="FILE", help="A .jsonl or .parquet file.")
    ] = None,
    overrides: Set = None,
    debug: Debug = False,
) -> None:
    """Infer the directions of personas from their history, for PBA on data without directions."""
    with _reported(debug, resumes=True):
        from everyuser_train.display import Display
        from everyuser_train.infer import InferConfig, infer_file

        if annotator and (base_url or served_model):
            raise UsageError("give --annotator, or --base-url and --served-model, not both")
        kind = "local" if annotator else "endpoint" if base_url or served_model else None
        settings = _settings(
            InferConfig,
            context,
            {"annotator.kind": kind},
            output="output",
            annotator="annotator.name",
            base_url="annotator.endpoint.base_url",
            served_model="annotator.endpoint.model",
        )
        with Display(err) as display:
            summary = infer_file(settings, display.stage)
        say(out, f"directions of {summary.examples} examples, from {summary.texts} texts, in {summary.output}")
        if summary.failed_texts:
            say(out, f"{summary.failed_texts} texts could not be judged; the first: {summary.first_failure}")
        if summary.unjudged:
            say(out, f"{summary.unjudged} examples have no part that could be judged: their direction is neutral")


@app.command()
def judge(
    context: typer.Context,
    config: Config = None,
    model: Model = None,
    reference: Reference = None,
    data: Data = None,
    split: Split = None,
    space: Space = None,
    directions: Directions = None,
    limit: Limit = None,
    method: MethodOption = None,
    base_url: BaseUrl = None,
    served_model: ServedModel = None,
    output: Annotated[
        str | None, typer.Option("--output", "-o", metavar="DIR", help="Folder for replies, verdicts and report.")
    ] = None,
    overrides: Set = None,
    debug: Debug = False,
) -> None:
    """Compare a model's replies with its reference's by a judge model, which sees each pair in both orders."""
    with _reported(debug, resumes=True):
        from everyuser_train.display import Display
        from everyuser_train.judge import JudgeConfig, report_table
        from everyuser_train.judge import judge as run_judge

        settings = _settings(
            JudgeConfig, context, output="output", base_url="judge.base_url", served_model="judge.model"
        )
        with Display(err) as display:
            report = run_judge(settings, display.stage)
        print_table(out, report_table(report))
        if report.first_failure is not None:
            say(out, f"{report.unjudged} cases have no verdict; the first: {report.first_failure}")
        say(out, f"written to {settings.output}")


@app.command()
def chat(
    model: Annotated[str, typer.Option("--model", "-m", help="The policy: a folder, a Hub id, a packaged model.")],
    reference: Reference = None,
    data: Data = None,
    split: Split = None,
    space: Space = None,
    directions: Directions = None,
    row: Annotated[
        str | None, typer.Option("--row", metavar="ID", help="An example's id; by default the first.")
    ] = None,
    persona: Annotated[
        str | None, typer.Option("--persona", help="A few lines: a portrait for ICA, a preference each for PBA.")
    ] = None,
    post: Annotated[str | None, typer.Option("--post", help="What is replied to; without it you are asked.")] = None,
    method: MethodOption = None,
    items: Annotated[int, typer.Option("--items", min=0, help="History items of each kind.")] = 4,
    max_tokens: Annotated[int, typer.Option("--max-tokens", min=1, help="Longest reply.")] = 300,
    temperature: Annotated[float, typer.Option("--temperature", min=0, help="0 takes the likeliest token.")] = 0.7,
    seed: Annotated[int, typer.Option("--seed", min=0, help="Seed of the replies.")] = 0,
    dtype: Annotated[str, typer.Option("--dtype", help="auto, float32, bfloat16 or float16.")] = "auto",
    debug: Debug = False,
) -> None:
    """Show replies of a model and of its reference side by side, for a persona."""
    with _reported(debug):
        from everyuser_train import chat as talk
        from everyuser_train.config import Dtype, EvalData, Method
        from everyuser_train.models import trained_method
        from everyuser_train.personas import NO_PERSONA

        methods: dict[str | None, Method] = {"ica": "ica", "pba": "pba"}
        chosen = methods.get(method or trained_method(model))
        if chosen is None:
            raise UsageError("give --method ica or --method pba: the one that the model was trained by")
        if dtype not in (known := get_args(get_args(Dtype)[0])):
            raise UsageError(f"--dtype {dtype}: expected one of {', '.join(known)}")
        if data is not None and persona is not None:
            raise UsageError("give --data or --persona, not both")
        person, own = NO_PERSONA if persona is None else talk.written_persona(persona), None
        if data is not None:
            source = EvalData(path=data, split=split or "test", space=space, directions=tuple(directions or ()))
            example, found = talk.find_row(source, row)
            person, own = talk.persona_of(example, found, chosen, items), example.prompt
        pair = talk.Pair(model, reference, dtype)
        talk.show_persona(person, chosen, out)
        for asked in [post] if post is not None else _asked(own):
            sampling = talk.Sampling(max_new_tokens=max_tokens, temperature=temperature, seed=seed)
            ours, theirs = pair.replies(chosen, asked, person, sampling)
            talk.show_replies(asked, ours, theirs, out)


def _asked(own: str | None) -> Iterator[str]:
    """Yield posts from the input until it ends. An empty line stands for the row's own post, or ends the input."""
    if sys.stdin.isatty():
        say(out, "type a post; Ctrl-D ends" + (", an empty line takes the row's own post" if own else ""))
    while True:
        try:
            line = out.input("> " if sys.stdin.isatty() else "").strip()
        except EOFError:
            return
        if not line and own is None:
            return
        yield line or own or ""


def _settings(record: type[R], context: typer.Context, more: Mapping[str, str | None] | None = None, **keys: str) -> R:
    """Return a command's configuration: its file, the options of the command line, and `--set`.

    Args:
        record: The configuration's record.
        context: The command's parameters.
        more: Further values by configuration key; None for one that was not given.
        keys: Configuration key of each of the command's own options.
    """
    from everyuser_train.loader import load_config
    from everyuser_train.models import trained_method

    given, keys = context.params, {**_KEYS, **keys}
    # A number of 0 is given, and may be refused.
    options = {key: given[name] for name, key in keys.items() if given.get(name) or given.get(name) == 0}
    defaults = {keys["method"]: trained_method(given["model"])} if given.get("model") else {}
    named = {keys[each.name]: max(each.opts, key=len) for each in context.command.params if each.name in keys}
    return load_config(
        record,
        given["config"] and Path(given["config"]),
        options | {**(more or {})},
        given["overrides"] or (),
        defaults,
        named,
    )


def _hush() -> None:
    """Silence the libraries. Must be called before they are imported."""
    warnings.filterwarnings("ignore")
    logging.disable(logging.WARNING)
    os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")
    if not sys.stderr.isatty():
        for name in ("TQDM_DISABLE", "HF_DATASETS_DISABLE_PROGRESS_BARS", "HF_HUB_DISABLE_PROGRESS_BARS"):
            os.environ.setdefault(name, "1")


@contextlib.contextmanager
def _reported(debug: bool, *, resumes: bool = False) -> Iterator[None]:
    """Report an error as one line and exit; `--debug` adds the traceback."""
    # Otherwise TRL reports each training to its developers.
    os.environ.setdefault("HF_HUB_DISABLE_TELEMETRY", "1")
    if not debug:
        _hush()
    try:
        yield
    except KeyboardInterrupt:
        advice = ": run the same command again to resume; finished work is kept" if resumes else ""
        err.print(f"[bold]stopped[/]{advice}")
        raise typer.Exit(130) from None
    except BrokenPipeError:
        raise typer.Exit(0) from None
    except typer.Exit:
        raise
    except Exception as error:
        if debug:
            traceback.print_exc()
        say_error(err, error)
        raise typer.Exit(2 if isinstance(error, UsageError) else 1) from None


def main() -> None:
    """Entry point of `everyuser-train`."""
    app()


if __name__ == "__main__":
    main()
