"""Publishing, by the real clients of the Hub, against a Hub of the tests (`tests/hub_stub.py`) over real HTTP."""

from __future__ import annotations

import json
import logging
import os
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from functools import partial
from io import StringIO
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import yaml
from huggingface_hub import constants, get_session
from rich.console import Console
from typer.testing import CliRunner

from pipeline.cli import app
from pipeline.console.publish_display import PublishDisplay
from pipeline.io.manifests import write_manifest
from pipeline.io.shards import read_meta, write_shard
from pipeline.publishing.contents import is_published_path
from pipeline.publishing.privacy import local_paths, public_manifest, without_paths
from pipeline.publishing.publish import publish as run_publish
from preference_space.space import load_space
from schemas import SCHEMA_VERSION
from schemas.config import PublishConfig
from schemas.loader import validate
from schemas.manifest import Manifest
from tests import ROOT
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
from tests.pipeline.helpers import TINY, rows_of, run_build
from tests.pipeline.report import fake
from tests.stub import StubServer

SET = "ann/set"
TEMPLATES = ("annotate", "annotate_json", "portrait_model", "portrait_paper", "portrait_text")
OTHERS = {
    *("README.md", "manifest.json", "preference_space.yaml"),
    *(f"templates/{name}.j2" for name in (*TEMPLATES, "reply")),
}
"""What is published of a build besides its shards, while there is no report."""


class Result:
    """What a command printed, and its exit code."""

    def __init__(self, *arguments: str) -> None:
        outcome = CliRunner(env={"COLUMNS": "300"}).invoke(app, list(arguments))
        self.code, self.out, self.err = outcome.exit_code, outcome.stdout, outcome.stderr


def publish(folder: Path, *arguments: str, repo_id: str = SET) -> Result:
    return Result("publish", str(folder), repo_id, *arguments)


def succeed(folder: Path, *arguments: str, repo_id: str = SET) -> str:
    """Publish, which must work; what was printed."""
    result = publish(folder, *arguments, repo_id=repo_id)
    assert (result.code, result.err) == (0, "")
    return result.out


def assert_one_line(result: Result, code: int, *parts: str) -> None:
    """One line on standard error, with these parts, and nothing that looks like a traceback."""
    assert result.code == code, result.out + result.err
    assert result.err.count("\n") == 1, result.err
    assert result.err.startswith("error: ")
    assert all(part in result.err for part in parts), result.err


@pytest.fixture(scope="module", autouse=True)
def restored() -> Iterator[None]:
    """`everyuser build` silences a whole process, which here is that of the tests."""
    level, hook = logging.getLogger().level, threading.excepthook
    yield
    logging.getLogger().setLevel(level)
    threading.excepthook = hook


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished build of five shards, which no test changes."""
    folder = tmp_path_factory.mktemp("finished") / "out"
    run_build(folder, name="my-set")
    return folder


@pytest.fixture
def built(finished: Path, tmp_path: Path) -> Path:
    """The finished build in a folder of the test's own."""
    return Path(shutil.copytree(finished, tmp_path / "out"))


