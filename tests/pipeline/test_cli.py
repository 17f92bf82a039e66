from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from aiohttp import web

from pipeline import build as pipeline_build
from pipeline.io.manifests import load_manifest
from preference_space.space import load_space
from schemas.base import UserError
from schemas.config import PACKAGED_SPACES
from schemas.manifest import Manifest
from tests import ROOT
from tests.forks import python
from tests.pipeline.commands import Result, assert_one_line, config_file, run
from tests.pipeline.helpers import mining, rows_of, thread, write_jsonl, write_threads
from tests.stub import StubServer, completion, good, refuse

OWN = """\
name: "own [red]x[/] [/] :warning: \\e[31m"
dimensions:
  - slug: brevity
    name: Brevity
    group: style
    source: ours
    question: Is the reply short?
    positive: {label: "Likes short [b]replies[/] \\e[31m", description: likes short replies, hint: Be brief.}
    negative: {label: Likes long replies, description: likes long replies, hint: Take your time.}
"""


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Path, Result]]:
    """A build by the command line, and what it printed."""
    root = tmp_path_factory.mktemp("cli")
    with StubServer() as stub:
        result = run("build", config_file(root, stub, name="my-set"), "--output", str(root / "out"))
    yield root / "out", result


def test_build_says_what_was_built_where_and_how_to_load_it(built: tuple[Path, Result]) -> None:
    folder, result = built

    assert (result.code, result.err) == (0, "")
    lines = result.out.splitlines()
    assert lines[:3] == [
        f"checking {folder.parent / 'config.yaml'} and what it names",
        f"building into {folder}",
        "pairs: 60 to build in 5 shards; at most 5 workers share them",
    ]
    assert "built 120 examples (train 72, validation 24, test 24) from 60 pairs; 60 of 60 attempts accepted" in lines
    assert lines[-3:] == [
        f"in    {folder}",
        f"look  everyuser inspect {folder}",
        f'load  datasets.load_dataset("{folder}")',
    ]


def test_build_that_is_finished_says_so_again(built: tuple[Path, Result]) -> None:
    folder, _ = built

    result = run("build", str(folder.parent / "config.yaml"), "--output", str(folder))

    assert result.code == 0
    assert result.out.splitlines()[1].startswith("built 120 examples")


def test_shortfall_and_reasons_are_reported(tmp_path: Path) -> None:
    with StubServer() as stub:
        config = config_file(tmp_path, stub, history={"ugc": 1, "pair": 1, "min_support": 0.5})
        result = run("build", config, "--output", str(tmp_path / "out"), "--set", "limits.max_lost_share=1")

    rejected = len(rows_of(tmp_path / "out" / "rejected" / "examples"))
    assert rejected
    expected = f"short {2 * rejected} of 120 examples are missing: assemble/history_without_support {rejected}; "
    assert expected in result.out
    assert f"  rejected {rejected:>6}  assemble/history_without_support" in result.out


def test_something_is_said_before_what_takes_seconds() -> None:
    code = """
import sys
from pipeline import cli
def say(*_, **__):
    print("apache_beam" in sys.modules, "pyarrow" in sys.modules)
    raise SystemExit
cli.out.print = say
cli.app(["build", "config.yaml"])
"""

    out, err = python(code).communicate()

    assert out.split() == ["False", "False"], err


async def out_of_memory(request: web.Request, body: dict[str, Any]) -> web.StreamResponse:
    return await (good if body["seed"] % 9 else refuse(500, "out of memory"))(request, body)


def test_without_the_extra_a_build_says_how_to_install_it(tmp_path: Path) -> None:
    code = "import sys; sys.modules['apache_beam'] = None; import pipeline.cli; pipeline.cli.main()"
    process = python(code, "build", "configs/quickstart.yaml", "--output", str(tmp_path / "out"))
    _, err = process.communicate()

    assert process.returncode == 1
    assert "pip install 'everyuser[build]'" in err
    assert err.count("\n") == 1


