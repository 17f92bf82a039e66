"""Console output. Texts of a dataset can hold control characters, so everything is printed through `Terminal`."""

from __future__ import annotations

import os
import re
from collections.abc import Iterable
from typing import Any

from rich.console import Console
from rich.segment import Segment
from rich.table import Table
from rich.text import Text

from schemas.base import UserError

_CONTROLS = re.compile(r"[^\S\n ]|[\x00-\x09\x0b-\x1f\x7f-\x9f]")
_INVISIBLE = re.compile(
    # Soft hyphen, marks and overrides of direction, zero width, fillers, tags, variation selectors other than emoji's;
    # and surrogates, which cannot be encoded.
    "[\u00ad\u034f\u061c\u115f\u1160\u17b4\u17b5\u180b-\u180f\u200b\u200e\u200f\u202a-\u202e\u2060-\u206f\u3164\ufeff"
    "\uffa0\ufff9-\ufffb\U0001bca0-\U0001bca3\U0001d173-\U0001d17a\U000e0000-\U000e0fff\ud800-\udfff]"
)
# Joiners, except between letters of scripts (and emoji) that are written with them.
# A match begins where a run of them does: linear in time.
_JOINERS = re.compile("(?<![\u200c\u200d])[\u200c\u200d]++(?![^\x00-\x7f\\s])|(?<![^\x00-\x7f\\s])[\u200c\u200d]++")


class Terminal(Console):
    """A console that passes every text through `safe`; only its own styles become escape sequences.

    A closed pipe (`| head`) silences it, and the command continues.
    """

    def __init__(self, **keys: Any) -> None:
        super().__init__(highlight=False, emoji=False, **keys)

    def _render_buffer(self, buffer: Iterable[Segment]) -> str:
        return super()._render_buffer(
            segment if segment.control else segment._replace(text=safe(segment.text)) for segment in buffer
        )

    def on_broken_pipe(self) -> None:
        """Print nothing more, also when the process flushes its buffers at exit."""
        self.quiet = True
        os.dup2(os.open(os.devnull, os.O_WRONLY), self.file.fileno())


def safe(text: str) -> str:
    """Return a text without control characters; invisible ones are shown by number, as `<U+202E>`."""
    # Joiners come last: the character beside one may just have become a number.
    return _JOINERS.sub(_numbers, _INVISIBLE.sub(_numbers, _CONTROLS.sub(" ", text)))


def _numbers(found: re.Match[str]) -> str:
    return "".join(f"<U+{ord(character):04X}>" for character in found[0])


def say(console: Console, text: str) -> None:
    """Print an untrusted text, without markup and without wrapping."""
    console.print(Text(safe(text)), soft_wrap=True)


def say_error(console: Console, error: Exception) -> None:
    """Print an error as one line. An error that the user cannot fix is shown with its type."""
    known = isinstance(error, UserError)
    text = str(error) if known else f"{type(error).__name__}: {' '.join(str(error).split())[:300]}"
    hint = "" if known else " (--debug shows where)"
    line = " ".join(safe(text).split())
    console.print(Text.assemble(("error", "bold red"), f": {line}{hint}"), soft_wrap=not console.is_terminal)


def print_table(console: Console, table: Table) -> None:
    """Print a table without cutting cells: folded on a terminal, at full width in a file or a pipe."""
    for column in table.columns:
        column.overflow = "fold"
    width = console.width
    try:
        if not console.is_terminal:
            console.width = console.measure(table, options=console.options.update(max_width=10_000)).maximum
        console.print(table)
    finally:
        console.width = width