@pytest.fixture(scope="module")
def other(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Another build, of fewer shards."""
    folder = tmp_path_factory.mktemp("other") / "out"
    run_build(folder, name="my-set", pairs=20, seed=7)
    return folder


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[FakeHub]:
    """A Hub, and this process's clients made to use it: they read the environment when they are imported."""
    with FakeHub() as hub:
        monkeypatch.setattr(constants, "ENDPOINT", hub.url)
        monkeypatch.setattr(constants, "HF_HUB_DISABLE_XET", True)
        monkeypatch.setattr(constants, "HF_TOKEN_PATH", str(tmp_path / "token"))
        monkeypatch.setenv("HF_TOKEN", WRITER)
        yield hub
        assert not hub.tokens_at_storage


@pytest.fixture
def hasty(monkeypatch: pytest.MonkeyPatch) -> None:
    """The client does not wait between its attempts."""
    monkeypatch.setattr("huggingface_hub.utils._http.time", SimpleNamespace(sleep=lambda seconds: None))


def environment(hub: FakeHub, home: Path, token: str = WRITER) -> dict[str, str]:
    """That of a process of its own which uses a Hub."""
    own = {"HF_ENDPOINT": hub.url, "HF_TOKEN": token, "HF_HOME": str(home), "HF_HUB_DISABLE_XET": "1"}
    return os.environ | own | {"COLUMNS": "300"}


def start(hub: FakeHub, folder: Path, *arguments: str, token: str = WRITER) -> subprocess.Popen[str]:
    """`everyuser publish` as a process of its own."""
    command = [sys.executable, "-m", "pipeline.cli", "publish", str(folder), SET, *arguments]
    pipe = subprocess.PIPE
    env = environment(hub, folder.parent / "home", token)
    # Where the tests run in a shell's background, that has its children ignore Ctrl-C.
    heed = partial(signal.signal, signal.SIGINT, signal.SIG_DFL)
    return subprocess.Popen(command, cwd=ROOT, env=env, stdout=pipe, stderr=pipe, text=True, preexec_fn=heed)


def finish(process: subprocess.Popen[str], code: int = 0) -> tuple[str, str]:
    out, err = process.communicate(timeout=300)
    assert process.returncode == code, out + err
    return out, err


def wait_until(condition: Callable[[], bool], process: subprocess.Popen[str]) -> None:
    deadline = time.monotonic() + 60
    while not condition():
        assert process.poll() is None and time.monotonic() < deadline
        time.sleep(0.005)


def manifest_of(folder: Path) -> Manifest:
    return Manifest.model_validate_json((folder / "manifest.json").read_bytes())


def shards(folder: Path) -> dict[str, bytes]:
    """The data of a build, by path in the repository."""
    return {f"data/{path.name}": path.read_bytes() for path in (folder / "data").glob("*.parquet")}


def hashes(folder: Path) -> dict[str, int]:
    """SHA-256 and size of each shard."""
    return {entry.sha256: entry.bytes for entry in manifest_of(folder).files}


def commits(hub: FakeHub, repo_id: str = SET) -> list[str]:
    """The messages of all commits after the Hub's own first one."""
    return [commit.message for commit in hub.repos[repo_id].commits.values()][1:]


def write(folder: Path, manifest: dict[str, Any]) -> None:
    """Replace a build's manifest by another that is as good."""
    write_manifest(folder, Manifest.model_validate_json(json.dumps(manifest)))


def unfinished(folder: Path) -> Path:
    """A build as it is when it was stopped in its last phase: the second of the train shards is missing."""
    left = {"status": "incomplete", "files": [], "counts": {}}
    write(folder, manifest_of(folder).model_dump(mode="json") | left)
    (folder / "README.md").unlink()
    (folder / "data" / "train-00001-of-00003.parquet").unlink()
    return folder


# --- what is published


def test_first_publish_makes_a_private_repository_and_one_commit(hub: FakeHub, built: Path) -> None:
    said = succeed(built).splitlines()

    repo, fingerprint = hub.repos[SET], manifest_of(built).fingerprint
    assert repo.private
    assert repo.files().keys() == {".gitattributes", *OTHERS, *shards(built)}
    assert shards(built).items() <= repo.files().items()
    assert commits(hub) == [f"Publish my-set: 120 examples, fingerprint {fingerprint[:16]}"]
    assert hub.received == hashes(built)
    assert said == [
        f"checking {built} against its manifest",
        "upload: the repository is new",
        "upload: 5/5 shards, 0.2 of 0.2 MB",
        f"published 15 files new or changed, 0 deleted, 0 unchanged; commit {repo.branches['main'][:12]}",
        f"see   {hub.url}/datasets/{SET}",
        f'load  datasets.load_dataset("{SET}")',
    ]


def test_published_datasets_are_loaded_back_with_equal_rows(hub: FakeHub, built: Path, tmp_path: Path) -> None:
    succeed(built)
    succeed(unfinished(built), "--force", repo_id="ann/part")
    script = """
import datasets, json, sys
for name in sys.argv[1:]:
    print(json.dumps({split: list(rows) for split, rows in datasets.load_dataset(name).items()}))
"""

    command = [sys.executable, "-c", script, SET, "ann/part"]
    run = subprocess.run(command, env=environment(hub, tmp_path / "home"), capture_output=True, text=True, check=True)
    whole, part = (json.loads(line) for line in run.stdout.splitlines())

    assert {split: len(rows) for split, rows in whole.items()} == {"train": 72, "validation": 24, "test": 24}
    there = {split: [row for row in rows_of(built / "data") if f"-{split}-" in row["id"]] for split in whole}
    assert part == there
    assert {split: len(rows) for split, rows in part.items()} == {"train": 48, "validation": 24, "test": 24}
    assert whole["train"][:24] + whole["train"][48:] == part["train"]


def test_card_says_how_to_load_it_from_the_hub(hub: FakeHub, built: Path) -> None:
    succeed(built)

    card = hub.repos[SET].files()["README.md"].decode()
    assert f'load_dataset("{SET}")' in card
    assert "PATH_OF_THIS_FOLDER" not in card
    assert "PATH_OF_THIS_FOLDER" in (built / "README.md").read_text()


def test_report_is_published_where_there_is_one(hub: FakeHub, built: Path) -> None:
    (built / "figures").mkdir()
    (built / "figures" / "lengths.png").write_bytes(b"picture")
    (built / "figures" / ".draft.png").write_bytes(b"not for others")
    (built / "report.html").write_text("<p>report</p>")

    succeed(built)

    assert hub.repos[SET].files().keys() - OTHERS - shards(built).keys() == {
        *(".gitattributes", "figures/lengths.png", "report.html"),
    }


def test_published_manifest_tells_nothing_about_who_built(hub: FakeHub, built: Path) -> None:
    manifest = manifest_of(built).model_dump(mode="json")
    home = "/home/ann/secret place"
    manifest["config"] |= {
        "space": f"{home}/own.yaml",
        "templates": f"{home}/templates",
        "seeds": manifest["config"]["seeds"] | {"path": f"{home}/posts.jsonl"},
        "engine": {"kind": "openai", "base_urls": ["http://ann:pa55word@10.0.0.1/v1"], "api_key_env": "MY_KEY"},
        "publish": {"repo_id": "ann/rehearsal"},
    }
    for part in ("config", "parts"):
        extra = {"chat_template": f"{home}/chat.j2", "top_k": 5}
        manifest[part]["generation"] |= {"model": f"{home}/model", "extra": extra}
    write(built, manifest)
    (built / "README.md").write_text((built / "README.md").read_text() + f"\nModel: {home}/model\n")

    succeed(built)

    published = hub.repos[SET].files()
    text = b"".join(published.values())
    assert all(secret not in text for secret in (b"secret place", b"pa55word", b"MY_KEY", b"rehearsal"))
    assert published["README.md"].endswith(b"\nModel: model\n")
    public = Manifest.model_validate_json(published["manifest.json"])
    assert (public.status, public.schema_version, public.files) == (
        "complete",
        SCHEMA_VERSION,
        manifest_of(built).files,
    )
    assert (public.config["seeds"]["path"], public.config["space"]) == ("posts.jsonl", "own.yaml")
    assert public.parts["generation"]["extra"] == {"chat_template": "chat.j2", "top_k": 5}


@pytest.mark.parametrize(
    ("path", "left"),
    [
        ("/a/b.jsonl", "b.jsonl"),
        ("~/b.jsonl", "b.jsonl"),
        ("s3://bucket/b.jsonl", "b.jsonl"),
        ("hf://ann/posts", "hf://ann/posts"),
        ("ann/model", "ann/model"),
        ("packaged", "packaged"),
        ("/no_think", "/no_think"),
    ],
)
def test_of_a_local_path_its_last_part_is_left(finished: Path, path: str, left: str) -> None:
    manifest = manifest_of(finished)
    mining = {"source": {"path": [path, "packaged"]}}
    config = manifest.config | {"mining": mining, "generation": {"model": path, "extra": {"a": [path]}}}

    public = public_manifest(manifest.model_copy(update={"config": config}))

    assert public.config["mining"]["source"]["path"] == [left, "packaged"]
    assert public.config["generation"] == {"model": left, "extra": {"a": [left]}}


def test_paths_are_cut_out_of_texts_as_json_and_html_spell_them() -> None:
    names = {"/a/b": "b", "/a/b/c&d.json": "c&d.json", '/a/"q".json': '"q".json'}

    text = 'see /a/b/c&d.json, /a/b/c&amp;d.json, /a/\\"q\\".json and /a/b'

    assert without_paths(text, names) == 'see c&d.json, c&d.json, "q".json and b'


def test_files_that_a_report_was_compared_with_are_named_without_their_folders(finished: Path) -> None:
    report: Any = SimpleNamespace(contamination=[SimpleNamespace(file="/home/ann/benchmark.jsonl")])

    assert local_paths(manifest_of(finished), report) == {"/home/ann/benchmark.jsonl": "benchmark.jsonl"}


def test_report_about_other_shards_is_not_published(hub: FakeHub, built: Path) -> None:
    ours = fake.report().model_copy(update={"files_digest": manifest_of(built).files_digest})
    (built / "report.json").write_text(ours.model_dump_json())
    succeed(built)
    (built / "report.json").write_text(fake.report().model_dump_json())

    assert_one_line(publish(built), 2, "report.json is about other shards than these; run `everyuser report` again")


def test_report_that_cannot_be_read_is_not_published(hub: FakeHub, built: Path) -> None:
    (built / "report.json").write_text("{}")

    assert_one_line(publish(built), 2, "report.json is damaged, or of another version; run `everyuser report` again")


def test_publishing_again_makes_no_commit_and_sends_nothing(hub: FakeHub, built: Path) -> None:
    succeed(built)
    hub.received.clear()

    said = succeed(built)

    assert f"unchanged {SET} holds this build already; no commit was made" in said
    assert len(commits(hub)) == 1
    assert (hub.received, hub.seen("POST", "/preupload/"), hub.seen("POST", "/commit/")) == ({}, 2, 1)


def test_files_of_an_earlier_build_go_in_the_commit_that_brings_the_new_ones(
    hub: FakeHub, finished: Path, built: Path, other: Path
) -> None:
    succeed(built)
    hub.repos[SET].add("templates/mine.j2", b"of a version before")
    theirs = {"LICENSE": b"x", "docs/use.md": b"x", "data/notes.csv": b"x", "docs/README.md": b"x"}
    for path, content in theirs.items():
        hub.repos[SET].add(path, content)
    before = len(commits(hub))
    hub.received.clear()

    said = succeed(other)

    files = hub.repos[SET].files()
    assert files.keys() == {".gitattributes", *OTHERS, *shards(other), *theirs}
    assert shards(other).items() <= files.items()
    assert len(commits(hub)) == before + 1
    assert hub.received == hashes(other)
    # Shards of both have the same names where they are as many; templates and space are the same files.
    gone = len(shards(finished).keys() - shards(other).keys()) + 1
    assert f"published {len(shards(other)) + 2} files new or changed, {gone} deleted, 8 unchanged" in said


@pytest.mark.parametrize(
    ("path", "is_published"),
    [
        ("data/train-00000-of-00001.parquet", True),
        ("templates/reply.j2", True),
        ("README.md", True),
        ("figures/a.png", True),
        ("data/notes.csv", False),
        ("data/old/train-00000-of-00001.parquet", False),
        ("docs/README.md", False),
        ("LICENSE", False),
        (".gitattributes", False),
    ],
)
def test_only_what_publishing_writes_may_be_deleted(path: str, is_published: bool) -> None:
    assert is_published_path(path) == is_published


# --- where and how


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

    assert_one_line(publish(other, "--tag", "v1"), 2, f"{SET} has a tag 'v1' already", "choose another")
    assert (hub.received, len(commits(hub))) == ({}, 1)
    # On the commit that it has, it may be asked for again.
    assert "tag   v1\n" in succeed(built, "--tag", "v1")


def test_tag_that_failed_is_made_by_the_next_run_without_another_commit(hub: FakeHub, built: Path) -> None:
    hub.on("POST", "/tag/", respond(500))

    result = publish(built, "--tag", "v1")

    head = hub.repos[SET].branches["main"]
    assert_one_line(result, 1, "the Hub fails (HTTP 500)", f"(published at {head[:12]}, but without the tag 'v1')")
    succeed(built, "--tag", "v1")
    assert (hub.repos[SET].tags, len(commits(hub))) == ({"v1": head}, 1)


@pytest.mark.parametrize(
    ("private", "asked", "way_out"), [(False, "--private", "--public"), (True, "--public", "--private")]
)
def test_visibility_that_is_not_as_asked_is_refused(
    hub: FakeHub, built: Path, private: bool, asked: str, way_out: str
) -> None:
    hub.create(SET, private)

    assert_one_line(publish(built, asked), 2, f"{SET} is there already and is {way_out[2:]}", f"({way_out}, or ")
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
        ("set", (), "'repo_id': not the id of a repository: owner/name"),
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


# --- what is checked before anything is uploaded


def damage(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:5000])