def test_retry_of_what_circumstances_cost_is_offered_and_done(tmp_path: Path) -> None:
    output = tmp_path / "out"
    with StubServer(out_of_memory) as stub:
        first = run("build", config_file(tmp_path, stub), "--output", str(output))
    lost = len(rows_of(output / "rejected" / "pairs"))
    assert lost
    command = f"everyuser build {tmp_path / 'config.yaml'} -o {output} --retry-lost"
    assert f"open  {lost} pairs lost to timeouts and server errors; to ask again: {command}" in first.out.splitlines()

    with StubServer() as stub:
        config_file(tmp_path, stub)
        again = run(*command.split()[1:])
        third = run(*command.split()[1:])

    assert f"pairs: asking again for {lost} rows lost to timeouts and server errors" in again.out.splitlines()
    assert "built 120 examples" in again.out
    assert "--retry-lost" not in again.out
    assert "nothing to ask again" in third.out


def test_build_without_an_example_is_a_failed_build(tmp_path: Path) -> None:
    async def short_portraits(request: web.Request, body: dict[str, Any]) -> web.StreamResponse:
        is_portrait = "You describe people" in body["messages"][0]["content"]
        return completion("no") if is_portrait else await good(request, body)

    with StubServer(short_portraits) as stub:
        config = config_file(tmp_path, stub, portrait="model", limits={"max_lost_share": 1})
        result = run("build", config, "--output", str(tmp_path / "out"))

    assert_one_line(result, 1, "no example is left of 60 pairs: portrait/too_short 60 (for example ", "1 words")
    assert "load_dataset" not in result.out
    manifest = load_manifest(tmp_path / "out")
    assert (manifest.status, manifest.counts.rejected) == ("incomplete", {"portrait/too_short": 60})


def test_disk_that_is_full_at_the_very_end_fails_the_build(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(output: Path, manifest: Manifest) -> None:
        raise UserError(f"cannot write {output / 'manifest.json'}: No space left on device")

    output = tmp_path / "out"
    with StubServer() as stub:
        config = config_file(tmp_path, stub)
        with monkeypatch.context() as patch:
            patch.setattr(pipeline_build, "write_manifest", full)
            result = run("build", config, "--output", str(output))
        asked = len(stub.bodies)
        assert_one_line(result, 1, "cannot write ", "manifest.json: No space left")
        assert "built" not in result.out
        assert load_manifest(output).status == "incomplete"

        assert run("build", config, "--output", str(output)).code == 0
        assert len(stub.bodies) == asked
    assert load_manifest(output).status == "complete"


def test_reader_that_leaves_is_no_error(built: tuple[Path, Result]) -> None:
    folder, _ = built
    command = f"{sys.executable} -m pipeline.cli inspect {folder} -n 120 | head -1; echo ${{PIPESTATUS[0]}}"

    said = subprocess.run(["bash", "-c", command], cwd=ROOT, capture_output=True, text=True, check=False)

    assert said.stdout.splitlines()[-1] == "0"
    assert said.stderr == ""


def test_output_is_out_and_the_name_by_default(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)

    with StubServer() as stub:
        result = run("build", config_file(tmp_path, stub, name="my-set", pairs=15))

    assert result.code == 0, result.err
    assert (tmp_path / "out" / "my-set" / "manifest.json").exists()


def test_dropped_seeds_are_reported(tmp_path: Path) -> None:
    posts = write_jsonl(tmp_path / "posts.jsonl", [{"text": f"post {k % 50}"} for k in range(60)])

    with StubServer() as stub:
        config = config_file(tmp_path, stub, seeds={"path": str(posts)})
        result = run("build", config, "--output", str(tmp_path / "out"))

    assert "seeds: 10 posts dropped (duplicate)" in result.out


def test_failed_run_exits_with_1_and_one_line(tmp_path: Path) -> None:
    result = run("build", config_file(tmp_path), "--output", str(tmp_path / "out"))

    assert_one_line(result, 1, "engine.base_urls: http://127.0.0.1:9/v1 does not answer")


def test_run_that_loses_too_much_exits_with_1_and_one_line(tmp_path: Path) -> None:
    with StubServer() as stub:
        config = config_file(tmp_path, stub, rules={"min_words": 500})
        result = run("build", config, "--output", str(tmp_path / "out"))

    assert_one_line(result, 1, "60 of 60 pairs were ", "limits.max_lost_share")


def test_unknown_key_suggests_the_nearest(tmp_path: Path) -> None:
    result = run("build", config_file(tmp_path, shard_pair=3))

    assert_one_line(result, 2, "config.yaml: unknown key 'shard_pair'; did you mean 'shard_pairs'?")


def test_unknown_key_in_set_suggests_the_nearest(tmp_path: Path) -> None:
    result = run("build", config_file(tmp_path), "--set", "history.min_suport=0.3")

    assert_one_line(result, 2, "unknown key 'history.min_suport' (by --set); did you mean 'min_support'?")


@pytest.mark.parametrize(
    ("arguments", "parts"),
    [
        (["--set", "nonsense"], ["--set nonsense: expected key=value"]),
        (["--set", "pairs=many"], ["'pairs'", "many"]),
        (["--set", "seeds.path=posts.txt"], ["posts.txt has none of the suffixes .jsonl"]),
        (["--set", "seeds.path=nowhere.csv"], ["nowhere.csv: no such file"]),
        (["--set", "space=nowhere.yaml"], ["nowhere.yaml: no such file"]),
        (["--set", "templates=nowhere"], ["nowhere is not a folder"]),
        (["--set", "pairs=3"], ["splits: 'train' gets 2 pairs"]),
        (["--output", "nofs://bucket/folder"], ["nofs://bucket/folder: cannot be used: Unsupported filesystem"]),
    ],
)
def test_wrong_usage_exits_with_2_and_one_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, arguments: list[str], parts: list[str]
) -> None:
    monkeypatch.chdir(tmp_path)

    assert_one_line(run("build", config_file(tmp_path), *arguments), 2, *parts)


