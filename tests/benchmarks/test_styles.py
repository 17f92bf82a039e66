from __future__ import annotations

from pathlib import Path

import pytest

from benchmarks import styles
from preference_space.space import load_space
from tests.stub import StubServer, prompt_of


def run(monkeypatch: pytest.MonkeyPatch, *arguments: str) -> None:
    monkeypatch.setattr("sys.argv", ["styles", *arguments])
    styles.main()


def test_the_four_replies_are_asked_for_by_both_styles_and_kept(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    openness = load_space("alignx").dimensions[4]

    with StubServer() as stub:
        engine = f"engine={{kind: openai, base_urls: [{stub.url!r}]}}"
        keys = ("--person", "openness=-1", "--output", str(tmp_path / "out"), "--set", engine)
        run(monkeypatch, *keys)
        first, asked = capsys.readouterr().out, [prompt_of(body).splitlines()[-1] for body in stub.bodies]
        run(monkeypatch, *keys)
        again, asked_again = capsys.readouterr().out, len(stub.bodies)

    poles = (openness.negative, openness.positive)
    assert sorted(asked) == sorted(f"- {text}" for pole in poles for text in (pole.hint, pole.service))
    assert [line for line in first.splitlines() if line.startswith("person")] == [f"{'person':<20} Low Openness"]
    for name in ("peer, chosen", "peer, rejected", "assistant, chosen", "assistant, rejected"):
        assert first.count(f"\n{name} ") == 1
    assert asked_again == len(asked) == 4
    # Below the line about the machine, whose load changes.
    assert again.partition("\npost ")[2] == first.partition("\npost ")[2]