def alter(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[2000] ^= 1
    path.write_bytes(content)


def rewrite(path: Path, table: pa.Table) -> None:
    meta = read_meta(path)
    assert meta is not None
    write_shard(path, table.schema, [table], meta)


def lose_column(path: Path) -> None:
    rewrite(path, pq.read_table(path).drop_columns(["topics"]))


def lose_row(path: Path) -> None:
    rewrite(path, pq.read_table(path).slice(1))


def belong_to_nobody(path: Path) -> None:
    pq.write_table(pq.read_table(path).replace_schema_metadata(None), path)


def add_stranger(path: Path) -> None:
    shutil.copy(path, path.with_name("test-more.parquet"))


@pytest.mark.parametrize(
    ("change", "parts"),
    [
        (damage, ["test-00000-of-00001.parquet is damaged"]),
        (alter, ["was changed after it was built (its hash is not that of manifest.json); delete it and run"]),
        (lose_column, ["bytes, and had"]),
        (lose_row, ["bytes, and had"]),
        (belong_to_nobody, ["was not written by everyuser"]),
        (add_stranger, ["test-more.parquet is no shard of this build (manifest.json does not name it); remove it"]),
    ],
)
def test_shard_that_is_not_what_the_manifest_says_is_not_published(
    hub: FakeHub, built: Path, change: Callable[[Path], None], parts: list[str]
) -> None:
    change(built / "data" / "test-00000-of-00001.parquet")

    assert_one_line(publish(built, "--force"), 2, str(built / "data" / "test-"), *parts)
    assert not hub.requests


def test_shard_of_another_build_is_not_published(hub: FakeHub, built: Path, other: Path) -> None:
    shutil.copy(other / "data" / "test-00000-of-00001.parquet", built / "data")

    assert_one_line(publish(built, "--force"), 2, "belongs to another build")
    assert not hub.requests


@pytest.mark.parametrize(
    ("manifest", "part"),
    [
        (None, "holds no build (manifest.json is not there)"),
        ("{}", "manifest.json is damaged, edited, or of another version"),
        ("schema", "was built by another version of everyuser (schema 0, here 3); use that version"),
    ],
)
def test_folder_without_a_readable_manifest_is_not_published(
    hub: FakeHub, built: Path, manifest: str | None, part: str
) -> None:
    if manifest is None:
        (built / "manifest.json").unlink()
    elif manifest == "schema":
        write(built, manifest_of(built).model_dump(mode="json") | {"schema_version": "0"})
    else:
        (built / "manifest.json").write_text(manifest)

    assert_one_line(publish(built, "--force"), 2, str(built), part)
    assert not hub.requests


def test_folder_that_is_not_there_is_not_made(hub: FakeHub, tmp_path: Path) -> None:
    assert_one_line(publish(tmp_path / "nowhere"), 2, "nowhere holds no build")
    assert not (tmp_path / "nowhere").exists()


def test_card_that_is_missing_is_made_anew(hub: FakeHub, built: Path) -> None:
    succeed(built)
    (built / "README.md").unlink()

    assert "unchanged" in succeed(built)


def test_space_that_is_missing_is_told(hub: FakeHub, built: Path) -> None:
    (built / "preference_space.yaml").unlink()

    assert_one_line(publish(built), 2, f"{built / 'preference_space.yaml'} is missing")


def reverse_dimensions(folder: Path) -> None:
    path = folder / "preference_space.yaml"
    space = load_space(path)
    path.write_text(space.model_copy(update={"dimensions": space.dimensions[::-1]}).to_yaml())


def edit_template(folder: Path) -> None:
    path = folder / "templates" / "reply.j2"
    path.write_text(path.read_text() + " ")


@pytest.mark.parametrize(
    ("change", "file"), [(reverse_dimensions, "preference_space.yaml"), (edit_template, "templates/reply.j2")]
)
def test_input_that_was_changed_is_not_published(
    hub: FakeHub, built: Path, change: Callable[[Path], None], file: str
) -> None:
    change(built)

    assert_one_line(publish(built, "--force"), 2, f"{built / file} is not what this build began with")
    assert not hub.requests


def test_unfinished_build_is_published_by_force_only_and_says_that_it_is_one(hub: FakeHub, built: Path) -> None:
    (built / "report.html").write_text("about the whole build")
    unfinished(built)

    assert_one_line(publish(built), 2, f"{built} is not finished: 4 of 5 shards are there", "--force")
    assert not hub.requests
    succeed(built, "--force")

    files = hub.repos[SET].files()
    published = Manifest.model_validate_json(files["manifest.json"])
    assert files.keys() == {".gitattributes", *OTHERS, *shards(built)}
    assert {entry.path: entry.rows for entry in published.files} == dict.fromkeys(shards(built), 24)
    assert (published.status, published.counts.examples) == ("incomplete", 96)
    header = yaml.safe_load(files["README.md"].decode().split("---")[1])
    assert {split["name"]: split["num_examples"] for split in header["dataset_info"]["splits"]} == {
        "train": 48,
        "validation": 24,
        "test": 24,
    }


def test_finished_build_that_lost_a_shard_is_published_by_force_only(hub: FakeHub, built: Path) -> None:
    (built / "data" / "train-00001-of-00003.parquet").unlink()

    assert_one_line(publish(built), 2, "is not finished: 4 of 5 shards are there")
    succeed(built, "--force")

    assert Manifest.model_validate_json(hub.repos[SET].files()["manifest.json"]).status == "incomplete"


def test_build_that_lost_too_many_pairs_is_published_by_force_only(hub: FakeHub, built: Path) -> None:
    manifest = manifest_of(built).model_dump(mode="json")
    manifest["config"]["limits"]["max_lost_share"] = 0.1
    manifest["counts"]["pairs_lost"] = 7
    write(built, manifest)

    result = publish(built)

    assert_one_line(result, 2, "7 of 60 pairs were lost, more than limits.max_lost_share = 0.1", "--force")
    assert not hub.requests
    succeed(built, "--force")


def test_build_without_a_shard_is_not_even_published_by_force(hub: FakeHub, built: Path) -> None:
    shutil.rmtree(built / "data")

    assert_one_line(publish(built, "--force"), 2, "has no finished shard (no data/*.parquet there)")


# --- what can go wrong on the way


def test_missing_token_is_told_before_anything_is_asked(
    hub: FakeHub, built: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("HF_TOKEN")

    assert_one_line(publish(built), 2, "no token for the Hub: set HF_TOKEN, or run `hf auth login`")
    assert not hub.requests


def test_token_of_the_login_is_used(hub: FakeHub, built: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("HF_TOKEN")
    Path(constants.HF_TOKEN_PATH).write_text(WRITER)

    succeed(built)


EMPTY = "(nothing was published; ann/set was made and is still empty)"


@pytest.mark.parametrize(
    ("method", "path", "answer", "parts"),
    [
        ("POST", "/repos/create", respond(429, "slow down", {"Retry-After": "77"}), ["wait 77 seconds", "slow down"]),
        ("POST", "/repos/create", respond(500), ["the Hub fails (HTTP 500); wait, then run the same command again"]),
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
        ("POST", "/commit/", respond(500, "Internal"), ["the Hub fails (HTTP 500); the Hub says: Internal", EMPTY]),
        ("POST", "/commit/", respond(409, "Busy"), ["was changed by someone else since this began (HTTP 409)", EMPTY]),
        ("POST", "/commit/", respond(418, "a pot"), ["the Hub refuses this (HTTP 418); the Hub says: a pot", EMPTY]),
        ("POST", "/objects/batch", respond(401), ["the Hub does not accept the token", EMPTY]),
        (
            "PUT",
            "/storage/",
            respond(403, "Late"),
            ["storage refuses the upload (HTTP 403); the Hub says: Late", EMPTY],
        ),
        ("POST", "/preupload/", respond(404), ["ann/set: not there, or this token does not see it", EMPTY]),
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
        ("hf_unknown", SET, ["the Hub does not accept the token; make one that may write", "HF_TOKEN"]),
        (READER, SET, ["ann/set: the token may only read; make one that may write"]),
        (STRANGER, SET, ["ann/set: you may not write there, you are 'bob', of no organisation; ask to be let in"]),
        (WRITER, "others/set", ["others/set: you may not write there, you are 'ann', of club, library"]),
        (WRITER, "nowhere/set", ["nowhere/set: there is no user or organisation 'nowhere' on the Hub; you are 'ann'"]),
        (WRITER, "library/set", ["library/set: 'ann' may only read in 'library'; ask its owners"]),
    ],
)
def test_token_without_rights_is_told_and_nothing_is_made(
    hub: FakeHub, built: Path, monkeypatch: pytest.MonkeyPatch, token: str, repo_id: str, parts: list[str]
) -> None:
    monkeypatch.setenv("HF_TOKEN", token)

    assert_one_line(publish(built, repo_id=repo_id), 1, *parts)
    assert not hub.repos


def test_token_that_may_not_write_to_a_repository_that_it_sees_is_told(
    hub: FakeHub, built: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    hub.create(SET, private=False)
    monkeypatch.setenv("HF_TOKEN", STRANGER)

    result = publish(built, "--public")

    assert_one_line(result, 1, f"{SET}: the Hub forbids it; the Hub says: Forbidden", "(nothing was published)")


def test_lost_race_is_told_and_the_other_commit_stays(hub: FakeHub, built: Path) -> None:
    hub.create(SET)
    hub.on("POST", "/commit/", after(lambda: hub.repos[SET].add("notes.txt", b"by someone else")))

    result = publish(built)

    assert_one_line(
        result, 1, f"{SET} was changed by someone else since this began (HTTP 412)", "(nothing was published)"
    )
    assert commits(hub) == ["Add notes.txt"]
    hub.received.clear()
    succeed(built)
    assert hub.repos[SET].files()["notes.txt"] == b"by someone else"
    assert (len(commits(hub)), hub.received) == (2, {})


def test_commit_whose_answer_was_lost_counts(hub: FakeHub, built: Path) -> None:
    hub.on("POST", "/commit/", hidden)

    assert "published 15 files" in succeed(built)
    assert (len(commits(hub)), hub.seen("POST", "/commit/")) == (1, 1)


def test_commit_of_which_nothing_is_heard_is_not_said_to_be_missing(hub: FakeHub, built: Path) -> None:
    hub.on("GET", "/refs", after(lambda: None))
    hub.on("GET", "/refs", respond(500))
    hub.on("POST", "/commit/", hidden)

    result = publish(built)

    assert_one_line(result, 1, "the Hub fails (HTTP 504)", "(cannot see whether it was published; the next run will")
    assert "nothing was published" not in result.err
    assert "unchanged" in succeed(built)
    assert len(commits(hub)) == 1


def test_interrupted_upload_is_taken_up_by_the_client_itself(hub: FakeHub, built: Path, hasty: None) -> None:
    hub.on("PUT", "/storage/", cut_off)

    said = succeed(built)

    assert "upload: 5/5 shards, 0.2 of 0.2 MB, tried again: 1\n" in said

    assert hub.received == hashes(built)
    assert hub.seen("PUT", "/storage/") == len(shards(built)) + 1


def test_upload_that_breaks_for_good_is_one_line_and_the_next_run_sends_the_rest_only(
    hub: FakeHub, built: Path, hasty: None
) -> None:
    broken = min(hashes(built))
    hub.on("PUT", broken, cut_off, times=6)

    result = publish(built)

    assert_one_line(result, 1, "no connection to the Hub, or it broke (", "run the same command again", EMPTY)
    assert not commits(hub)
    succeed(built)
    assert (hub.received, len(commits(hub))) == (hashes(built), 1)


def test_hub_that_cannot_be_reached_is_one_line(
    hub: FakeHub, built: Path, hasty: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(constants, "ENDPOINT", "http://127.0.0.1:9")

    assert_one_line(publish(built), 1, "no connection to the Hub, or it broke (ConnectError: ")


def test_offline_mode_is_one_line(hub: FakeHub, built: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)

    assert_one_line(publish(built), 1, "the Hub's client is told to stay offline; unset HF_HUB_OFFLINE")


def test_client_does_not_wait_for_ever(hub: FakeHub, built: Path) -> None:
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

    assert_one_line(publish(built), 1, "the Hub refuses this (HTTP 400)", "LFS pointer", "run the same command again")
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
    from pipeline.io.locks import locked

    with locked(built):
        assert_one_line(publish(built), 2, f"{built}: another build is at work there")


# --- killed and stopped


def stop_midway(hub: FakeHub, folder: Path, signal_number: int, gate: threading.Event, code: int) -> tuple[str, str]:
    """Stop a process that publishes when two shards are uploaded and the others are on their way."""
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


def test_killed_upload_leaves_nothing_visible_and_is_taken_up_without_a_byte_twice(hub: FakeHub, built: Path) -> None:
    gate = threading.Event()
    stop_midway(hub, built, signal.SIGKILL, gate, -signal.SIGKILL)
    assert not commits(hub)

    hub.on("PUT", "/storage/", cut_off)
    _, err = finish(start(hub, built))

    assert err == "", "the client's warnings, of a retry and of the card, are not for the user"
    assert (hub.received, len(commits(hub))) == (hashes(built), 1)
    assert shards(built).items() <= hub.repos[SET].files().items()
    gate.set()


def test_stopped_upload_says_so_in_one_line_and_is_taken_up(hub: FakeHub, built: Path) -> None:
    _, err = stop_midway(hub, built, signal.SIGINT, threading.Event(), 130)
    assert err == "stopped: finished work is kept; run the same command again to resume\n"
    assert not commits(hub)

    finish(start(hub, built))

    assert (hub.received, len(commits(hub))) == (hashes(built), 1)


# --- the token


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
    assert "error: the token for the Hub has a character that none has" in result.err
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


# --- as part of a build


def build(folder: Path, stub: StubServer, *arguments: str, **keys: Any) -> Result:
    """`everyuser build` of the small configuration that `finished` has, and what the test adds."""
    config = folder.parent / "build.yaml"
    engine = {"engine": {"kind": "openai", "base_urls": [stub.url]}}
    config.write_text(yaml.safe_dump(TINY | engine | {"name": "my-set"} | keys))
    return Result("build", str(config), "--output", str(folder), *arguments)


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


def test_look_before_the_build_changes_nothing(hub: FakeHub, tmp_path: Path) -> None:
    with StubServer() as stub:
        result = build(tmp_path / "out", stub, publish={"repo_id": SET}, rules={"min_words": 500})

    assert_one_line(result, 1, "60 of 60 pairs were lost")
    assert not hub.repos


def test_failure_in_a_worker_is_one_line_and_the_build_stays_finished(hub: FakeHub, built: Path) -> None:
    hub.on("POST", "/objects/batch", respond(403, "Private storage limit reached"))

    with StubServer() as stub:
        result = build(built, stub, publish={"repo_id": SET})

    assert_one_line(result, 1, "ann/set: the Hub forbids it; the Hub says: Private storage limit", EMPTY)
    assert manifest_of(built).status == "complete"


def test_worker_processes_upload_and_the_driver_commits_once(hub: FakeHub, built: Path) -> None:
    config = built.parent / "build.yaml"
    config.write_text(yaml.safe_dump(TINY | {"name": "my-set", "publish": {"repo_id": SET}}))
    command = [sys.executable, "-m", "pipeline.cli", "build", str(config), "--output", str(built), "--"]
    command += ["--direct_running_mode=multi_processing", "--direct_num_workers=2"]

    env = environment(hub, built.parent / "home")
    run = subprocess.run(command, cwd=ROOT, env=env, capture_output=True, text=True, check=False)

    assert run.returncode == 0, run.stderr
    assert WRITER not in run.stdout + run.stderr
    assert "upload: 5/5 shards, 0.2 of 0.2 MB" in run.stdout
    assert (hub.received, len(commits(hub))) == (hashes(built), 1)
    assert hub.seen("POST", "/objects/batch") == 1


def test_publish_is_no_part_of_the_fingerprint() -> None:
    with_it = validate_build(publish={"repo_id": SET})

    assert with_it.content() == validate_build().content()


def validate_build(**keys: Any) -> Any:
    from schemas.config import BuildConfig

    return validate(BuildConfig, TINY | keys, "test")


# --- the display


def test_terminal_gets_a_bar(hub: FakeHub, built: Path) -> None:
    screen = StringIO()
    display = PublishDisplay(Console(file=screen, force_terminal=True, width=100))

    run_publish(built, PublishConfig(repo_id=SET), observer=display)
    display.summary()

    assert "5/5 shards, 0.2 of 0.2 MB" in screen.getvalue()
    assert "\x1b" in screen.getvalue()


def test_run_that_goes_on_says_what_is_there(hub: FakeHub, built: Path) -> None:
    hub.on("POST", "/commit/", respond(500))
    assert publish(built).code == 1

    said = succeed(built)

    assert "upload: 5 of 5 shards are there from an earlier run\n" in said
    assert "shards, 0" not in said


def test_nothing_published_is_nothing_said() -> None:
    screen = StringIO()

    PublishDisplay(Console(file=screen)).summary()

    assert not screen.getvalue()