def test_missing_configuration_exits_with_2_and_one_line(tmp_path: Path) -> None:
    assert_one_line(run("build", str(tmp_path / "config.yaml")), 2, "config.yaml: no such file")


def test_second_configuration_is_not_silently_ignored(tmp_path: Path) -> None:
    result = run("build", config_file(tmp_path), "other.yaml", "--output", str(tmp_path / "out"))

    assert result.code == 2
    assert "other.yaml" in result.err


def test_unknown_beam_option_is_not_silently_ignored(tmp_path: Path) -> None:
    with StubServer() as stub:
        config = config_file(tmp_path, stub)
        result = run("build", config, "--output", str(tmp_path / "out"), "--", "--direct_num_wokers=2")

    assert result.code == 2
    assert "--direct_num_wokers" in result.err


def mining_file(folder: Path, stub: StubServer | None = None, **keys: Any) -> str:
    """The configuration of a build that mines fifty threads."""
    section = mining(write_threads(folder / "threads.jsonl", 50), annotation={"dimensions": ["age_group", "gender"]})
    return config_file(folder, stub, **{"pairs": None, "mining": section} | keys)


@pytest.mark.parametrize(
    ("overrides", "parts"),
    [
        (["mining.cluster=4"], ["unknown key 'mining.cluster'", "did you mean 'clusters'?"]),
        (["mining.annotation.mod=json"], ["unknown key 'mining.annotation.mod'", "did you mean 'mode'?"]),
        (["mining.source.pth=x"], ["unknown key 'mining.source.pth'", "did you mean 'path'?"]),
        (["mining.source.comments=[x]"], ["unknown key 'mining.source.comments'", "did you mean 'columns'?"]),
        (["mining.source.kind=forum"], ["'mining.source.kind'", "forum", "'dump', 'threads', 'ultrafeedback'"]),
        (["mining.annotation.mode=chioce"], ["'mining.annotation.mode'", "'choice', 'json' or 'given'", '"chioce"']),
        (["mining.source.path=[nowhere.jsonl]"], ["mining.source.path: ", "nowhere.jsonl: no such file"]),
        (["mining.source.path=['nowhere-*.jsonl']"], ["mining.source.path: no file matches ", "nowhere-*.jsonl"]),
        (["mining.source.path=[threads.txt]"], ["mining.source.path: ", "threads.txt has none of the suffixes .jsonl"]),
        (["mining.source.path=[hf://a/b, threads.jsonl]"], ["'mining.source': a dataset of the Hub must be the only"]),
        (["mining.annotation.dimensions=[opennes]"], ["mining.annotation.dimensions: ", "did you mean 'openness'?"]),
        (["mining.share=0.5"], ["'pairs' is required where mining.share is less than 1"]),
        (["mining.bots=['(']"], ["'mining.bots'", "'(' is not a regular expression"]),
        (
            ["mining.min_margin=0.9", "mining.max_margin=0.1"],
            ["'mining': min_margin (0.9) is larger than max_margin (0.1)"],
        ),
        # What only the threads themselves can tell.
        (["mining.source.path=[empty.jsonl]"], ["mining.source: no thread is left of 0 posts"]),
        (["pairs=500"], ["50 threads give 50 pairs at most, but 500 are requested", "lower pairs"]),
        (["mining.limit=5"], ["splits: 'validation' gets 1 ", "a history of 2 items needs 3"]),
        (["mining.annotation.mode=given"], ["no thread is left of 50 posts", "responses/without_levels 250"]),
        (["mining.min_words=200"], ["no thread is left of 50 posts", "responses/too_short 250"]),
    ],
)
def test_wrong_mining_exits_with_2_and_one_line(tmp_path: Path, overrides: list[str], parts: list[str]) -> None:
    (tmp_path / "empty.jsonl").touch()
    arguments = [argument for override in overrides for argument in ("--set", override)]

    result = run("build", mining_file(tmp_path), "--output", str(tmp_path / "out"), *arguments)

    assert_one_line(result, 2, *parts)


