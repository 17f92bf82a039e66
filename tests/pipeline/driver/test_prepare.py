from __future__ import annotations

import json
import os
import signal
import time
import uuid
from pathlib import Path
from typing import Any

import pytest

from pipeline.driver.prepare import check_output, prepare, with_threads
from pipeline.io import storage
from pipeline.io.locks import locked
from pipeline.io.manifests import find_manifest, write_manifest
from pipeline.io.shards import read_shard
from pipeline.runtime.resources import resources
from pipeline.sampling.posts import store_posts
from pipeline.threads.index import Index
from preference_space.space import load_space
from prompts.renderer import load_templates
from schemas.base import UsageError, UserError
from schemas.records import SeedPost
from tests import ROOT
from tests.forks import Fork
from tests.pipeline.helpers import (
    NOWHERE,
    folder_of,
    mining,
    of_users,
    prepared,
    tiny,
    write_jsonl,
    write_posts,
    write_threads,
)

TEMPLATES = ROOT / "prompts" / "templates"


def touch_old(path: Path) -> None:
    """Create an old temporary file of a process on another machine."""
    path.touch()
    os.utime(path, (time.time() - 3700, time.time() - 3700))


def templates_with(folder: Path, name: str, old: str, new: str) -> str:
    """Return a folder with a changed copy of one packaged template."""
    folder.mkdir(exist_ok=True)
    source = (TEMPLATES / f"{name}.j2").read_text()
    assert old in source
    (folder / f"{name}.j2").write_text(source.replace(old, new))
    return str(folder)


def own_space(folder: Path) -> str:
    space = load_space("alignx")
    path = folder / "space.yaml"
    path.write_text(space.model_copy(update={"name": "own"}).to_yaml())
    return str(path)


def test_new_folder_gets_everything_that_workers_need(tmp_path: Path) -> None:
    plan = prepared(tmp_path, tiny())

    parts = resources(plan)
    assert parts.space == load_space("alignx")
    assert {name: t.fingerprint for name, t in parts.templates.items()} == {
        name: t.fingerprint for name, t in load_templates().items()
    }
    posts = {split: read_shard(tmp_path / "seeds" / f"{split}.parquet").num_rows for split in ("train", "test")}
    assert posts["train"] > posts["test"] > 0


@pytest.mark.parametrize(
    ("path", "old", "new"),
    [
        ("templates/reply.j2", "Write one", "Write no"),
        ("templates/annotate.j2", "Answer: (", "Reply: ("),
        ("preference_space.yaml", "topical: false", "topical: true"),
    ],
)
def test_what_workers_load_must_be_what_the_build_began_with(tmp_path: Path, path: str, old: str, new: str) -> None:
    plan = prepared(tmp_path, tiny())
    text = (tmp_path / path).read_text()
    assert old in text
    (tmp_path / path).write_text(text.replace(old, new))

    with pytest.raises(UserError, match=f"{path} has changed"):
        resources(plan)


def test_a_template_of_the_papers_portrait_is_tried_with_what_it_gets(tmp_path: Path) -> None:
    folder = templates_with(tmp_path / "mine", "portrait_paper", "{{ post }}", "{{ post.title }}")

    with pytest.raises(UsageError, match="has no attribute 'title'"):
        prepared(tmp_path / "build", tiny(templates=folder))


@pytest.mark.parametrize(
    "bomb",
    [
        "{% for a in post.text %}" * 9 + "{% endfor %}" * 9,
        "{% set a = 'aaaa' %}" + "{% set a = a ~ a %}" * 40 + "{{ a }}",
    ],
)
def test_a_template_that_never_ends_is_refused_before_anything_is_written(tmp_path: Path, bomb: str) -> None:
    folder = templates_with(tmp_path / "mine", "reply", "{{ post.text }}", bomb)

    with pytest.raises(UsageError, match=r"reply\.j2: does more work than a prompt may"):
        prepared(tmp_path / "build", tiny(templates=folder))
    assert not (tmp_path / "build" / "templates").exists()


