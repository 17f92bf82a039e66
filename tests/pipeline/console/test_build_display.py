from __future__ import annotations

import io
import time
from collections import Counter
from pathlib import Path

import pytest
from rich.console import Console

from pipeline.console import build_display as display
from pipeline.console.build_display import Display
from pipeline.console.phases import Steps
from pipeline.plan import BuildPlan
from schemas import SCHEMA_VERSION
from schemas.manifest import Counts, FileEntry, Manifest
from tests.pipeline.helpers import prepared, tiny


class Scripted(Steps):
    """Steps whose counts a test sets."""

    said = "3/10 shards"

    def __init__(self, plan: BuildPlan) -> None:
        super().__init__("pairs", plan, 10)
        self.now = 0

    def counts(self) -> dict[str, int]:
        """As the test has it."""
        return Counter(settled=self.now)

    def completed(self) -> int:
        """As the test has it."""
        return self.now

    def facts(self) -> str:
        """As the test has it."""
        return f"{self.said}, {self.now} settled"


@pytest.fixture
def steps(tmp_path: Path) -> Scripted:
    return Scripted(prepared(tmp_path / "out", tiny()))


def wait_for(screen: io.StringIO, part: str) -> None:
    deadline = time.monotonic() + 60
    while part not in screen.getvalue() and time.monotonic() < deadline:
        time.sleep(0.01)
    assert part in screen.getvalue()


def test_plain_lines_are_printed_when_something_has_happened(steps: Scripted, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(display, "_LINE_SECONDS", 0.01)
    monkeypatch.setattr(display, "_MOST_LINE_SECONDS", 60.0)
    screen = io.StringIO()
    with Display(Console(file=screen, width=80)) as shown:
        shown._follow(steps)
        time.sleep(0.2)
        before = screen.getvalue()
        steps.now = 4
        wait_for(screen, "4 settled")

    assert before == ""
    assert set(screen.getvalue().splitlines()) == {"pairs: 3/10 shards, 4 settled"}


def test_plain_lines_say_for_how_long_nothing_has_happened(steps: Scripted, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(display, "_LINE_SECONDS", 0.01)
    monkeypatch.setattr(display, "_MOST_LINE_SECONDS", 0.05)
    screen = io.StringIO()
    with Display(Console(file=screen, width=80)) as shown:
        shown._follow(steps)
        wait_for(screen, "pairs: 3/10 shards, 0 settled, nothing new for 0 s\n")


def test_plain_lines_are_not_wrapped_and_those_on_a_terminal_break_between_words(steps: Scripted) -> None:
    steps.said = "word " * 40
    plain, terminal = io.StringIO(), io.StringIO()
    for screen, is_terminal in ((plain, False), (terminal, True)):
        console = Console(file=screen, width=80, force_terminal=is_terminal, color_system=None, legacy_windows=False)
        with Display(console) as shown:
            shown._follow(steps)
            shown.told("path " * 40)

    assert plain.getvalue().splitlines() == ["path " * 40, f"pairs: {'word ' * 40}, 0 settled"]
    words = {word for line in terminal.getvalue().splitlines() for word in line.split() if word[0] in "pw"}
    assert words <= {"path", "word", "pairs"}


def manifest_of(**counts: object) -> Manifest:
    return Manifest(
        schema_version=SCHEMA_VERSION,
        status="complete",
        name="x",
        fingerprint="f",
        parts={},
        config=tiny().model_dump(mode="json"),
        versions={},
        counts=Counts(pairs_asked=60, **counts),  # type: ignore[arg-type]
        files=(FileEntry(path="data/train-00000-of-00001.parquet", rows=1, bytes=1, sha256=""),),
    )


def summary_of(manifest: Manifest, folder: Path) -> str:
    screen = io.StringIO()
    Display(Console(file=screen, width=80)).summary(manifest, folder, "my build.yaml")
    return screen.getvalue()


def test_last_words_say_what_circumstances_cost_and_how_to_ask_again(tmp_path: Path) -> None:
    counts = {"pairs_lost": 4, "pairs_unanswered": 3, "threads": {"responses/unanswered": 7}, "examples": 112}

    said = summary_of(manifest_of(**counts, rejected={"generate/timeout": 4}), tmp_path)

    command = f"everyuser build 'my build.yaml' -o {tmp_path} --retry-lost"
    assert f"open  circumstances cost 3 pairs and 7 responses; to ask again: {command}" in said.splitlines()
    assert "short of 120 asked for by 8: generate/timeout 4; see to the server and its log" in said


def test_last_words_of_a_build_that_lost_nothing_offer_no_retry(tmp_path: Path) -> None:
    said = summary_of(manifest_of(pairs_accepted=60, examples=120), tmp_path)

    assert "--retry-lost" not in said
    assert "short" not in said


def test_last_words_give_advice_that_fits_the_commonest_loss(tmp_path: Path) -> None:
    rejected = {"assemble/history_too_short": 25, "validate/copied": 2}

    said = summary_of(manifest_of(pairs_lost=27, examples=66, rejected=rejected), tmp_path)

    (line,) = [line for line in said.splitlines() if line.startswith("short")]
    assert "assemble/history_too_short 25, validate/copied 2; use more pairs" in line
    assert "min_support" not in line
