"""Published files of a build, and the checks before an upload."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import yaml

from pipeline.io.manifests import load_manifest, read_manifest
from pipeline.io.shards import read_meta, write_shard
from pipeline.publishing.contents import is_published_path
from pipeline.publishing.privacy import local_paths, public_manifest, without_paths
from preference_space.space import load_space
from schemas import SCHEMA_VERSION
from tests.forks import Fork
from tests.hub_stub import (
    FakeHub,
)
from tests.pipeline.commands import assert_one_line
from tests.pipeline.helpers import rows_of
from tests.pipeline.publishing.runs import (
    OTHERS,
    SET,
    commits,
    environment,
    finish,
    hashes,
    publish,
    shards,
    succeed,
    unfinished,
    write,
)
from tests.pipeline.report import fake


def test_first_publish_makes_a_private_repository_and_one_commit(hub: FakeHub, built: Path) -> None:
    said = succeed(built).splitlines()

    repo, fingerprint = hub.repos[SET], load_manifest(built).fingerprint
    files = len(OTHERS) + len(shards(built))
    assert repo.private
    assert repo.files().keys() == {".gitattributes", *OTHERS, *shards(built)}
    assert shards(built).items() <= repo.files().items()
    assert commits(hub) == [f"Publish my-set: 120 examples, fingerprint {fingerprint[:16]}"]
    assert hub.received == hashes(built)
    assert said == [
        f"checking {built} against its manifest",
        "upload: the repository is new",
        "upload: 5/5 shards, 0.2 of 0.2 MB",
        f"published {files} files new or changed, 0 deleted, 0 unchanged; commit {repo.branches['main'][:12]}",
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

    out, _ = finish(Fork("-c", script, SET, "ann/part", env=environment(hub, tmp_path / "home")))
    whole, part = (json.loads(line) for line in out.splitlines())

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


def test_published_manifest_has_nothing_about_the_builder(hub: FakeHub, built: Path) -> None:
    manifest = load_manifest(built).model_dump(mode="json")
    home = "/home/ann/secret place"
    manifest["config"] |= {
        "space": f"{home}/own.yaml",
        "templates": f"{home}/templates",
        "seeds": manifest["config"]["seeds"] | {"path": f"{home}/posts.jsonl"},
        "engine": {"kind": "openai", "base_urls": ["http://ann:pa55word@10.0.0.1/v1"], "api_key_env": "MY_KEY"},
        "workers": {"image": "europe-docker.pkg.dev/cloud-project/everyuser", "experiments": ["use_cloud-project"]},
        "publish": {"repo_id": "ann/rehearsal"},
        "verification": manifest["config"]["verification"]
        | {"model": f"{home}/judge", "engine": {"kind": "openai", "base_urls": ["http://bob:pa55word@10.0.0.2/v1"]}},
    }
    for part in ("config", "parts"):
        extra = {"chat_template": f"{home}/chat.j2", "top_k": 5}
        manifest[part]["generation"] |= {"model": f"{home}/model", "extra": extra}
    write(built, manifest)
    (built / "README.md").write_text((built / "README.md").read_text() + f"\nModel: {home}/model\n")

    succeed(built)

    published = hub.repos[SET].files()
    text = b"".join(published.values())
    assert all(
        secret not in text for secret in (b"secret place", b"pa55word", b"MY_KEY", b"cloud-project", b"rehearsal")
    )
    assert published["README.md"].endswith(b"\nModel: model\n")
    public = read_manifest(published["manifest.json"])
    assert (public.status, public.schema_version, public.files) == (
        "complete",
        SCHEMA_VERSION,
        load_manifest(built).files,
    )
    assert (public.config["seeds"]["path"], public.config["space"]) == ("posts.jsonl", "own.yaml")
    assert public.config["verification"]["model"] == "judge"
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
    manifest = load_manifest(finished)
    mining = {"source": {"path": [path, "packaged"]}}
    config = manifest.config | {"mining": mining, "generation": {"model": path, "extra": {"a": [path]}}}

    public = public_manifest(manifest.model_copy(update={"config": config}))

    assert public.config["mining"]["source"]["path"] == [left, "packaged"]
    assert public.config["generation"] == {"model": left, "extra": {"a": [left]}}


def test_paths_are_cut_out_of_texts_as_json_and_html_spell_them() -> None:
    names = {"/a/b": "b", "/a/b/c&d.json": "c&d.json", '/a/"q".json': '"q".json'}

    text = 'see /a/b/c&d.json, /a/b/c&amp;d.json, /a/\\"q\\".json and /a/b'

    assert without_paths(text, names) == 'see c&d.json, c&d.json, "q".json and b'


def test_files_and_judges_of_a_report_are_named_without_their_folders(finished: Path) -> None:
    report: Any = SimpleNamespace(
        contamination=[SimpleNamespace(file="/home/ann/benchmark.jsonl")],
        second_judge=SimpleNamespace(found=SimpleNamespace(judge="/home/ann/judge")),
    )

    assert local_paths(load_manifest(finished), report) == {
        "/home/ann/benchmark.jsonl": "benchmark.jsonl",
        "/home/ann/judge": "judge",
    }


def test_report_about_other_shards_is_not_published(hub: FakeHub, built: Path) -> None:
    ours = fake.report().model_copy(update={"files_digest": load_manifest(built).files_digest})
    (built / "report.json").write_text(ours.model_dump_json())
    succeed(built)
    (built / "report.json").write_text(fake.report().model_dump_json())

    assert_one_line(publish(built), 2, "report.json describes other shards; run `everyuser report` again")


def test_report_that_cannot_be_read_is_not_published(hub: FakeHub, built: Path) -> None:
    (built / "report.json").write_text("{}")

    assert_one_line(publish(built), 2, "report.json is damaged or of another version; run `everyuser report` again")


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
    same = len(OTHERS) - 2
    assert f"published {len(shards(other)) + 2} files new or changed, {gone} deleted, {same} unchanged" in said


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
        (lose_column, ["bytes instead of"]),
        (lose_row, ["bytes instead of"]),
        (belong_to_nobody, ["was not written by everyuser"]),
        (add_stranger, ["test-more.parquet", "manifest.json does not list it"]),
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
        ("schema", "was built by another version of everyuser (schema 0, here"),
    ],
)
def test_folder_without_a_readable_manifest_is_not_published(
    hub: FakeHub, built: Path, manifest: str | None, part: str
) -> None:
    if manifest is None:
        (built / "manifest.json").unlink()
    elif manifest == "schema":
        write(built, load_manifest(built).model_dump(mode="json") | {"schema_version": "0"})
    else:
        (built / "manifest.json").write_text(manifest)

    assert_one_line(publish(built, "--force"), 2, str(built), part)
    assert not hub.requests


def test_missing_folder_is_not_created(hub: FakeHub, tmp_path: Path) -> None:
    assert_one_line(publish(tmp_path / "nowhere"), 2, "nowhere holds no build")
    assert not (tmp_path / "nowhere").exists()


def test_missing_card_is_written_again(hub: FakeHub, built: Path) -> None:
    succeed(built)
    (built / "README.md").unlink()

    assert "unchanged" in succeed(built)


def test_missing_space_is_reported(hub: FakeHub, built: Path) -> None:
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

    assert_one_line(publish(built, "--force"), 2, f"{built / file} has changed")
    assert not hub.requests


def test_unfinished_build_is_published_by_force_only_and_says_that_it_is_one(hub: FakeHub, built: Path) -> None:
    (built / "report.html").write_text("about the whole build")
    unfinished(built)

    assert_one_line(publish(built), 2, f"{built} is not finished: 4 of 5 shards", "--force")
    assert not hub.requests
    succeed(built, "--force")

    files = hub.repos[SET].files()
    published = read_manifest(files["manifest.json"])
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

    assert_one_line(publish(built), 2, "is not finished: 4 of 5 shards")
    succeed(built, "--force")

    assert read_manifest(hub.repos[SET].files()["manifest.json"]).status == "incomplete"


def test_build_that_lost_too_many_pairs_is_published_by_force_only(hub: FakeHub, built: Path) -> None:
    manifest = load_manifest(built).model_dump(mode="json")
    manifest["config"]["limits"]["max_lost_share"] = 0.1
    manifest["counts"]["pairs_lost"] = 7
    write(built, manifest)

    result = publish(built)

    assert_one_line(result, 2, "7 of 60 pairs were lost, more than limits.max_lost_share = 0.1", "--force")
    assert not hub.requests
    succeed(built, "--force")


def test_build_that_misses_a_gate_is_published_by_force_only(hub: FakeHub, built: Path) -> None:
    manifest = load_manifest(built).model_dump(mode="json")
    manifest["config"]["limits"]["min_recovery"] = 0.8
    manifest["counts"]["verification"] |= {"asked": 200, "recovered": 150}
    write(built, manifest)

    result = publish(built)

    assert_one_line(result, 2, "150 (75.0 %) of 200 asked dimensions", "limits.min_recovery = 0.8", "--force")
    assert not hub.requests
    succeed(built, "--force")


def test_build_without_a_shard_is_not_even_published_by_force(hub: FakeHub, built: Path) -> None:
    shutil.rmtree(built / "data")

    assert_one_line(publish(built, "--force"), 2, "has no finished shard (no data/*.parquet)")