def test_new_folder_gets_a_manifest_of_an_incomplete_build(tmp_path: Path) -> None:
    config = tiny(name="first")
    plan = prepared(tmp_path, config)

    manifest = find_manifest(tmp_path)

    assert manifest is not None
    assert (manifest.status, manifest.name, manifest.fingerprint) == ("incomplete", "first", plan.fingerprint)
    assert manifest.config == config.model_dump(mode="json")
    assert {"everyuser", "apache-beam", "pyarrow"} <= manifest.versions.keys()


def test_dropped_posts_are_reported(tmp_path: Path) -> None:
    rows = [{"text": f"post {k}"} for k in range(40)] + [{"text": "Post 0!"}, {"text": ""}]
    seeds = {"path": str(write_jsonl(tmp_path / "posts.jsonl", rows))}

    with locked(tmp_path / "build"):
        dropped = prepare(tiny(seeds=seeds), tmp_path / "build").dropped

    assert dropped == {"duplicate": 1, "empty": 1}


def test_same_configuration_resumes_under_the_same_fingerprint(tmp_path: Path) -> None:
    assert prepared(tmp_path, tiny()) == prepared(tmp_path, tiny())


def test_fingerprint_does_not_depend_on_the_folder(tmp_path: Path) -> None:
    assert prepared(tmp_path / "a", tiny()).fingerprint == prepared(tmp_path / "b", tiny()).fingerprint


@pytest.mark.parametrize(
    "keys",
    [
        {"name": "another"},
        {"engine": {"kind": "replay", "journal": "/somewhere"}},
        {"engine": {"kind": "openai", "base_urls": [NOWHERE], "in_flight": 3}},
        {"limits": {"max_lost_share": 0.9}},
        {"requests": {"timeout_seconds": 5}},
    ],
)
def test_engine_limits_requests_and_name_may_change(tmp_path: Path, keys: dict[str, Any]) -> None:
    before = prepared(tmp_path, tiny())

    assert prepared(tmp_path, tiny(**keys)).fingerprint == before.fingerprint


@pytest.mark.parametrize(
    ("keys", "difference"),
    [
        ({"seed": 1}, "seed was 0 and is now 1"),
        ({"pairs": 61}, "pairs was 60 and is now 61"),
        ({"shard_pairs": 8}, "shard_pairs was 16 and is now 8"),
        ({"generation": {"model": "stub", "temperature": 0.1}}, "generation.temperature was 0.8 and is now 0.1"),
        ({"generation": {"model": "other"}}, 'generation.model was "stub" and is now "other"'),
        ({"history": {"ugc": 2, "pair": 1, "min_support": 0}}, "history.ugc was 1 and is now 2"),
        ({"rules": {"language": "en"}}, 'rules.language was null and is now "en"'),
        ({"sampling": {"max_active": 5}}, "sampling.max_active was 6 and is now 5"),
        ({"portrait": "model"}, 'portrait was "template" and is now "model"'),
        ({"seeds": {"limit": 200}}, "seeds.limit was "),
    ],
)
def test_other_build_in_the_folder_is_refused_and_the_difference_named(
    tmp_path: Path, keys: dict[str, Any], difference: str
) -> None:
    prepared(tmp_path, tiny())

    with pytest.raises(UsageError) as refusal:
        prepared(tmp_path, tiny(**keys))

    assert f"{tmp_path} holds another build: {difference}" in str(refusal.value)
    assert "choose another --output" in str(refusal.value)


def test_every_difference_is_named(tmp_path: Path) -> None:
    prepared(tmp_path, tiny())

    with pytest.raises(UsageError, match=r"attempts was 1 and is now 2; seed was 0 and is now 1"):
        prepared(tmp_path, tiny(seed=1, attempts=2))


def test_changed_template_is_named(tmp_path: Path) -> None:
    prepared(tmp_path / "build", tiny())
    folder = templates_with(tmp_path / "own", "reply", "short reply", "brief reply")

    with pytest.raises(UsageError, match=r"templates\.reply was .*; choose"):
        prepared(tmp_path / "build", tiny(templates=folder))


