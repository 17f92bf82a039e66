"""Visibility, branch, tag and owner of the repository."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.hub_stub import (
    FakeHub,
    respond,
)
from tests.pipeline.commands import assert_one_line
from tests.pipeline.publishing.runs import (
    SET,
    commits,
    publish,
    shards,
    succeed,
)


def test_public_repository_message_and_tag(hub: FakeHub, built: Path) -> None:
    said = succeed(built, "--public", "--tag", "v1", "--message", "First version")

    repo = hub.repos[SET]
    assert not repo.private
    assert commits(hub) == ["First version"]
    assert repo.tags == {"v1": repo.branches["main"]}
    assert "tag   v1\n" in said


def test_repository_of_an_organisation(hub: FakeHub, built: Path) -> None:
    succeed(built, repo_id="club/set")

    assert len(commits(hub, "club/set")) == 1


def test_branch_is_made_where_there_is_none_and_main_stays(hub: FakeHub, built: Path) -> None:
    head = hub.create(SET).branches["main"]

    said = succeed(built, "--revision", "v2-draft")

    assert hub.repos[SET].branches["main"] == head
    assert shards(built).items() <= hub.repos[SET].files("v2-draft").items()
    assert f'load  datasets.load_dataset("{SET}", revision="v2-draft")' in said


def test_tag_of_another_commit_is_refused_before_anything_is_uploaded(hub: FakeHub, built: Path, other: Path) -> None:
    succeed(built, "--tag", "v1")
    hub.received.clear()

    assert_one_line(publish(other, "--tag", "v1"), 2, f"{SET} already has a tag 'v1'")
    assert (hub.received, len(commits(hub))) == ({}, 1)
    # On the commit that it has, it may be asked for again.
    assert "tag   v1\n" in succeed(built, "--tag", "v1")


def test_tag_that_failed_is_made_by_the_next_run_without_another_commit(hub: FakeHub, built: Path) -> None:
    hub.on("POST", "/tag/", respond(500))

    result = publish(built, "--tag", "v1")

    head = hub.repos[SET].branches["main"]
    assert_one_line(result, 1, "(HTTP 500)", f"(published at {head[:12]}, but without tag 'v1')")
    succeed(built, "--tag", "v1")
    assert (hub.repos[SET].tags, len(commits(hub))) == ({"v1": head}, 1)


@pytest.mark.parametrize(
    ("private", "asked", "way_out"), [(False, "--private", "--public"), (True, "--public", "--private")]
)
def test_visibility_that_is_not_as_asked_is_refused(
    hub: FakeHub, built: Path, private: bool, asked: str, way_out: str
) -> None:
    hub.create(SET, private)

    assert_one_line(publish(built, asked), 2, f"{SET} exists and is {way_out[2:]}", f"({way_out}, or ")
    assert not commits(hub)


def test_repository_with_data_of_others_is_left_alone(hub: FakeHub, built: Path) -> None:
    hub.create(SET).add("data/train.parquet", b"precious")

    result = publish(built)

    assert_one_line(result, 2, f"{SET} holds data that everyuser did not publish (data/train.parquet)")
    assert hub.repos[SET].files()["data/train.parquet"] == b"precious"
    assert not hub.received


def test_tag_is_no_branch(hub: FakeHub, built: Path) -> None:
    repo = hub.create(SET)
    repo.tags["v1"] = repo.branches["main"]

    assert_one_line(publish(built, "--revision", "v1"), 2, f"--revision v1: {SET} has a tag of this name")


@pytest.mark.parametrize(
    ("repo_id", "arguments", "part"),
    [
        ("set", (), "'repo_id': not the id of a repository; expected owner/name"),
        ("datasets/ann/set", (), "'repo_id': not the id"),
        ("ann/set.git", (), "'repo_id': not the id"),
        ("ann/a--b", (), "'repo_id': not the id"),
        (SET, ("--revision", "a" * 40), "'revision': a commit cannot be published to; name a branch"),
        (SET, ("--message", ""), "'message'"),
    ],
)
def test_wrong_arguments_are_refused(
    hub: FakeHub, built: Path, repo_id: str, arguments: tuple[str, ...], part: str
) -> None:
    assert_one_line(publish(built, *arguments, repo_id=repo_id), 2, "everyuser publish: ", part)
    assert not hub.requests
