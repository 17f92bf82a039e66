from __future__ import annotations

import io
import unicodedata

import pytest
from rich.panel import Panel
from rich.progress import Progress
from rich.table import Table
from rich.text import Text

from schemas.terminal import Terminal, print_table, safe, say


def terminal(width: int = 200, is_terminal: bool = False) -> Terminal:
    return Terminal(file=io.StringIO(), width=width, force_terminal=is_terminal)


def printed(to: Terminal) -> str:
    assert isinstance(to.file, io.StringIO)
    return to.file.getvalue()


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("plain text,\nin two lines", "plain text,\nin two lines"),
        ("\x1b[31mred\x1b[0m \x9b2J \x07 \x00 \x7f \r\t", " [31mred [0m  2J         "),
        ("a\u202eb\u202c", "a<U+202E>b<U+202C>"),
        ("\u2066a\u2069", "<U+2066>a<U+2069>"),
        ("a\u200bb\u2060c\ufeffd\u00ade", "a<U+200B>b<U+2060>c<U+FEFF>d<U+00AD>e"),
        ("a\U000e0041\U000e0100", "a<U+E0041><U+E0100>"),
        ("a\u2028b\u2029c\u00a0d\u3000e", "a b c d e"),
        ("\udcff", "<U+DCFF>"),
        # Joiners where a script or an emoji is written with them, and where they only hide.
        ("\u0645\u06cc\u200c\u062e\u0648\u0627\u0647\u0645", "\u0645\u06cc\u200c\u062e\u0648\u0627\u0647\u0645"),
        ("\u0915\u094d\u200d\u0937", "\u0915\u094d\u200d\u0937"),
        ("\U0001f468\u200d\U0001f469 \u2764\ufe0f", "\U0001f468\u200d\U0001f469 \u2764\ufe0f"),
        ("pass\u200dword \u200c \u0645\u200c", "pass<U+200D>word <U+200C> \u0645<U+200C>"),
        ("\u05e9\u05dc\u05d5\u05dd \u0938\u094d\u0924\u0947", "\u05e9\u05dc\u05d5\u05dd \u0938\u094d\u0924\u0947"),
    ],
)  # fmt: skip
def test_safe_text(text: str, shown: str) -> None:
    assert safe(text) == shown
    assert safe(shown) == shown


def test_no_control_and_no_unseen_character_of_unicode_is_left() -> None:
    everything = "".join(map(chr, range(0x110000)))

    left = {c for c in safe(everything) if unicodedata.category(c) in ("Cc", "Cf", "Cs", "Zl", "Zp")}

    # Line ends, signs that stand before Arabic or other numbers and are seen, and Egyptian signs of layout.
    assert left - {"\n", "\u200c", "\u200d"} <= {
        *map(chr, (*range(0x600, 0x606), 0x6DD, 0x70F, 0x890, 0x891, 0x8E2, 0x110BD, 0x110CD, *range(0x13430, 0x13440)))
    }


def test_whatever_is_printed_is_safe() -> None:
    hostile = "\u202ex\x9b2J"
    table = Table(hostile, title=hostile)
    table.add_row(hostile)
    to = terminal(is_terminal=True)

    to.print(hostile)
    to.print(Text(hostile, style="bold red"), Panel(hostile, title=hostile), table)
    to.rule(hostile)
    say(to, hostile)
    with Progress(console=to) as bar:
        bar.add_task(hostile, total=1)

    assert printed(to).count("<U+202E>x") >= 9
    assert not {"\u202e", "\x9b"} & set(printed(to))
    assert "\x1b[1;31m" in printed(to)


def test_a_table_in_a_pipe_is_as_wide_as_it_is() -> None:
    table = Table("name")
    table.add_row("a long name of many words " * 10)
    to = terminal(width=20)

    print_table(to, table)

    assert "a long name of many words " * 10 in printed(to)
    assert to.width == 20