def test_changed_space_is_named(tmp_path: Path) -> None:
    prepared(tmp_path / "build", tiny())

    with pytest.raises(UsageError, match="holds another build: space was "):
        prepared(tmp_path / "build", tiny(space=own_space(tmp_path)))


def test_changed_seed_file_is_refused(tmp_path: Path) -> None:
    path = write_posts(tmp_path / "posts.jsonl", 60)
    prepared(tmp_path / "build", tiny(seeds={"path": str(path)}))
    write_posts(path, 61)

    with pytest.raises(UsageError, match=rf"holds another build: the posts of seeds\.path have changed .*\({path}\); "):
        prepared(tmp_path / "build", tiny(seeds={"path": str(path)}))


def test_seed_file_and_templates_may_move(tmp_path: Path) -> None:
    here, there = (write_posts(tmp_path / name, 60) for name in ("here.jsonl", "there.jsonl"))
    own = [templates_with(tmp_path / name, "reply", "short", "brief") for name in ("a", "b")]
    before = prepared(tmp_path / "build", tiny(seeds={"path": str(here)}, templates=own[0]))

    after = prepared(tmp_path / "build", tiny(seeds={"path": str(there)}, templates=own[1]))

    assert after.fingerprint == before.fingerprint


def mined(folder: Path, threads: int = 30, **keys: Any) -> dict[str, Any]:
    """Return a section that mines a file of threads."""
    return {"pairs": None, "mining": mining(write_threads(folder / "threads.jsonl", threads), **keys)}


@pytest.mark.parametrize(
    ("keys", "difference"),
    [
        ({"clusters": 4}, "mining.clusters was 3 and is now 4"),
        ({"share": 0.5}, "mining.share was 1.0 and is now 0.5"),
        ({"bots": ["x"]}, "mining.bots was "),
        ({"annotation": {"prompts_per_call": 7}}, "mining.annotation.prompts_per_call was 30 and is now 7"),
        ({"annotation": {"mode": "json"}}, 'mining.annotation.mode was "choice" and is now "json"'),
    ],
)
def test_other_mining_in_the_folder_is_refused_and_the_difference_named(
    tmp_path: Path, keys: dict[str, Any], difference: str
) -> None:
    prepared(tmp_path / "build", tiny(**mined(tmp_path) | {"pairs": 60}))

    with pytest.raises(UsageError) as refusal:
        prepared(tmp_path / "build", tiny(**mined(tmp_path, **keys) | {"pairs": 60}))

    assert f"holds another build: {difference}" in str(refusal.value)


@pytest.mark.parametrize(
    ("value", "shown"),
    [
        ("x" * 70, '"' + "x" * 59 + '..."'),
        (["y" * 40, "z" * 40], '["' + "y" * 40 + '", "' + "z" * 14 + '..."'),
        (list(range(40)), "[0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15, 16, 1..."),
    ],
)
def test_a_long_value_is_cut_within_its_quotes(tmp_path: Path, value: Any, shown: str) -> None:
    prepared(tmp_path, tiny())

    with pytest.raises(UsageError) as refusal:
        prepared(tmp_path, tiny(generation={"model": "stub", "extra": {"some_field": value}}))

    assert f": generation.extra.some_field was not given and is now {shown}; choose" in str(refusal.value)


def test_build_that_mines_is_another_than_one_that_does_not(tmp_path: Path) -> None:
    prepared(tmp_path / "build", tiny())

    with pytest.raises(UsageError, match="holds another build: mining was null and is now "):
        prepared(tmp_path / "build", tiny(**mined(tmp_path) | {"pairs": 60}))


def test_changed_thread_file_is_refused(tmp_path: Path) -> None:
    prepared(tmp_path / "build", tiny(**mined(tmp_path, threads=30)))

    said = r"another build: the threads of mining\.source have changed since the build began \(\S+/threads\.jsonl\); "
    with pytest.raises(UsageError, match=said):
        prepared(tmp_path / "build", tiny(**mined(tmp_path, threads=31)))


