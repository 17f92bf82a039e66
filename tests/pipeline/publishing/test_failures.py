"""Failures of the Hub, runs that end midway, and the secrecy of the token."""

from __future__ import annotations

import signal
import threading
from pathlib import Path
from typing import Any

import pytest
from huggingface_hub import constants, get_session

from pipeline.io.locks import locked
from tests.hub_stub import (
    READER,
    STRANGER,
    WRITER,
    FakeHub,
    after,
    cut_off,
    echoed,
    held,
    hidden,
    respond,
)
from tests.pipeline.commands import assert_one_line
from tests.pipeline.publishing.runs import (
    EMPTY,
    OTHERS,
    SET,
    commits,
    finish,
    hashes,
    publish,
    shards,
    start,
    succeed,
)
from tests.waiting import wait_until


def test_missing_token_is_reported_before_any_request(
    hub: FakeHub, built: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("HF_TOKEN")

    assert_one_line(publish(built), 2, "no token for the Hub: set HF_TOKEN, or run `hf auth login`")
    assert not hub.requests


def test_token_of_the_login_is_used(hub: FakeHub, built: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("HF_TOKEN")
    Path(constants.HF_TOKEN_PATH).write_text(WRITER)

    succeed(built)


@pytest.mark.parametrize(
    ("method", "path", "answer", "parts"),
    [
        ("POST", "/repos/create", respond(429, "slow down", {"Retry-After": "77"}), ["wait 77 seconds", "slow down"]),
        ("POST", "/repos/create", respond(500), ["(HTTP 500)", "run the same command again"]),
        (
            *("POST", "/commit/", respond(429, "", {"ratelimit": '"api";r=0;t=55'})),
            ["the Hub's rate limit is reached; wait 55 seconds, then run the same command again", EMPTY],
        ),
        (
            *(
                "POST",
                "/commit/",
                respond(429, "You have exceeded the rate limit for repository commits (128 per hour)."),
            ),
            ["the Hub says: You have exceeded the rate limit", "wait an hour", EMPTY],
        ),
        ("POST", "/commit/", respond(403, "Private storage limit reached"), ["the Hub says: Private storage", EMPTY]),
        ("POST", "/commit/", respond(500, "Internal"), ["(HTTP 500)", "the Hub says: Internal", EMPTY]),
        ("POST", "/commit/", respond(409, "Busy"), ["ann/set was changed by someone else", "(HTTP 409)", EMPTY]),
        ("POST", "/commit/", respond(418, "a pot"), ["(HTTP 418)", "the Hub says: a pot", EMPTY]),
        ("POST", "/objects/batch", respond(401), ["the Hub does not accept the token", EMPTY]),
        (
            "PUT",
            "/storage/",
            respond(403, "Late"),
            ["storage refuses the upload (HTTP 403)", "the Hub says: Late", EMPTY],
        ),
        ("POST", "/preupload/", respond(404), ["ann/set: not found", EMPTY]),
    ],
)
def test_refusal_or_failure_of_the_hub_is_one_line_and_the_next_run_publishes(
    hub: FakeHub, built: Path, method: str, path: str, answer: Any, parts: list[str]
) -> None:
    hub.on(method, path, answer)

    assert_one_line(publish(built), 1, *parts)
    assert not any(commits(hub, name) for name in hub.repos)
    succeed(built)

    assert len(commits(hub)) == 1
    assert hub.received == hashes(built)


@pytest.mark.parametrize(
    ("token", "repo_id", "parts"),
    [
        ("hf_unknown", SET, ["the Hub does not accept the token", "HF_TOKEN"]),
        (READER, SET, ["ann/set: the token has read access only", "HF_TOKEN"]),
        (STRANGER, SET, ["ann/set: you may not write there, you are 'bob', in no organisation"]),
        (WRITER, "others/set", ["others/set: you may not write there, you are 'ann', in club, library"]),
        (WRITER, "nowhere/set", ["nowhere/set: there is no user or organisation 'nowhere' on the Hub; you are 'ann'"]),
        (WRITER, "library/set", ["library/set: 'ann' has read access only in 'library'"]),
    ],
)
def test_token_without_rights_is_reported_and_nothing_is_created(
    hub: FakeHub, built: Path, monkeypatch: pytest.MonkeyPatch, token: str, repo_id: str, parts: list[str]
) -> None:
    monkeypatch.setenv("HF_TOKEN", token)

    assert_one_line(publish(built, repo_id=repo_id), 1, *parts)
    assert not hub.repos


def test_token_without_write_access_to_a_visible_repository_is_reported(
    hub: FakeHub, built: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    hub.create(SET, private=False)
    monkeypatch.setenv("HF_TOKEN", STRANGER)

    result = publish(built, "--public")

    assert_one_line(result, 1, f"{SET}: the Hub forbids it; the Hub says: Forbidden", "(nothing was published)")


def test_lost_race_is_reported_and_the_other_commit_is_kept(hub: FakeHub, built: Path) -> None:
    hub.create(SET)
    hub.on("POST", "/commit/", after(lambda: hub.repos[SET].add("notes.txt", b"by someone else")))

    result = publish(built)

    assert_one_line(result, 1, f"{SET} was changed by someone else", "(HTTP 412)", "(nothing was published)")
    assert commits(hub) == ["Add notes.txt"]
    hub.received.clear()
    succeed(built)
    assert hub.repos[SET].files()["notes.txt"] == b"by someone else"
    assert (len(commits(hub)), hub.received) == (2, {})


def test_commit_whose_answer_was_lost_counts(hub: FakeHub, built: Path) -> None:
    hub.on("POST", "/commit/", hidden)

    assert f"published {len(OTHERS) + len(shards(built))} files" in succeed(built)
    assert (len(commits(hub)), hub.seen("POST", "/commit/")) == (1, 1)


def test_commit_with_unknown_outcome_is_not_reported_as_missing(hub: FakeHub, built: Path) -> None:
    hub.on("GET", "/refs", after(lambda: None))
    hub.on("GET", "/refs", respond(500))
    hub.on("POST", "/commit/", hidden)

    result = publish(built)

    assert_one_line(result, 1, "(HTTP 504)", "(cannot see whether the commit was made;")
    assert "nothing was published" not in result.err
    assert "unchanged" in succeed(built)
    assert len(commits(hub)) == 1


def test_interrupted_upload_is_retried_by_the_client(hub: FakeHub, built: Path, hasty: None) -> None:
    hub.on("PUT", "/storage/", cut_off)

    said = succeed(built)

    assert "upload: 5/5 shards, 0.2 of 0.2 MB, tried again: 1\n" in said

    assert hub.received == hashes(built)
    assert hub.seen("PUT", "/storage/") == len(shards(built)) + 1


def test_upload_that_fails_is_one_line_and_the_next_run_sends_only_the_rest(
    hub: FakeHub, built: Path, hasty: None
) -> None:
    broken = min(hashes(built))
    hub.on("PUT", broken, cut_off, times=6)

    result = publish(built)

    assert_one_line(result, 1, "the connection to the Hub failed (", "run the same command again", EMPTY)
    assert not commits(hub)
    succeed(built)
    assert (hub.received, len(commits(hub))) == (hashes(built), 1)


def test_hub_that_cannot_be_reached_is_one_line(
    hub: FakeHub, built: Path, hasty: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(constants, "ENDPOINT", "http://127.0.0.1:9")

    assert_one_line(publish(built), 1, "the connection to the Hub failed (ConnectError: ")


def test_offline_mode_is_one_line(hub: FakeHub, built: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)

    assert_one_line(publish(built), 1, "unset HF_HUB_OFFLINE")


def test_client_has_timeouts(hub: FakeHub, built: Path) -> None:
    succeed(built)

    timeout = get_session().timeout
    assert (timeout.connect, timeout.read, timeout.write) == (30.0, 300.0, 120.0)


def test_ignored_file_is_not_left_out_silently(hub: FakeHub, built: Path) -> None:
    hub.create(SET).add(".gitignore", b"data/test-00000-of-00001.parquet")

    result = publish(built)

    assert_one_line(result, 1, "its .gitignore excludes data/test-00000-of-00001.parquet", "(nothing was published)")


def test_what_the_hub_has_lost_since_it_was_uploaded_is_uploaded_again(hub: FakeHub, built: Path) -> None:
    hub.on("POST", "/commit/", respond(500))
    assert publish(built).code == 1
    hub.repos[SET].objects.clear()
    hub.received.clear()

    assert_one_line(publish(built), 1, "(HTTP 400)", "LFS pointer", "run the same command again")
    assert not commits(hub)
    succeed(built)
    assert (hub.received, len(commits(hub))) == (hashes(built), 1)


def test_repository_that_was_deleted_since_the_upload_gets_everything_again(hub: FakeHub, built: Path) -> None:
    hub.on("POST", "/commit/", respond(500))
    assert publish(built).code == 1
    del hub.repos[SET]

    succeed(built)

    assert shards(built).items() <= hub.repos[SET].files().items()


def test_build_at_work_is_not_published(hub: FakeHub, built: Path) -> None:
    with locked(built):
        assert_one_line(publish(built), 2, f"{built}: another build is at work there")


def stop_midway(hub: FakeHub, folder: Path, signal_number: int, gate: threading.Event, code: int) -> tuple[str, str]:
    """Stop a publishing process when two shards are uploaded and the others are in flight."""
    waiting = [*hashes(folder)][2:]
    hub.on("PUT", "|".join(waiting), held(gate), times=len(waiting))
    process = start(hub, folder)
    done = [*hashes(folder)][:2]
    wait_until(
        lambda: (
            set(done) == hub.repos[SET].objects.keys() and hub.seen("PUT", "/storage/") == 5
            if SET in hub.repos
            else False
        ),
        process,
    )
    process.send_signal(signal_number)
    if signal_number == signal.SIGINT:
        # The client lets uploads under way come to an end; the signal must have come before they can.
        wait_until(lambda: "ShdPnd:\t0000000000000000" in Path(f"/proc/{process.pid}/status").read_text(), process)
        gate.set()
    return finish(process, code)


def test_killed_upload_leaves_nothing_visible_and_resumes_without_sending_a_byte_twice(
    hub: FakeHub, built: Path
) -> None:
    gate = threading.Event()
    stop_midway(hub, built, signal.SIGKILL, gate, -signal.SIGKILL)
    assert not commits(hub)

    hub.on("PUT", "/storage/", cut_off)
    _, err = finish(start(hub, built))

    assert err == "", "the client's warnings, of a retry and of the card, are not for the user"
    assert (hub.received, len(commits(hub))) == (hashes(built), 1)
    assert shards(built).items() <= hub.repos[SET].files().items()
    gate.set()


def test_stopped_upload_says_so_in_one_line_and_resumes(hub: FakeHub, built: Path) -> None:
    _, err = stop_midway(hub, built, signal.SIGINT, threading.Event(), 130)
    assert err == "stopped: finished work is kept; run the same command again to resume\n"
    assert not commits(hub)

    finish(start(hub, built))

    assert (hub.received, len(commits(hub))) == (hashes(built), 1)


def test_wrong_token_appears_in_no_output_and_no_file(hub: FakeHub, built: Path) -> None:
    wrong = "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"
    for answer in (None, echoed):
        if answer:
            hub.on("GET", "/api/datasets", answer)
        out, err = finish(start(hub, built, "--debug", token=wrong), code=1)
        assert "error: " in err
        assert wrong not in out + err

    kept = [path for path in built.parent.rglob("*") if path.is_file() and "home" not in path.parts]
    assert kept
    assert not any(wrong.encode() in path.read_bytes() for path in kept)


@pytest.mark.parametrize("wrong", ["hf_with a space", "hf_with\x01control", "hf_with\u00e9accent"])
def test_token_that_no_header_can_carry_does_not_appear_either(
    hub: FakeHub, built: Path, monkeypatch: pytest.MonkeyPatch, wrong: str
) -> None:
    monkeypatch.setenv("HF_TOKEN", wrong)

    result = publish(built, "--debug")

    assert result.code == 2
    assert "error: the token for the Hub has an invalid character" in result.err
    assert wrong not in result.out + result.err
    assert not hub.requests


def test_right_token_is_kept_in_no_file_and_shown_nowhere(hub: FakeHub, built: Path) -> None:
    hub.on("POST", "/commit/", echoed)

    results = [publish(built, "--debug"), publish(built, "--debug")]

    assert [result.code for result in results] == [1, 0]
    assert "the Hub says: bad header: Bearer <token>" in results[0].err
    assert not any(WRITER in result.out + result.err for result in results)
    assert not any(WRITER.encode() in path.read_bytes() for path in built.rglob("*") if path.is_file())
    assert not any(WRITER.encode() in content for content in hub.repos[SET].files().values())


def test_secret_of_a_signed_address_is_not_shown(hub: FakeHub, built: Path) -> None:
    hub.on("PUT", "/storage/", respond(400, "see http://storage/x?X-Signature=abc&X-Key=def now"))

    assert "the Hub says: see http://storage/x?... now" in publish(built).err