@pytest.mark.parametrize(
    ("row", "part"),
    [
        ('{"id": "a", "post": "x"}', "line 1: no 'responses'; found: id, post"),
        ('{"id": "a", "post": "x", "responses": [3]}', "line 1: response 1: neither a text nor an object"),
        ("not JSON", "line 1: not JSON"),
        ("[1, 2]", "line 1: a JSON list, where a row is an object"),
        (
            '{"post": "x", "responses": [{"text": "one two three four five six", "levels": {"opennes": 1}}]}',
            "the space 'alignx' has no dimension 'opennes'",
        ),
    ],
)
def test_thread_that_cannot_be_read_exits_with_2_and_names_file_and_place(tmp_path: Path, row: str, part: str) -> None:
    (tmp_path / "bad.jsonl").write_text(row + "\n")

    config = mining_file(tmp_path)
    result = run("build", config, "--output", str(tmp_path / "out"), "--set", "mining.source.path=[bad.jsonl]")

    assert_one_line(result, 2, str(tmp_path / "bad.jsonl"), part)


def test_dump_without_its_comments_exits_with_2_and_one_line(tmp_path: Path) -> None:
    config = config_file(tmp_path, pairs=None, mining={"source": {"kind": "dump", "submissions": ["RS.zst"]}})

    assert_one_line(run("build", config), 2, "'mining.source.comments' is required")


def test_mined_build_says_what_became_of_the_threads_and_what_was_built(tmp_path: Path) -> None:
    threads = [thread(k) for k in range(50)] + [thread(50, responses=1), thread(51, post="[deleted]")]
    section = mining(write_jsonl(tmp_path / "threads.jsonl", threads))
    with StubServer() as stub:
        config = config_file(tmp_path, stub, pairs=None, mining=section, limits={"max_lost_share": 1})
        result = run("build", config, "--output", str(tmp_path / "out"))

    assert (result.code, result.err) == (0, "")
    lines = result.out.splitlines()
    assert lines[1] == f"building into {tmp_path / 'out'}"
    assert "read: 1/1 slices, 302 posts and responses" in lines
    assert "join: 1/1 parts" in lines
    assert "threads: 50 used, of 52 posts and 251 responses read" in lines
    assert "  dropped       1  posts/deleted" in lines
    assert "  dropped       1  posts/too_few_responses" in lines
    assert "pairs: 50 to build in 4 shards; at most 4 workers share them" in lines
    assert any(
        line.startswith("pairs: 4/4 shards, 50/50 pairs, 100% of 50 accepted, 22500/22500 answers") for line in lines
    )
    assert "from 50 pairs; 50 of 50 attempts accepted" in result.out
    assert lines[-1] == f'load  datasets.load_dataset("{tmp_path / "out"}")'