def test_thread_files_may_move(tmp_path: Path) -> None:
    before = prepared(tmp_path / "build", tiny(**mined(tmp_path)))
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "threads.jsonl").rename(tmp_path / "elsewhere" / "other.jsonl")

    section = mining(tmp_path / "elsewhere" / "*.jsonl")

    after = prepared(tmp_path / "build", tiny(pairs=None, mining=section))
    assert after.fingerprint == before.fingerprint


def test_build_that_only_mines_reads_no_posts(tmp_path: Path) -> None:
    keys = mined(tmp_path) | {"seeds": {"path": str(tmp_path / "nowhere.jsonl")}}

    prepared(tmp_path / "build", tiny(**keys))

    manifest = find_manifest(tmp_path / "build")
    assert manifest is not None
    assert "seeds" not in manifest.parts
    assert len(manifest.parts["mining"]["content"]) == 1
    assert not (tmp_path / "build" / "seeds").exists()


def test_build_of_both_sources_reads_posts_for_the_sampled_pairs_alone(tmp_path: Path) -> None:
    plan = prepared(tmp_path / "build", tiny(**mined(tmp_path, share=0.5) | {"pairs": 60}))

    manifest = find_manifest(tmp_path / "build")
    assert manifest is not None
    assert {"seeds", "mining"} <= manifest.parts.keys()
    assert sum(spec.count for spec in plan.shards()) == 30
    assert (tmp_path / "build" / "seeds" / "train.parquet").exists()


def index_of(**splits: int) -> Index:
    """Return the index of gathered threads."""
    return Index((sum(splits.values()),), splits, {}, "")


def test_split_with_too_few_threads_for_a_history_is_named(tmp_path: Path) -> None:
    plan = prepared(tmp_path / "build", tiny(**mined(tmp_path)))

    assert len(with_threads(plan, index_of(train=9, validation=3, test=3)).shards()) == 3
    with pytest.raises(UsageError, match=r"splits: 'test' gets 2 threads, but a history of 2 items needs 3"):
        with_threads(plan, index_of(train=9, validation=3, test=2))


def test_several_pairs_of_a_thread_are_no_more_posts_for_a_history(tmp_path: Path) -> None:
    history = {"ugc": 1, "pair": 1, "min_support": 0, "blocks": 0}
    plan = prepared(tmp_path / "build", tiny(**mined(tmp_path, pairs_per_post=4), shard_pairs=8, history=history))

    # Shards of eight pairs, but of two posts.
    with pytest.raises(UsageError, match=r"'train' gets .*, but a history of 2 items needs 3 different threads"):
        with_threads(plan, index_of(train=30, validation=0, test=0))


def test_unknown_slug_in_annotation_is_refused(tmp_path: Path) -> None:
    keys = mined(tmp_path, annotation={"dimensions": ["opennes"]})

    with pytest.raises(UsageError, match=r"^mining\.annotation\.dimensions: .*; did you mean 'openness'\?$"):
        prepared(tmp_path / "build", tiny(**keys))


@pytest.mark.parametrize("name", ["annotate", "annotate_json", "portrait_paper"])
def test_template_of_mining_that_fails_is_reported_before_the_first_row(tmp_path: Path, name: str) -> None:
    folder = templates_with(
        tmp_path / "own", name, "{{ response }}" if "annotate" in name else "{{ post }}", "{{ x.y }}"
    )

    with pytest.raises(UsageError, match=rf"{name}\.j2: "):
        prepared(tmp_path / "build", tiny(templates=folder, **mined(tmp_path)))


