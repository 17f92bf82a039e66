"""Publishing as part of a build, and its display, by the real clients of the Hub over HTTP (`tests/hub_stub.py`)."""

from __future__ import annotations

from io import StringIO
from pathlib import Path

import pytest
import yaml
from rich.console import Console

from pipeline.console.publish_display import PublishDisplay
from pipeline.io.manifests import load_manifest
from pipeline.publishing.publish import publish as run_publish
from schemas.config import PublishConfig
from tests.forks import Fork
from tests.hub_stub import (
    STRANGER,
    WRITER,
    FakeHub,
    respond,
)
from tests.pipeline.commands import assert_one_line
from tests.pipeline.helpers import TINY, tiny
from tests.pipeline.processes import BY_TWO
from tests.pipeline.publishing.runs import (
    EMPTY,
    SET,
    build,
    commits,
    environment,
    finish,
    hashes,
    publish,
    shards,
    succeed,
)
from tests.stub import StubServer


def test_build_publishes_what_it_built(hub: FakeHub, tmp_path: Path) -> None:
    folder = tmp_path / "out"
    with StubServer() as stub:
        result = build(folder, stub, publish={"repo_id": SET, "tag": "v1"})

    assert (result.code, result.err) == (0, "")
    assert shards(folder).items() <= hub.repos[SET].files().items()
    assert (len(commits(hub)), [*hub.repos[SET].tags]) == (1, ["v1"])
    assert hub.received == hashes(folder)
    # The workers have uploaded the shards: the driver, which commits, does not ask about them again.
    assert hub.seen("POST", "/objects/batch") == 1
    lines = result.out.splitlines()
    assert "upload: 5/5 shards, 0.2 of 0.2 MB" in lines
    assert lines.index(f"in    {folder}") < lines.index(f"see   {hub.url}/datasets/{SET}")
    assert not [*folder.glob(".publish/*")]


def test_finished_build_is_published_when_it_is_run_again_with_publish(hub: FakeHub, built: Path) -> None:
    with StubServer() as stub:
        result = build(built, stub, publish={"repo_id": SET, "private": False})

        assert (result.code, result.err) == (0, "")
        assert not stub.bodies
    assert not hub.repos[SET].private
    assert shards(built).items() <= hub.repos[SET].files().items()


@pytest.mark.parametrize(
    ("token", "code", "part"),
    [
        ("", 2, "no token for the Hub"),
        ("hf_unknown", 1, "the Hub does not accept the token"),
        (STRANGER, 1, "you may not write there, you are 'bob'"),
    ],
)
def test_build_that_could_not_be_published_does_not_begin(
    hub: FakeHub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, token: str, code: int, part: str
) -> None:
    monkeypatch.setenv("HF_TOKEN", token)

    with StubServer() as stub:
        result = build(tmp_path / "out", stub, publish={"repo_id": SET})

        assert_one_line(result, code, part)
        assert not stub.bodies
    assert not hub.repos


def test_build_does_not_begin_where_the_repository_may_not_be_written_to(
    hub: FakeHub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    hub.create(SET, private=False)
    monkeypatch.setenv("HF_TOKEN", STRANGER)

    with StubServer() as stub:
        result = build(tmp_path / "out", stub, publish={"repo_id": SET, "private": False})

        assert_one_line(result, 1, f"{SET}: the Hub forbids it")
        assert not stub.bodies


def test_check_of_access_before_the_build_changes_nothing(hub: FakeHub, tmp_path: Path) -> None:
    with StubServer() as stub:
        result = build(tmp_path / "out", stub, publish={"repo_id": SET}, rules={"min_words": 500})

    assert_one_line(result, 1, "60 of 60 pairs were lost")
    assert not hub.repos


def test_failure_in_a_worker_is_one_line_and_the_build_stays_finished(hub: FakeHub, built: Path) -> None:
    hub.on("POST", "/objects/batch", respond(403, "Private storage limit reached"))

    with StubServer() as stub:
        result = build(built, stub, publish={"repo_id": SET})

    assert_one_line(result, 1, "ann/set: the Hub forbids it; the Hub says: Private storage limit", EMPTY)
    assert load_manifest(built).status == "complete"


def test_worker_processes_upload_and_the_driver_commits_once(hub: FakeHub, built: Path) -> None:
    config = built.parent / "build.yaml"
    config.write_text(yaml.safe_dump(TINY | {"name": "my-set", "publish": {"repo_id": SET}}))
    command = ["-m", "pipeline.cli", "build", str(config), "--output", str(built), *BY_TWO]

    out, err = finish(Fork(*command, env=environment(hub, built.parent / "home")))

    assert WRITER not in out + err
    assert "upload: 5/5 shards, 0.2 of 0.2 MB" in out
    assert (hub.received, len(commits(hub))) == (hashes(built), 1)
    assert hub.seen("POST", "/objects/batch") == 1


def test_publish_is_no_part_of_the_fingerprint() -> None:
    assert tiny(publish={"repo_id": SET}).fingerprinted() == tiny().fingerprinted()


def test_terminal_gets_a_bar(hub: FakeHub, built: Path) -> None:
    screen = StringIO()
    display = PublishDisplay(Console(file=screen, force_terminal=True, width=100))

    run_publish(built, PublishConfig(repo_id=SET), observer=display)
    display.summary()

    assert "5/5 shards, 0.2 of 0.2 MB" in screen.getvalue()
    assert "\x1b" in screen.getvalue()


def test_resumed_run_reports_what_is_uploaded(hub: FakeHub, built: Path) -> None:
    hub.on("POST", "/commit/", respond(500))
    assert publish(built).code == 1

    said = succeed(built)

    assert "upload: 5 of 5 shards are there from an earlier run\n" in said
    assert "shards, 0" not in said


def test_display_is_silent_where_nothing_is_published() -> None:
    screen = StringIO()

    PublishDisplay(Console(file=screen)).summary()

    assert not screen.getvalue()