def test_mined_build_without_mirror_is_short_of_nothing_that_was_not_asked_for(tmp_path: Path) -> None:
    with StubServer() as stub:
        config = mining_file(tmp_path, stub, mirror=False, limits={"max_lost_share": 1})
        result = run("build", config, "--output", str(tmp_path / "out"))

    rows, lost = (len(rows_of(tmp_path / "out" / folder)) for folder in ("data", "rejected/examples"))
    pool = len(rows_of(tmp_path / "out" / "pool"))
    assert rows + lost == pool
    assert f"built {rows} examples" in result.out
    assert ("of 50 examples are missing" in result.out) == (rows < 50)


def test_output_that_would_be_gone_is_refused(tmp_path: Path) -> None:
    result = run("build", config_file(tmp_path), "--output", "memory://x")

    assert_one_line(result, 2, "--output memory://x: memory:// is emptied when the command ends; name a folder")


def test_folder_of_another_build_exits_with_2_and_names_the_key(built: tuple[Path, Result]) -> None:
    folder, _ = built

    result = run("build", str(folder.parent / "config.yaml"), "--output", str(folder), "--set", "seed=7")

    assert_one_line(result, 2, "holds another build: seed was 0 and is now 7")


def test_text_of_an_error_is_shown_to_the_letter(tmp_path: Path) -> None:
    result = run("build", str(tmp_path / "[bold]x[/bold] [/] :warning:.yaml"))

    assert_one_line(result, 2, "[bold]x[/bold] [/] :warning:.yaml: no such file")


def test_terminal_escapes_in_an_error_are_not_passed_on(tmp_path: Path) -> None:
    posts = write_jsonl(tmp_path / "posts.jsonl", [{"id": "a", "bo\x1b[31mdy\n": "x"}])

    config = config_file(tmp_path, seeds={"path": str(posts), "columns": {"text": "body"}})
    result = run("build", config, "--output", str(tmp_path / "out"))

    assert_one_line(result, 2, "no column 'body'")
    assert "\x1b" not in result.err


def test_what_cannot_be_seen_is_named_in_errors_and_in_what_is_shown(tmp_path: Path) -> None:
    space = tmp_path / "space.yaml"
    space.write_text(load_space("alignx").model_copy(update={"name": "a\u202eb\u200bc"}).to_yaml(), encoding="utf-8")

    missing, shown = run("space", "check", f"{tmp_path}/\u202egone.yaml"), run("space", "check", str(space))
    unknown = run("space", "show", str(space), "--dimension", "\u2066x")

    assert_one_line(missing, 2, "<U+202E>gone.yaml: no such file")
    assert_one_line(unknown, 2, "space 'a<U+202E>b<U+200B>c' has no dimension '<U+2066>x'")
    assert "space 'a<U+202E>b<U+200B>c', 90 dimensions" in shown.out


def test_space_is_shown_whole_in_a_pipe() -> None:
    lines = run("space", "show").out.splitlines()

    dimensions = load_space("alignx").dimensions
    longest = max(len(dimension.slug) for dimension in dimensions)
    for dimension in dimensions:
        (line,) = [line for line in lines if line.split("│")[2:3] == [f" {dimension.slug:<{longest}} "]]
        assert dimension.positive.label in line
        assert dimension.negative.label in line


def test_programming_error_is_one_line_too_and_a_traceback_only_with_debug(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: object) -> None:
        raise ZeroDivisionError("a\nbug")

    monkeypatch.setattr(pipeline_build, "prepare", fail)
    arguments = ["build", config_file(tmp_path), "--output", str(tmp_path / "out")]

    assert_one_line(run(*arguments), 1, "ZeroDivisionError: a bug (--debug shows where)")
    debugged = run(*arguments, "--debug")
    assert debugged.code == 1
    assert "Traceback" in debugged.err