def test_folder_of_a_run_that_was_killed_while_it_gathered_threads_is_taken_over(tmp_path: Path) -> None:
    before = prepared(tmp_path / "build", tiny(**mined(tmp_path)))
    shuffle = tmp_path / "build" / "threads" / "shuffle"
    shuffle.mkdir(parents=True)
    touch_old(shuffle / ".tmp-00000-00000.jsonl-17")

    assert prepared(tmp_path / "build", tiny(**mined(tmp_path))) == before

    assert list(tmp_path.rglob(".tmp-*")) == []


@pytest.mark.parametrize("stranger", ["thesis.docx", "data", ".git"])
def test_folder_that_holds_something_else_is_refused_and_left_alone(tmp_path: Path, stranger: str) -> None:
    (tmp_path / stranger).write_text("mine")

    with pytest.raises(UsageError, match=rf"is not empty \({stranger}\) and holds no build"):
        prepared(tmp_path, tiny())

    assert {path.name for path in tmp_path.iterdir()} == {stranger}


def test_templates_and_a_space_of_the_user_are_left_alone(tmp_path: Path) -> None:
    # As where somebody names the folder that holds the configuration and what it reads.
    for folder, file in (("templates", "reply.j2"), ("seeds", "posts.jsonl"), ("threads", "threads.jsonl")):
        (tmp_path / folder).mkdir()
        (tmp_path / folder / file).write_text("mine")
    (tmp_path / "preference_space.yaml").write_text("mine")
    before = {path: path.is_dir() or path.read_bytes() for path in tmp_path.rglob("*")}

    with pytest.raises(UsageError, match=r"is not empty \(preference_space\.yaml\) and holds no build"):
        prepared(tmp_path, tiny())

    assert {path: path.is_dir() or path.read_bytes() for path in tmp_path.rglob("*")} == before


KILLED = """
import os, signal, sys
from pathlib import Path
from pipeline.io import storage
from tests.pipeline.helpers import prepared, tiny
steps, original = int(sys.argv[2]), Path.replace
def replace(self, target):
    global steps
    if steps == 0:
        os.kill(os.getpid(), signal.SIGKILL)
    steps -= 1
    return original(self, target)
Path.replace = replace
prepared(Path(sys.argv[1]), tiny())
"""


def test_folder_of_a_run_that_was_killed_at_any_step_is_taken_over(tmp_path: Path) -> None:
    prepared(tmp_path / "whole", tiny())
    files = {path.relative_to(tmp_path / "whole") for path in (tmp_path / "whole").rglob("*") if path.is_file()}
    # The mark, and one file after another.
    for steps in (0, 1, 2, len(files) - 2, len(files) - 1):
        output = tmp_path / str(steps)
        assert Fork("-c", KILLED, str(output), str(steps)).wait() == -signal.SIGKILL

        prepared(output, tiny())

        assert {path.relative_to(output) for path in output.rglob("*") if path.is_file()} == files


@pytest.mark.parametrize("name", ["file", "file/build", "file/a/b"])
def test_output_at_a_file_or_below_one_is_refused(tmp_path: Path, name: str) -> None:
    (tmp_path / "file").write_text("mine")

    with pytest.raises(UsageError, match=rf"^--output {tmp_path}/{name}: {tmp_path}/file is not a folder"):
        prepared(tmp_path / name, tiny())

    assert [path.name for path in tmp_path.iterdir()] == ["file"]


@pytest.mark.parametrize("name", ["run[1]", "run*", "run?/build", "a[b/c", "a::b"])
def test_output_that_is_a_pattern_is_refused(tmp_path: Path, name: str) -> None:
    with pytest.raises(
        UsageError, match=r"load_dataset reads a name with '(\[|\*|\?|::)' as a pattern .*; name a folder"
    ):
        prepared(tmp_path / name, tiny())

    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("name", ["https://example.com/build", "http://example.com/build", "hf://datasets/a/b"])
def test_output_where_nothing_can_be_written_is_refused(name: str) -> None:
    output = storage.parse(name)

    with pytest.raises(UsageError, match=rf"^--output {name}: nothing can be written by .*name a folder"):
        check_output(output)


