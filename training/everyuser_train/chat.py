"""Replies of a model and of its reference to a post, side by side, for a persona."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Any, NamedTuple

from rich.columns import Columns
from rich.console import Console, Group
from rich.panel import Panel
from rich.text import Text

from everyuser_train import models
from everyuser_train.config import EvalData, Method, Part
from everyuser_train.data import load
from everyuser_train.examples import Example
from everyuser_train.generate import generate
from everyuser_train.personas import NO_PERSONA, Persona, evaluation_persona
from everyuser_train.prompts import fit_prompt
from schemas.base import UsageError
from schemas.terminal import safe

_ALL: tuple[Part, ...] = ("ugc", "pair", "demo")


class Sampling(NamedTuple):
    """Settings of generation. Temperature 0 takes the likeliest token; lengths are in tokens."""

    max_length: int = 8192
    max_new_tokens: int = 300
    temperature: float = 0.7
    seed: int = 0


class Pair:
    """A policy and its reference. Adapters on the reference share one model with it."""

    def __init__(self, policy: str, reference: str | None, dtype: str) -> None:
        theirs, base = models.reference_of(policy, reference), models.adapter_base(policy)
        self.tokenizer = models.load_tokenizer(policy)
        self._policy = models.load_model(policy, dtype=dtype)
        shared = base is not None and base.name == theirs.name
        self._reference = None if shared else models.load_model(theirs.name, dtype=dtype)

    def replies(self, method: Method, post: str, persona: Persona, sampling: Sampling) -> tuple[str, str]:
        """Return the policy's and the reference's reply. Raises `UsageError` for a post that is too long."""
        room = sampling.max_length - sampling.max_new_tokens
        prompt = fit_prompt(self.tokenizer, method, post, persona, ("",), room)
        if prompt is None:
            raise UsageError(f"the post is too long: it leaves no room for a reply in {sampling.max_length} tokens")

        def reply(model: Any) -> str:
            texts: dict[int, str] = {}
            generate(
                model,
                self.tokenizer,
                [prompt],
                [sampling.seed],
                max_new_tokens=sampling.max_new_tokens,
                temperature=sampling.temperature,
                batch_tokens=sampling.max_length,
                done=texts.__setitem__,
            )
            return texts[0]

        ours = reply(self._policy)
        with self._as_reference() as reference:
            return ours, reply(reference)

    @contextlib.contextmanager
    def _as_reference(self) -> Iterator[Any]:
        if self._reference is not None:
            yield self._reference
        else:
            with self._policy.disable_adapter():
                yield self._policy


def find_row(data: EvalData, row: str | None) -> tuple[Example, Any]:
    """Return the example with id `row`, or the first, and the dataset's space. Raises `UsageError` if there is none."""
    loaded = load(data, data.split)
    for example in loaded.examples:
        if row is None or example.id == row:
            return example, loaded.space
    raise UsageError(f"{data.path} ({data.split}) has no example with id '{row}'")


def persona_of(example: Example, space: Any, method: Method, items: int) -> Persona:
    """Return the persona of a dataset's row, with the first `items` of each kind."""
    return evaluation_persona(example, _ALL, items, method, "target", space)


def written_persona(text: str) -> Persona:
    """Return a persona from a few lines: a portrait for ICA, one preference per line for PBA."""
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    return NO_PERSONA._replace(portrait="\n".join(lines), profile=", ".join(lines))


def show_persona(persona: Persona, method: Method, console: Console) -> None:
    """Print the parts of a persona that the models see."""
    if method == "pba":
        sections = [("preferences", persona.profile)]
    else:
        sections = [("portrait", persona.portrait)]
        sections += [("comment", f"{item.prompt}\n\n> {item.comment}") for item in persona.ugc]
        sections += [("pair", f"{item.prompt}\n\n+ {item.chosen}\n\n- {item.rejected}") for item in persona.pair]
    for title, text in sections:
        if text:
            console.print(_panel(title, text, "dim"))


def show_replies(post: str, policy: str, reference: str, console: Console) -> None:
    """Print the post and both replies, side by side where there is room."""
    panels = [_panel("policy", policy, "green"), _panel("reference", reference, "blue")]
    if console.width >= 80:
        width = (console.width - 1) // 2
        for panel in panels:
            panel.width = width
        console.print(_panel("post", post), Columns(panels, padding=(0, 1)))
    else:
        console.print(Group(_panel("post", post), *panels))


def _panel(title: str, text: str, style: str = "none") -> Panel:
    return Panel(Text(safe(text)), title=title, title_align="left", border_style=style)