def test_interrupted_run_exits_with_130(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupt(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(pipeline_build, "prepare", interrupt)

    result = run("build", config_file(tmp_path), "--output", str(tmp_path / "out"))

    assert result.code == 130
    assert result.err == "stopped: finished work is kept; run the same command again to resume\n"
    monkeypatch.setattr("pipeline.driver.check.check_build", interrupt)
    assert run("check", str(tmp_path / "out")).err == "stopped\n"


def test_inspect_shows_the_first_example(built: tuple[Path, Result]) -> None:
    folder, _ = built
    first, second = rows_of(folder / "data")[:2]

    result = run("inspect", str(folder))

    assert result.code == 0
    assert first["id"] in result.out
    assert first["chosen"] in result.out
    assert second["id"] not in result.out


def test_inspect_shows_as_many_as_asked(built: tuple[Path, Result]) -> None:
    folder, _ = built

    result = run("inspect", str(folder), "--count", "3")

    assert [row["id"] in result.out for row in rows_of(folder / "data")[:4]] == [True, True, True, False]


def test_inspect_shows_the_example_with_an_id(built: tuple[Path, Result]) -> None:
    folder, _ = built
    row = rows_of(folder / "data")[-1]

    result = run("inspect", str(folder), "--row", row["id"])

    assert result.code == 0
    assert row["chosen"] in result.out


def test_inspect_of_an_unknown_id_or_folder_is_wrong_usage(built: tuple[Path, Result], tmp_path: Path) -> None:
    folder, _ = built

    assert_one_line(run("inspect", str(folder), "--row", "[b]x"), 2, "has no example with id '[b]x'")
    assert_one_line(run("inspect", str(tmp_path)), 2, "holds no build")


def test_inspect_of_a_damaged_shard_is_one_line(built: tuple[Path, Result], tmp_path: Path) -> None:
    folder, _ = built
    copy = tmp_path / "out"
    shutil.copytree(folder, copy)
    shard = next((copy / "data").iterdir())
    for other in (copy / "data").iterdir():
        other.write_text("not a shard")

    result = run("inspect", str(copy))

    assert_one_line(result, 1, str(shard.parent), "is damaged")


@pytest.mark.parametrize("space", PACKAGED_SPACES)
def test_space_show_lists_every_dimension(space: str) -> None:
    result = run("space", "show", space)

    assert result.code == 0
    assert all(dimension.slug in result.out for dimension in load_space(space).dimensions)


def test_space_show_shows_one_dimension_whole() -> None:
    dimension = load_space("alignx").dimensions[2]

    result = run("space", "show", "--dimension", dimension.slug)

    pole = dimension.positive
    texts = (dimension.name, dimension.question, pole.hint, pole.service, dimension.negative.description)
    assert result.code == 0
    assert all(text in result.out for text in texts)


def test_space_show_of_an_unknown_dimension_is_wrong_usage() -> None:
    assert_one_line(run("space", "show", "--dimension", "opennes"), 2, "has no dimension 'opennes'")


def test_space_check_accepts_a_good_space(tmp_path: Path) -> None:
    (tmp_path / "own.yaml").write_text(OWN)

    result = run("space", "check", str(tmp_path / "own.yaml"))

    assert (result.code, result.err) == (0, "")
    assert "own [red]x[/] [/] :warning:" in result.out
    assert "1 dimensions" in result.out
    assert "\x1b" not in result.out


@pytest.mark.parametrize("kind", ["vllm", '"vllm"'])
def test_where_there_is_no_vllm_the_ways_out_are_said_at_the_start(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kind: str
) -> None:
    monkeypatch.setitem(sys.modules, "vllm", None)

    result = run("build", config_file(tmp_path), "-o", str(tmp_path / "out"), "--set", f"engine={{kind: {kind}}}")

    assert_one_line(result, 2, "vLLM is not installed", "engine.kind to openai", "engine.base_urls", "make setup")
    assert not list((tmp_path / "out").glob("*"))


@pytest.mark.parametrize("kind", ["openai", '"openai"', "'dummy'"])
def test_a_kind_that_needs_no_vllm_may_be_quoted_or_overridden(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kind: str
) -> None:
    monkeypatch.setitem(sys.modules, "vllm", None)
    overrides = ["--set", f"engine.kind={kind}", "--set", "engine.base_urls=[http://127.0.0.1:9/v1]"]
    if "dummy" in kind:
        overrides = ["--set", f"engine={{kind: {kind}}}", "--set", "generation.model=dummy"]

    result = run("build", config_file(tmp_path), "-o", str(tmp_path / "out"), *overrides)

    if "dummy" in kind:
        assert result.code == 0, result.err
    else:
        assert_one_line(result, 1, "http://127.0.0.1:9/v1", "does not answer")


def test_space_check_names_file_dimension_and_field(tmp_path: Path) -> None:
    (tmp_path / "own.yaml").write_text(OWN.replace("    question: Is the reply short?\n", ""))

    result = run("space", "check", str(tmp_path / "own.yaml"))

    assert_one_line(result, 2, "own.yaml: dimension 0 (brevity): 'question' is required")


def test_space_sample_reports_what_is_covered() -> None:
    result = run("space", "sample", "-n", "5000")

    assert result.code == 0
    assert "5000 points" in result.out
    assert "pairs of poles seen:" in result.out
    assert "poles never seen: none" in result.out


def test_space_sample_takes_sampling_and_seed_from_a_configuration(tmp_path: Path) -> None:
    (tmp_path / "own.yaml").write_text(OWN)
    sampling = {"min_active": 1, "max_active": 1, "marginals": {"brevity": {"positive": 1.0}}}
    config = config_file(tmp_path, sampling=sampling)

    result = run("space", "sample", str(tmp_path / "own.yaml"), "-n", "20", "--config", config)

    assert result.code == 0, result.err
    assert "20 points" in result.out
    assert "poles never seen: brevity negative" in result.out
    assert "Likes short [b]replies[/]" in result.out
    assert "\x1b" not in result.out


def test_space_sample_shows_users_in_the_space_of_the_configuration(tmp_path: Path) -> None:
    users = {"count": 9, "active": {"min": 7, "max": 7}}
    config = config_file(tmp_path, space="alignx_plus", pairs=None, persona="users", users=users)

    result = run("space", "sample", "-n", "20", "--config", config)

    assert result.code == 0, result.err
    assert "active dimensions a point: 7: 20" in result.out
    assert "pragmatism" in result.out


def test_space_sample_refuses_users_that_a_build_refuses(tmp_path: Path) -> None:
    config = config_file(tmp_path, pairs=None, persona="users", users={"count": 9, "active": {"min": 7, "max": 200}})

    assert_one_line(run("space", "sample", "--config", config), 2, "users.active.max is 200")


def test_space_sample_of_a_space_too_small_for_the_sampling_is_wrong_usage(tmp_path: Path) -> None:
    (tmp_path / "own.yaml").write_text(OWN)

    assert_one_line(run("space", "sample", str(tmp_path / "own.yaml")), 2, "min_active is 3")


def test_command_in_a_process_of_its_own_prints_no_more_than_in_a_test(tmp_path: Path) -> None:
    # Beam and its dependencies like to warn; a user's terminal must not show it.
    with StubServer() as stub:
        command = [sys.executable, "-m", "pipeline.cli", "build", config_file(tmp_path, stub)]
        run = subprocess.run(
            [*command, "--output", str(tmp_path / "out")],
            cwd=ROOT,
            env=os.environ | {"COLUMNS": "300"},
            capture_output=True,
            text=True,
            check=False,
        )

    assert (run.returncode, run.stderr) == (0, "")
    assert "built 120 examples" in run.stdout


@pytest.mark.parametrize("name", ["file", "file/below", "https://example.com/build"])
def test_an_output_that_is_no_place_for_a_build_exits_with_2_and_one_line(tmp_path: Path, name: str) -> None:
    (tmp_path / "file").write_text("mine")
    output = name if "://" in name else str(tmp_path / name)

    result = run("build", config_file(tmp_path), "--output", output)

    assert_one_line(result, 2, f"--output {output}: ")
    assert (tmp_path / "file").read_text() == "mine"