def test_output_of_a_name_that_is_too_long_is_refused_in_one_line(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"^--output \S+: File name too long; name another folder$"):
        check_output(tmp_path / ("n" * 300) / "build")


@pytest.mark.parametrize("place", ["s3", "gs"])
def test_output_at_an_object_or_among_others_is_refused(place: str, request: pytest.FixtureRequest) -> None:
    folder = storage.parse(f"{request.getfixturevalue(f'{place}_store').url}/{uuid.uuid4().hex}")
    storage.write_text(folder / "templates" / "reply.j2", "mine")

    with pytest.raises(UsageError, match=r": a file has that name"):
        check_output(folder / "templates" / "reply.j2")
    with pytest.raises(UsageError, match=r"is not empty \(templates\) and holds no build"):
        check_output(folder)

    assert storage.list_names(folder) == ["templates"]


def test_folder_where_the_manifest_should_be_is_one_line(tmp_path: Path) -> None:
    (tmp_path / "manifest.json").mkdir()

    with pytest.raises(UserError, match=rf"^{tmp_path}/manifest\.json is a folder, where a file should be"):
        prepared(tmp_path, tiny())


def test_folder_of_a_run_that_was_killed_at_once_is_taken_over(tmp_path: Path) -> None:
    for folder in ("seeds", "threads", "templates", ".progress"):
        (tmp_path / folder).mkdir()
    (tmp_path / ".begun").touch()
    touch_old(tmp_path / ".tmp-manifest.json-17")
    touch_old(tmp_path / "seeds" / ".tmp-train.parquet-17")

    prepared(tmp_path, tiny())

    assert list(tmp_path.rglob(".tmp-*")) == []


def test_manifest_of_something_else_is_left_alone(tmp_path: Path) -> None:
    (tmp_path / "manifest.json").write_text('{"name": "A browser extension"}')

    with pytest.raises(UsageError, match=r"is not empty \(manifest\.json\) and holds no build"):
        prepared(tmp_path, tiny())

    assert json.loads((tmp_path / "manifest.json").read_text()) == {"name": "A browser extension"}


def test_manifest_is_read_as_it_was_written(tmp_path: Path) -> None:
    prepared(tmp_path, tiny())
    manifest = find_manifest(tmp_path)
    assert manifest is not None

    complete = manifest.model_copy(update={"status": "complete"})
    write_manifest(tmp_path, complete)

    assert find_manifest(tmp_path) == complete


def test_empty_seed_file_is_refused(tmp_path: Path) -> None:
    (tmp_path / "posts.jsonl").touch()

    with pytest.raises(UsageError, match=r"posts\.jsonl holds no post"):
        prepared(tmp_path / "build", tiny(seeds={"path": str(tmp_path / "posts.jsonl")}))


def test_seed_file_whose_columns_have_other_names_is_refused(tmp_path: Path) -> None:
    path = write_jsonl(tmp_path / "posts.jsonl", [{"selftext": "x"}] * 60)

    with pytest.raises(UsageError, match=r"no 'title' or 'text'; found: selftext; set seeds.columns"):
        prepared(tmp_path / "build", tiny(seeds={"path": str(path)}))


def test_split_with_too_few_posts_for_a_history_is_named(tmp_path: Path) -> None:
    seeds = {"path": str(write_posts(tmp_path / "posts.jsonl", 10))}

    with pytest.raises(UsageError, match=r"splits: 'validation' gets 2 posts, but a history of 2 items needs 3"):
        prepared(tmp_path / "build", tiny(seeds=seeds))


def test_split_with_too_few_pairs_for_a_history_is_named(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"splits: 'test' gets 2 pairs, but a history of 2 items needs 3"):
        prepared(tmp_path, tiny(pairs=30, splits={"train": 0.7, "validation": 0.225, "test": 0.075}))


def test_split_with_just_enough_posts_is_accepted(tmp_path: Path) -> None:
    seeds = {"path": str(write_posts(tmp_path / "posts.jsonl", 15))}

    assert len(prepared(tmp_path / "build", tiny(seeds=seeds)).shards()) == 5


