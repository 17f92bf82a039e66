from __future__ import annotations

import io
import itertools
import time

import pytest
from rich.console import Console

from pipeline.console import display
from pipeline.console.display import Display
from pipeline.console.phases import Phase
from tests.waiting import wait_until


class Scripted(Phase):
    """A phase whose counts a test sets."""

    said = "3/10 shards"
    now = 0

    def counts(self) -> dict[str, int]:
        """Return what the test has set."""
        return {"settled": self.now}

    def completed(self) -> int:
        """Return what the test has set."""
        return self.now

    def facts(self) -> str:
        """Return what the test has set."""
        return f"{self.said}, {self.now} settled"


@pytest.fixture
def phase() -> Scripted:
    return Scripted("pairs", 10)


def wait_for(screen: io.StringIO, part: str) -> None:
    wait_until(lambda: part in screen.getvalue())


def test_plain_lines_are_printed_when_something_has_happened(phase: Scripted, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(display, "_LINE_SECONDS", 0.01)
    monkeypatch.setattr(display, "_MOST_LINE_SECONDS", 60.0)
    screen = io.StringIO()
    with Display(Console(file=screen, width=80)) as shown:
        shown.follow(phase)
        time.sleep(0.2)
        before = screen.getvalue()
        phase.now = 4
        wait_for(screen, "4 settled")

    assert before == ""
    assert set(screen.getvalue().splitlines()) == {"pairs: 3/10 shards, 4 settled"}


def test_a_phase_is_looked_at_more_often_than_it_is_printed(phase: Scripted, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(display, "_LOOK_SECONDS", 0.01)
    screen, looks = io.StringIO(), itertools.count()
    monkeypatch.setattr(phase, "facts", lambda: f"look {next(looks)}")
    with Display(Console(file=screen, width=80)) as shown:
        shown.follow(phase)
        wait_until(lambda: next(looks) > 20)

    assert screen.getvalue() == ""


def test_plain_lines_say_for_how_long_nothing_has_happened(phase: Scripted, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(display, "_LINE_SECONDS", 0.01)
    monkeypatch.setattr(display, "_MOST_LINE_SECONDS", 0.05)
    screen = io.StringIO()
    with Display(Console(file=screen, width=80)) as shown:
        shown.follow(phase)
        wait_for(screen, "pairs: 3/10 shards, 0 settled, nothing new for 0 s\n")


def test_plain_lines_are_not_wrapped_and_those_on_a_terminal_break_between_words(phase: Scripted) -> None:
    phase.said, phase.now = "word " * 40, 1
    plain, terminal = io.StringIO(), io.StringIO()
    for screen, is_terminal in ((plain, False), (terminal, True)):
        console = Console(file=screen, width=80, force_terminal=is_terminal, color_system=None, legacy_windows=False)
        with Display(console) as shown:
            shown.follow(phase)
            shown.notice("path " * 40)

    assert plain.getvalue().splitlines() == ["path " * 40, f"pairs: {'word ' * 40}, 1 settled"]
    words = {word for line in terminal.getvalue().splitlines() for word in line.split() if word[0] in "pw"}
    assert words <= {"path", "word", "pairs"}


def test_stages_of_a_report_follow_each_other() -> None:
    plain, terminal = io.StringIO(), io.StringIO()
    for screen, is_terminal in ((plain, False), (terminal, True)):
        with Display(Console(file=screen, width=80, force_terminal=is_terminal)) as shown:
            for name, total in (("shards", 2), ("samples", 1)):
                for done in range(total + 1):
                    shown.measure(name, done, total)

    assert plain.getvalue().splitlines() == ["shards: 2 of 2", "samples: 1 of 1"]
    assert "100%" in terminal.getvalue()
    assert "shards" in terminal.getvalue()


def test_a_phase_that_an_error_ends_is_shown_as_far_as_it_came() -> None:
    screen = io.StringIO()
    with pytest.raises(ZeroDivisionError), Display(Console(file=screen)) as shown:
        shown.measure("shards", 1, 2)
        raise ZeroDivisionError

    assert screen.getvalue() == "shards: 1 of 2\n"
