from __future__ import annotations

from pathlib import Path

import pytest

from benchmarks import verification
from pipeline.io.manifests import load_manifest
from tests.planted import Planted, swapped
from tests.stub import StubServer


def run(monkeypatch: pytest.MonkeyPatch, output: Path, stub: StubServer, mode: str = "filter") -> None:
    keys = ["sampling.dimensions=[openness, extraversion, helpfulness]", "sampling.min_active=2"]
    keys += ["history={ugc: 1, pair: 1, min_support: 0}", "splits={train: 1, validation: 0, test: 0}"]
    sets = [part for key in keys for part in ("--set", key)]
    arguments = [str(output), "--pairs", "20", "--url", stub.url, "--mode", mode, *sets]
    monkeypatch.setattr("sys.argv", ["verification", *arguments])
    verification.main()


def test_the_figures_are_those_of_the_build_that_the_journals_make(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    with StubServer(Planted(swapped("openness"))) as stub:
        run(monkeypatch, tmp_path / "out", stub)
        asked = len(stub.bodies)

    said = capsys.readouterr().out
    counts = load_manifest(tmp_path / "out").counts
    assert counts.pairs_accepted == 20
    assert "20 of 20 attempts accepted (100%)" in said
    (openness,) = (line.split("|") for line in said.splitlines() if line.startswith("| openness |"))
    assert openness[2].split()[0] == openness[4].split()[0] == "0"
    assert f"| all | {counts.verification.recovered} of {counts.verification.asked} " in said
    assert "generation, all attempts: 40 of 40 requests in" in said
    assert f"verification, all attempts: {asked - 40} of {asked - 40} requests in" in said
    assert said.count("computed unknown") == 4


def test_a_second_run_asks_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    with StubServer(Planted()) as stub:
        run(monkeypatch, tmp_path / "out", stub, "record")
        asked = len(stub.bodies)
        first = capsys.readouterr().out
        run(monkeypatch, tmp_path / "out", stub, "record")

    assert len(stub.bodies) == asked
    second = capsys.readouterr().out
    assert "nothing was measured" in second
    assert second[second.index("attempts accepted") :] == first[first.index("attempts accepted") :]