def test_split_without_a_share_needs_no_posts(tmp_path: Path) -> None:
    seeds = {"path": str(write_posts(tmp_path / "posts.jsonl", 5))}
    splits = {"train": 1.0, "validation": 0.0, "test": 0.0}

    plan = prepared(tmp_path / "build", tiny(seeds=seeds, splits=splits))

    assert {spec.split for spec in plan.shards()} == {"train"}


@pytest.mark.parametrize(
    ("new", "message"),
    [("{{ post.titel }}", "titel"), ("{{ traits[0].hnit }}", "hnit"), ("{{ 1 // 0 }}", "zero")],
)
def test_template_that_fails_is_reported_before_the_first_row(tmp_path: Path, new: str, message: str) -> None:
    folder = templates_with(tmp_path / "own", "reply", "{{ post.title }}", new)

    with pytest.raises(UsageError, match=rf"reply.*{message}"):
        prepared(tmp_path / "build", tiny(templates=folder))


def test_template_of_replies_is_tried_without_traits_where_answers_may_be_plain(
    tmp_path: Path,
) -> None:
    folder = templates_with(tmp_path / "own", "reply", "{% if traits %}", "{{ traits[0].hint }} {% if traits %}")

    with pytest.raises(UsageError, match=r"reply\.j2: .*has no element 0"):
        prepared(tmp_path / "build", tiny(templates=folder, kinds={"restraint": 0.1}))
    prepared(tmp_path / "build", tiny(templates=folder))


def test_template_that_renders_to_nothing_is_refused(tmp_path: Path) -> None:
    line = 'This person {{ traits | map(attribute="description") | join("; ") }}.'
    folder = templates_with(tmp_path / "own", "portrait_text", line, '{{ "" }}')

    with pytest.raises(UsageError, match="portrait_text"):
        prepared(tmp_path / "build", tiny(templates=folder))


def test_unknown_slug_in_sampling_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="no dimension 'opennes'"):
        prepared(tmp_path, tiny(sampling={"dimensions": ["opennes"]}))


def test_refused_build_leaves_a_folder_that_another_configuration_can_use(tmp_path: Path) -> None:
    with pytest.raises(UsageError):
        prepared(tmp_path, tiny(pairs=5))

    prepared(tmp_path, tiny())


def test_posts_for_restraint_pairs_have_files_that_are_checked_as_the_others(tmp_path: Path) -> None:
    config = of_users(each=3, kinds={"restraint": 0.2})
    plan = prepared(tmp_path / "build", config)
    folder = folder_of(plan)
    path = folder / "seeds" / "train-impersonal.parquet"
    marks = {file.name: {row["impersonal"] for row in read_shard(file).to_pylist()} for file in path.parent.iterdir()}
    names = ("train", "validation", "test", "test_seen_users")
    assert marks == {
        **{f"{name}.parquet": {False} for name in names[:3]},
        **{f"{name}-impersonal.parquet": {True} for name in names[:3]},
        f"{names[3]}.parquet": set(),
        f"{names[3]}-impersonal.parquet": set(),
    }

    content = path.read_bytes()
    path.unlink()
    prepared(folder, config)
    assert path.read_bytes() == content

    store_posts(path, [SeedPost(id="x", text="Another one?")], plan.fingerprint)
    with pytest.raises(UsageError, match=r"train-impersonal\.parquet has changed since the build began"):
        prepared(folder, config)


def test_marks_are_not_read_without_restraint_pairs(tmp_path: Path) -> None:
    rows = [{"text": f"Question number {k}?", "impersonal": "who knows"} for k in range(60)]
    seeds = {"path": str(write_jsonl(tmp_path / "posts.jsonl", rows))}

    folder = folder_of(prepared(tmp_path / "build", tiny(seeds=seeds)))

    assert sorted(file.name for file in (folder / "seeds").iterdir()) == [
        "test.parquet",
        "train.parquet",
        "validation.parquet",
    ]
