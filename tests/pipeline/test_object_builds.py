"""Whole builds in an object store, as processes of their own: the same bytes as on this machine, whatever happens.

Each *scenario* is a build with all that befalls it. A few threads work them out from the first test on, for both
stores, as builds wait much; the tests look at what came of them.
"""

from __future__ import annotations

import contextlib
import json
import os
import re
import shutil
import signal
import socket
import subprocess
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import fsspec
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import zstandard

from pipeline.io.manifests import load_manifest, read_manifest
from schemas.report import Report
from tests import ROOT
from tests.forks import Fork
from tests.hub_stub import WRITER, FakeHub
from tests.object_stores import GcsStore, Line, ObjectStore, S3Store
from tests.pipeline.buckets import (
    AWS_SECRET,
    LIMIT,
    MODEL_SECRET,
    NO_MODEL,
    PAIRS,
    ROWS,
    SHARDS,
    Model,
    Scenarios,
    Site,
    Stop,
    Watch,
    end,
    files_in,
    finish,
    keys_in,
    known,
    scenario,
    start,
    stopped,
)
from tests.pipeline.commands import PRINTED, Result, assert_one_line, run, succeed
from tests.pipeline.helpers import thread, write_jsonl, write_posts, write_threads
from tests.pipeline.processes import BY_TWO, openai, replay, shards, sometimes_bad, write_config
from tests.stub import StubServer
from tests.waiting import wait_until


@pytest.fixture(scope="module")
def sites(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, Site]]:
    """Both stores, with all scenarios begun that the tests of this session ask for."""
    PRINTED.clear()
    pytest.importorskip("moto.server", reason="moto[s3,server] is not installed")
    for package in ("s3fs", "gcsfs"):
        pytest.importorskip(package, reason=f"{package} is not installed")
    scenarios = Scenarios()
    with contextlib.ExitStack() as stack:
        stores: list[ObjectStore] = [stack.enter_context(kind()) for kind in (S3Store, GcsStore)]
        stack.callback(scenarios.close)
        own = {"AWS_SECRET_ACCESS_KEY": AWS_SECRET, "OPENAI_API_KEY": MODEL_SECRET, "COLUMNS": "300"}
        environment = {**stores[0].environment, **stores[1].environment, **own}
        patch = stack.enter_context(pytest.MonkeyPatch.context())
        for name, value in environment.items():
            patch.setenv(name, value)
        found = {
            store.scheme: Site(
                store,
                fsspec.filesystem(store.scheme, use_listings_cache=False),
                os.environ | environment,
                tmp_path_factory.mktemp(store.scheme),
                scenarios,
            )
            for store in stores
        }
        tests = [item for item in request.session.items if isinstance(item, pytest.Function)]
        wanted = [
            (name, str(test.callspec.params["site"]))
            for test in tests
            if test.path == request.path
            for name in test.fixturenames
            if name in known
        ]
        # Those first that take longest.
        for name, scheme in sorted(wanted, key=lambda entry: entry[0] not in ("abandoned", "away")):
            scenarios.start(name, found[scheme])
        yield found


@pytest.fixture(scope="module", params=["s3", "gs"])
def site(request: pytest.FixtureRequest, sites: dict[str, Site]) -> Site:
    return sites[request.param]


@pytest.fixture(scope="module")
def local(sites: dict[str, Site], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A build on this machine, against a server with faults."""
    folder = tmp_path_factory.mktemp("local")
    with StubServer(sometimes_bad) as stub:
        succeed("build", str(write_config(folder, openai(stub, in_flight=16))), "--output", str(folder / "out"))
    return folder / "out"


@pytest.fixture(scope="module")
def expected(local: Path) -> dict[str, bytes]:
    """All that is to be the same bytes."""
    found = files_in(local, *ROWS)
    assert len(shards(local)) == 4 * SHARDS
    return found


@pytest.fixture(scope="module")
def shard_of(local: Path) -> dict[str, str]:
    """The shard that asks each request, whichever build it is."""
    journals = files_in(local, "journal")
    return {
        key: Path(name).stem.removeprefix("pairs-") for name, content in journals.items() for key in keys_in([content])
    }


# The same bytes


OFTEN = """
from pipeline.runtime import progress
from pipeline.cli import main
from pipeline.generation import journal
journal._PART_SECONDS = progress._REMOTE_SECONDS = 0.25
main()
"""
"""A program that stores several times a second what others store twice or six times a minute."""


@scenario
def direct(site: Site) -> str:
    """A build against the model, straight into the bucket."""
    url = site.url("direct")
    with StubServer(sometimes_bad) as stub:
        finish(start(site.environment, write_config(site.work / "direct", openai(stub, in_flight=16)), url))
    return url


@scenario
def replayed(site: Site) -> str:
    """A journal of this machine, replayed into the bucket; into one of them by two worker processes."""
    url = site.url("replayed")
    direct = site.scenarios.start("direct", site).result()
    journal = site.work / "journal"
    journal.mkdir()
    for name, content in site.objects(direct, "journal").items():
        (journal / Path(name).name).write_bytes(content)
    finish(
        start(
            site.environment,
            write_config(site.work / "replayed", replay(journal)),
            url,
            *(BY_TWO if site.store.scheme == "gs" else ()),
        )
    )
    return url


@scenario
def detached(site: Site) -> str:
    """A journal in the bucket, replayed into the bucket by one job that nobody waits for."""
    url = site.url("detached")
    direct = site.scenarios.start("direct", site).result()
    config = write_config(site.work / "detached", replay(f"{direct}/journal"))
    finish(start(site.environment, config, url, "--detach", program=("-c", OFTEN)))
    return url


def test_a_build_into_a_bucket_gives_the_same_bytes(site: Site, direct: str, expected: dict[str, bytes]) -> None:
    assert site.objects(direct, *ROWS) == expected


def test_a_bucket_holds_what_a_folder_holds(site: Site, direct: str, local: Path) -> None:
    own = re.compile(r"\.lock|logs/")

    there = {name for name in site.names(direct) if not own.match(name)}

    assert there == {name for name in files_in(local) if not own.match(name)}
    here = load_manifest(local)
    # A store identifies the content of a file in its own way.
    left = {"runs", "config", "inputs", "digest"}
    assert site.manifest(direct).model_dump(exclude=left) == here.model_dump(exclude=left)


def test_journal_in_a_bucket_is_one_object_a_shard_with_the_same_outcomes(site: Site, direct: str, local: Path) -> None:
    there, here = site.objects(direct, "journal"), files_in(local, "journal")

    assert there.keys() == here.keys()
    assert len(there) == SHARDS
    assert {name: sorted(content.splitlines()) for name, content in there.items()} == {
        name: sorted(content.splitlines()) for name, content in here.items()
    }


def test_journal_of_this_machine_replayed_into_a_bucket_gives_the_same_bytes(
    site: Site, replayed: str, expected: dict[str, bytes]
) -> None:
    assert site.objects(replayed, *ROWS) == expected
    assert not site.names(replayed, "journal")


def test_journal_in_a_bucket_is_replayed_by_one_job_to_the_same_bytes(
    site: Site, detached: str, expected: dict[str, bytes], local: Path
) -> None:
    assert site.objects(detached, *ROWS) == expected
    manifest, here = site.manifest(detached), load_manifest(local)
    assert (manifest.status, manifest.counts, manifest.files) == ("complete", here.counts, here.files)
    assert "README.md" in site.names(detached)


def test_a_job_that_is_done_leaves_no_counts_behind(site: Site, detached: str) -> None:
    assert not site.names(detached, ".progress")


# Killed, stopped, and run again


@dataclass
class Disturbed:
    """A build that was killed, interrupted and killed again, and what was to be seen meanwhile."""

    url: str
    keys: list[str]
    first: int
    """The process of the first run."""
    second: Result
    """What came of a run beside it."""
    stops: dict[str, Stop]
    after_kill: float
    after_release: float
    """Seconds from the start of a run until it asked the model."""
    watch: Watch


IN_FLIGHT = 8


def begun(model: Model, start_it: Callable[[], Fork]) -> tuple[Fork, float]:
    """A build that has asked the model something, and how long that took."""
    asked, clock = len(model.keys), time.monotonic()
    process = start_it()
    wait_until(lambda: len(model.keys) > asked, process)
    return process, time.monotonic() - clock


@scenario
def disturbed(site: Site) -> Disturbed:
    model, url, stops = Model(0.01), site.url("disturbed"), {}
    with StubServer(model) as stub, Watch(site, url) as watch:
        config = write_config(site.work / "disturbed", openai(stub, IN_FLIGHT))

        first = start(site.environment, config, url)
        wait_until(lambda: len(model.keys) >= PAIRS and bool(site.names(url, "pool")), first)
        # Nothing more is answered, so that it lives for as long as the second needs to see that it does.
        model.held = True
        second = end(start(site.environment, config, url))
        first.kill()
        stops["killed among pairs"] = stopped(first, site, url, model)
        model.held = False

        process, after_kill = begun(model, lambda: start(site.environment, config, url))
        asked = len(model.keys)
        wait_until(lambda: len(model.keys) >= asked + PAIRS, process)
        process.send_signal(signal.SIGINT)
        stops["interrupted"] = stopped(process, site, url, model)

        process, after_release = begun(model, lambda: start(site.environment, config, url))
        wait_until(lambda: bool(site.names(url, "data")), process)
        process.kill()
        stops["killed among examples"] = stopped(process, site, url, model)

        finish(start(site.environment, config, url))
    return Disturbed(url, model.keys, first.pid, second, stops, after_kill, after_release, watch)


def test_a_build_that_was_killed_and_interrupted_gives_the_same_bytes(
    site: Site, disturbed: Disturbed, expected: dict[str, bytes]
) -> None:
    assert site.objects(disturbed.url, *ROWS) == expected
    assert [disturbed.stops[name].code for name in disturbed.stops] == [-signal.SIGKILL, 130, -signal.SIGKILL]
    # A killed run is recorded as far as it had written counts.
    statuses = [run.status for run in site.manifest(disturbed.url).runs if run.status != "killed"]
    assert statuses == ["interrupted", "complete"]


def test_what_is_stored_is_never_asked_again(disturbed: Disturbed) -> None:
    for stop in disturbed.stops.values():
        assert not stop.again(disturbed.keys) & stop.stored


def test_what_is_asked_again_is_of_the_shards_that_were_in_flight(
    disturbed: Disturbed, shard_of: dict[str, str]
) -> None:
    killed = disturbed.stops["killed among pairs"]
    again = killed.again(disturbed.keys)

    # While the window has its fill three shards at most are begun and not answered.
    assert killed.stored and killed.pool
    assert len({shard_of[key] for key in again}) <= 3
    assert not {shard_of[key] for key in again} & killed.pool
    assert not disturbed.stops["killed among examples"].again(disturbed.keys)


def test_ctrl_c_is_one_line_and_costs_at_most_what_was_in_flight(disturbed: Disturbed) -> None:
    stop = disturbed.stops["interrupted"]

    assert stop.code == 130
    assert stop.err == "stopped: finished work is kept; run the same command again to resume\n"
    # Some are refused requests whose verdict is open: they left the window, and are in no journal yet.
    assert len(stop.lost(disturbed.keys)) <= 2 * IN_FLIGHT
    assert not stop.parts


def test_nothing_half_written_is_ever_visible(disturbed: Disturbed, expected: dict[str, bytes]) -> None:
    watch = disturbed.watch
    seen = {name: found for name, found in watch.contents.items() if name in expected}

    assert (watch.faults, watch.looks > 20) == ([], True)
    assert seen == {name: {content} for name, content in expected.items()}


def test_a_second_run_in_the_same_folder_is_refused(disturbed: Disturbed) -> None:
    assert_one_line(
        disturbed.second, 2, "another build is at work there", f"(process {disturbed.first} on {socket.gethostname()})"
    )


def test_the_folder_of_a_killed_run_is_taken_over_at_once(site: Site, disturbed: Disturbed) -> None:
    # A lease that nobody is known to have left is watched for 35 seconds.
    assert disturbed.after_kill < disturbed.after_release + 30
    assert [name for name in site.names(disturbed.url) if name.startswith(".lock")] == [".lock/00000004.json"]


@dataclass
class Resumed:
    """A build that was killed once."""

    url: str
    keys: list[str]
    stop: Stop


@scenario
def parted(site: Site) -> Resumed:
    """Killed when some parts of a shard's journal are there."""
    model, url = Model(0.1), site.url("parted")
    with StubServer(model) as stub:
        config = write_config(site.work / "parted", openai(stub, in_flight=4))
        process = start(site.environment, config, url, program=("-c", OFTEN))
        wait_until(lambda: sum(".parts/" in name for name in site.names(url, "journal")) >= 3, process)
        process.kill()
        stop = stopped(process, site, url, model)
        model.seconds = 0.0
        finish(start(site.environment, config, url, "--set", "engine.in_flight=16"))
    return Resumed(url, model.keys, stop)


@pytest.mark.parametrize("site", ["s3"], indirect=True)
def test_with_parts_of_a_journal_what_was_asked_since_the_last_one_is_asked_again(
    site: Site, parted: Resumed, expected: dict[str, bytes]
) -> None:
    assert len(parted.stop.parts) >= 3
    assert not parted.stop.again(parted.keys) & parted.stop.stored
    # Four in flight, and some ten answers for each quarter of a second, which a busy machine makes longer.
    assert len(parted.stop.again(parted.keys)) <= 4 + 2 * 10 < parted.stop.asked
    assert site.objects(parted.url, *ROWS) == expected


@pytest.mark.parametrize("site", ["s3"], indirect=True)
def test_parts_of_a_journal_become_one_object(site: Site, parted: Resumed, local: Path) -> None:
    there, here = site.objects(parted.url, "journal"), files_in(local, "journal")

    assert {name: sorted(content.splitlines()) for name, content in there.items()} == {
        name: sorted(content.splitlines()) for name, content in here.items()
    }


@scenario
def forgetful(site: Site) -> Resumed:
    """Killed when a shard of the pool is there, and keeping no journal."""
    model, url = Model(0.01), site.url("forgetful")
    with StubServer(model) as stub:
        config = write_config(site.work / "forgetful", openai(stub, in_flight=16), more="requests: {journal: false}\n")
        process = start(site.environment, config, url)
        wait_until(lambda: bool(site.names(url, "pool")), process)
        process.kill()
        stop = stopped(process, site, url, model)
        model.seconds = 0.0
        finish(start(site.environment, config, url))
    return Resumed(url, model.keys, stop)


@pytest.mark.parametrize("site", ["gs"], indirect=True)
def test_without_a_journal_unfinished_shards_ask_anew(
    site: Site, forgetful: Resumed, expected: dict[str, bytes], shard_of: dict[str, str]
) -> None:
    later = Counter(forgetful.keys[forgetful.stop.asked :])

    assert forgetful.stop.again(forgetful.keys)
    assert later == Counter(key for key, shard in shard_of.items() if shard not in forgetful.stop.pool)
    assert not forgetful.stop.stored and not site.names(forgetful.url, "journal")
    assert site.objects(forgetful.url, *ROWS) == expected


# A folder that is there already


def test_a_changed_configuration_is_refused(site: Site, direct: str) -> None:
    config = write_config(site.work / "changed", NO_MODEL)
    before = unlocked(site.versions(direct))

    result = run("build", str(config), "--output", direct, "--set", "sampling.max_active=5")

    assert_one_line(result, 2, f"{direct} holds another build: sampling.max_active was 6 and is now 5")
    assert unlocked(site.versions(direct)) == before


def test_a_folder_of_strangers_is_refused(site: Site) -> None:
    config = write_config(site.work / "strangers", NO_MODEL)
    url = site.put(site.url("strangers"), {"holiday/beach.jpg": b"picture"})

    result = run("build", str(config), "--output", url)

    assert_one_line(result, 2, f"{url} is not empty (holiday) and holds no build")
    assert list(unlocked(site.versions(url))) == ["holiday/beach.jpg"]


def unlocked(versions: Mapping[str, str]) -> dict[str, str]:
    """Without the leases, which each run writes."""
    return {name: version for name, version in versions.items() if not name.startswith(".lock/")}


def test_a_finished_build_is_left_alone(site: Site, direct: str) -> None:
    config = write_config(site.work / "again", NO_MODEL)
    before = unlocked(site.versions(direct))

    said = succeed("build", str(config), "--output", direct)

    assert unlocked(site.versions(direct)) == before
    assert f"in    {direct}" in said


@pytest.fixture(scope="module")
def spare(site: Site, direct: str) -> str:
    """A copy of the build, to be damaged and repaired."""
    return site.put(site.url("spare"), site.objects(direct))


def test_a_data_object_that_is_missing_is_made_anew_and_no_other(
    site: Site, spare: str, expected: dict[str, bytes]
) -> None:
    config, files = write_config(site.work / "missing", NO_MODEL), site.manifest(spare).files
    name = "train-00002-of-00004.parquet"
    site.files.rm_file(f"{spare}/data/{name}")
    before = unlocked(site.versions(spare))

    succeed("build", str(config), "--output", spare)

    assert site.objects(spare, *ROWS) == expected
    after = unlocked(site.versions(spare))
    # One of the stores tells when an object was written by the second.
    assert {path for path in after if after[path] != before.get(path)} <= {
        *(f"data/{name}", f"rejected/examples/{name}", "pool/shared_replies.json", "README.md", "manifest.json"),
        *(path for path in after if path.startswith("logs/")),
    }
    assert site.manifest(spare).files == files


# Looked at, reported on, published


def test_inspect_shows_what_it_shows_of_a_folder(direct: str, local: Path) -> None:
    assert succeed("inspect", direct, "--count", "2") == succeed("inspect", str(local), "--count", "2")


@pytest.fixture(scope="module")
def reported(local: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The build on this machine, with its report."""
    folder = Path(shutil.copytree(local, tmp_path_factory.mktemp("reported") / "out"))
    succeed("report", str(folder))
    return folder


@pytest.fixture(scope="module")
def reported_there(spare: str) -> str:
    """A build in the bucket, with its report."""
    said = succeed("report", spare)
    assert f"in    {spare}/report.html" in said
    return spare


TIMED = {"created", "runs", "pace", "tokens_per_second", "seconds", "started", "measured"}
"""What a report says of its own time and that of the build."""


def timeless(value: Any) -> Any:
    """A report without what depends on the clock."""
    if isinstance(value, dict):
        return {key: timeless(inner) for key, inner in value.items() if key not in TIMED}
    return [timeless(inner) for inner in value] if isinstance(value, list) else value


def test_report_tells_what_it_tells_of_a_folder(site: Site, reported_there: str, reported: Path) -> None:
    there, here = site.objects(reported_there), files_in(reported)

    reports = [Report.model_validate_json(files["report.json"]).model_dump(mode="json") for files in (there, here)]

    assert timeless(reports[0]) == timeless(reports[1])
    figures = {name for name in here if name.startswith("figures/")}
    assert figures and figures == {name for name in there if name.startswith("figures/")}
    assert there["report.html"].startswith(here["report.html"][:1000])
    assert b"figures/" in there["README.md"]


def test_publish_publishes_what_it_publishes_of_a_folder(
    site: Site, hub: FakeHub, reported_there: str, reported: Path
) -> None:
    succeed("publish", str(reported), "ann/here")
    succeed("publish", reported_there, "ann/there")

    here, there = hub.repos["ann/here"].files(), hub.repos["ann/there"].files()
    assert there.keys() == here.keys()
    timed = {"README.md", "manifest.json", "report.html", "report.json"}
    assert {name for name in here if here[name] != there[name]} <= timed
    manifests = [json.loads(files["manifest.json"]) for files in (here, there)]
    timed_keys = {"runs": [], "digest": ""}
    assert manifests[0] | timed_keys == manifests[1] | timed_keys
    assert b"ann/there" in there["README.md"] and b"PATH_OF_THIS_FOLDER" not in there["README.md"]
    assert site.store.url.encode() not in b"".join(there.values())
    # Once for each repository.
    assert hub.received == {entry.sha256: 2 * entry.bytes for entry in site.manifest(reported_there).files}
    assert not site.names(reported_there, ".publish") and not site.names(reported_there, ".progress")


CHANGED = "data/train-00001-of-00004.parquet"


def assert_refused(result: Result, hub: FakeHub, url: str) -> None:
    """The changed object is reported, and nothing is published."""
    assert_one_line(result, 2, f"{url}/{CHANGED} ", "delete it and run `everyuser build` again")
    assert "ann/set" not in hub.repos or hub.repos["ann/set"].files().keys() == {".gitattributes"}


def test_an_object_that_was_changed_after_the_build_is_not_published(site: Site, hub: FakeHub, spare: str) -> None:
    command = ("build", str(write_config(site.work / "altered", NO_MODEL)), "--output", spare)
    publishing = (*command, "--set", "publish.repo_id=ann/set")
    content = site.files.cat_file(f"{spare}/{CHANGED}")
    # As many bytes, and the same footer.
    site.files.pipe_file(f"{spare}/{CHANGED}", content[:2000] + bytes([content[2000] ^ 1]) + content[2001:])

    assert_refused(run("publish", spare, "ann/set"), hub, spare)
    assert_refused(run(*publishing), hub, spare)

    site.files.rm_file(f"{spare}/{CHANGED}")
    succeed(*publishing)
    assert hub.repos["ann/set"].files()[CHANGED] == content


def test_an_object_of_another_size_is_not_published(site: Site, hub: FakeHub, spare: str) -> None:
    content = site.files.cat_file(f"{spare}/{CHANGED}")
    site.files.pipe_file(f"{spare}/{CHANGED}", content[:2000] + content[2100:])

    assert_refused(run("publish", spare, "ann/set"), hub, spare)

    site.files.pipe_file(f"{spare}/{CHANGED}", content)


def test_a_build_publishes_what_it_has_in_the_bucket(site: Site, hub: FakeHub, direct: str, local: Path) -> None:
    config = write_config(site.work / "published", NO_MODEL)
    before = unlocked(site.versions(direct))

    succeed("build", str(config), "--output", direct, "--set", "publish.repo_id=ann/set")

    published = hub.repos["ann/set"].files()
    assert {name: content for name, content in published.items() if name.startswith("data/")} == files_in(local, "data")
    assert unlocked(site.versions(direct)) == before


# Everything from the bucket: configuration, space, posts, threads

MIXED = """
pairs: 120
shard_pairs: 32
splits: {{train: 0.6, validation: 0.2, test: 0.2}}
history: {{ugc: 1, pair: 1, min_support: 0}}
space: {at}/space.yaml
templates: {at}/templates
seeds: {{path: {at}/posts.jsonl}}
mining:
  share: 0.5
  source: {{kind: threads, path: ['{at}/threads*.jsonl', '{at}/more.parquet', '{at}/rest.zst']}}
  annotation: {{dimensions: [demographics_and_traits, humor], min_confidence: 0.85}}
generation: {{model: stub}}
"""


def write_input(folder: Path) -> None:
    """Posts, threads in three formats, the packaged space, and a template of our own."""
    (folder / "templates").mkdir(parents=True)
    write_posts(folder / "posts.jsonl", 100)
    write_threads(folder / "threads-a.jsonl", 30)
    write_jsonl(folder / "threads-b.jsonl", (thread(number) for number in range(30, 50)))
    pq.write_table(pa.Table.from_pylist([thread(number) for number in range(50, 70)]), folder / "more.parquet")
    lines = "".join(json.dumps(thread(number)) + "\n" for number in range(70, 90))
    (folder / "rest.zst").write_bytes(zstandard.ZstdCompressor().compress(lines.encode()))
    space, template = ROOT / "preference_space" / "alignx.yaml", ROOT / "prompts" / "templates" / "reply.j2"
    (folder / "space.yaml").write_bytes(space.read_bytes())
    (folder / "templates" / "reply.j2").write_text(template.read_text().replace("Write", "Please write"))


@pytest.fixture(scope="module")
def mixed_here(sites: dict[str, Site], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Pairs of both kinds, on this machine."""
    folder = tmp_path_factory.mktemp("mixed")
    write_input(folder / "input")
    (folder / "build.yaml").write_text(MIXED.format(at=folder / "input"))
    with StubServer(sometimes_bad) as stub:
        engine = ("--set", f"engine={openai(stub, in_flight=64)}")
        succeed("build", str(folder / "build.yaml"), "--output", str(folder / "out"), *engine)
    return folder / "out"


@scenario
def mixed(site: Site) -> str:
    """The same with the configuration and all that it names in the bucket."""
    url, folder = site.url("mixed"), site.work / "mixed"
    write_input(folder)
    site.put(f"{url}/input", files_in(folder))
    site.put(url, {"build.yaml": MIXED.format(at=f"{url}/input").encode()})
    with StubServer(sometimes_bad) as stub:
        engine = ("--set", f"engine={openai(stub, in_flight=64)}")
        finish(start(site.environment, f"{url}/build.yaml", f"{url}/out", *engine))
    return url


def rows(files: Mapping[str, bytes], fingerprint: str) -> dict[str, str]:
    """The rows of every shard, without the part of their ids that says what they were made of."""
    return {
        name: json.dumps(pq.read_table(pa.BufferReader(content)).to_pylist(), default=str).replace(fingerprint[:8], "")
        for name, content in files.items()
        if name.endswith(".parquet")
    }


def test_rows_made_of_a_bucket_are_those_made_of_files(site: Site, mixed: str, mixed_here: Path) -> None:
    there, here = site.objects(f"{mixed}/out"), files_in(mixed_here)
    manifests = [read_manifest(files["manifest.json"]) for files in (there, here)]

    # What is in a file is known by its hash, what is in a bucket by what the store says of it.
    assert manifests[0].fingerprint != manifests[1].fingerprint
    assert manifests[0].counts == manifests[1].counts
    assert manifests[0].counts.threads["posts/read"] == 90
    assert rows(there, manifests[0].fingerprint) == rows(here, manifests[1].fingerprint)
    journals = [
        {name: sorted(keys_in([files[name]])) for name in files if "journal/" in name} for files in (there, here)
    ]
    assert journals[0] == journals[1]
    assert not [name for name in there if "shuffle" in name]


def test_what_a_build_is_made_of_is_known_again_in_a_bucket(site: Site, mixed: str) -> None:
    before = unlocked(site.versions(f"{mixed}/out"))

    succeed("build", f"{mixed}/build.yaml", "--output", f"{mixed}/out", "--set", f"engine={NO_MODEL}")

    assert unlocked(site.versions(f"{mixed}/out")) == before


def test_other_threads_in_the_bucket_are_another_build(site: Site, mixed: str) -> None:
    url = site.put(site.url("other"), site.objects(mixed))
    config = site.files.cat_file(f"{url}/build.yaml").replace(mixed.encode(), url.encode())
    site.put(url, {"build.yaml": config, "input/threads-b.jsonl": b""})

    result = run("build", f"{url}/build.yaml", "--output", f"{url}/out", "--set", f"engine={NO_MODEL}")

    assert_one_line(result, 2, f"{url}/out holds another build: the threads of mining.source")


NEARBY = """
pairs: 30
splits: {train: 1, validation: 0, test: 0}
seeds: {path: posts.jsonl}
history: {ugc: 1, pair: 1, min_support: 0}
generation: {model: dummy}
engine: {kind: dummy}
"""


def test_a_path_in_a_configuration_in_a_bucket_is_relative_to_it(site: Site, tmp_path: Path) -> None:
    write_posts(tmp_path / "posts.jsonl", 60)
    url = site.put(site.url("nearby"), files_in(tmp_path) | {"build.yaml": NEARBY.encode()})

    succeed("build", f"{url}/build.yaml", "--output", f"{url}/out")

    assert site.manifest(f"{url}/out").config["seeds"]["path"] == f"{url}/posts.jsonl"


# A store that cannot be used


def test_a_bucket_that_is_not_there_is_one_line(site: Site) -> None:
    config = write_config(site.work / "nowhere", NO_MODEL)

    result = run("build", str(config), "--output", f"{site.store.scheme}://there-is-no-such-bucket/out")

    assert_one_line(result, 1, "there-is-no-such-bucket")


def test_a_bucket_that_lets_nobody_in_is_one_line(site: Site) -> None:
    config = write_config(site.work / "private", NO_MODEL)

    result = run("build", str(config), "--output", f"{site.store.private_url}/out")

    assert_one_line(result, 1, site.store.private_url)
    assert "denied" in result.err.lower()


@scenario
def locked_out(site: Site) -> Result:
    """What comes of a build with a wrong key."""
    environment = {**site.environment, "AWS_ACCESS_KEY_ID": "wrongKey"}
    return end(start(environment, write_config(site.work / "locked_out", NO_MODEL), site.url("locked_out")))


@pytest.mark.parametrize("site", ["s3"], indirect=True)
def test_a_wrong_key_is_one_line(site: Site, locked_out: Result) -> None:
    assert_one_line(locked_out, 1, "Access Key Id", "does not exist")
    assert not site.names(site.url("locked_out"))


def through(site: Site, line: Line) -> dict[str, str]:
    """The environment of a build that reaches its store by a line."""
    return {key: value.replace(address_of(site), line.url) for key, value in site.environment.items()}


def address_of(site: Site) -> str:
    return site.store.environment[{"s3": "AWS_ENDPOINT_URL", "gs": "STORAGE_EMULATOR_HOST"}[site.store.scheme]]


@dataclass
class Away:
    """A build whose store was away for a moment."""

    url: str
    result: Result
    keys: list[str]


@scenario
def away(site: Site) -> Away:
    model, url = Model(0.02), site.url("away")
    with StubServer(model) as stub, Line(address_of(site)) as line:
        config = write_config(site.work / "away", openai(stub, in_flight=8))
        process = start(through(site, line), config, url)
        wait_until(lambda: len(model.keys) >= PAIRS, process)
        line.cut()
        time.sleep(12)
        line.restore()
        result = end(process)
    return Away(url, result, model.keys)


def test_a_build_waits_for_its_store(site: Site, away: Away, expected: dict[str, bytes]) -> None:
    code, out, err = away.result

    assert (code, err) == (0, ""), out + err
    assert site.objects(away.url, *ROWS) == expected
    assert len(away.keys) == len(set(away.keys))
    # Waits within the client are not reported.
    assert out.count(" does not answer (") == out.count(f"{site.store.url} answers again") <= 1


@dataclass
class Abandoned:
    """A build whose store went away for longer than it waits, and came back."""

    url: str
    seconds: float
    """From then until the build ended; infinite if it was killed because it did not."""
    result: Result
    keys: list[str]


@scenario
def abandoned(site: Site) -> Abandoned:
    model, url = Model(0.02), site.url("abandoned")
    with StubServer(model) as stub, Line(address_of(site)) as line:
        environment = through(site, line)
        engine = openai(stub, in_flight=8)
        config = write_config(site.work / "abandoned", engine, more="requests: {outage_seconds: 5}\n")
        process = start(environment, config, url)
        wait_until(lambda: len(model.keys) >= PAIRS, process)
        line.cut()
        clock, seconds = time.monotonic(), float("inf")
        try:
            result = end(process, LIMIT)
            seconds = time.monotonic() - clock
        except subprocess.TimeoutExpired:
            process.kill()
            result = end(process)
        line.restore()
        model.seconds = 0.0
        finish(start(environment, config, url))
    return Abandoned(url, seconds, result, model.keys)


def test_a_build_whose_store_is_gone_ends_with_one_line(site: Site, abandoned: Abandoned) -> None:
    assert abandoned.result.out.count(f"{site.store.url} does not answer (") == 1
    assert abandoned.seconds < LIMIT
    assert_one_line(abandoned.result, 1, f"{abandoned.url}/", "run the same command again, finished work is kept")


def test_a_build_goes_on_when_its_store_is_back(site: Site, abandoned: Abandoned, expected: dict[str, bytes]) -> None:
    assert site.objects(abandoned.url, *ROWS) == expected


# Secrets


def test_no_secret_is_stored_or_said(
    site: Site, direct: str, disturbed: Disturbed, mixed: str, abandoned: Abandoned
) -> None:
    secrets = [AWS_SECRET, MODEL_SECRET, WRITER, site.environment["AWS_ACCESS_KEY_ID"], "wrongKey"]
    urls = (direct, disturbed.url, mixed)
    objects = [entry for url in urls for entry in site.objects(url).items()]
    tables = [pa.BufferReader(content) for name, content in objects if name.endswith(".parquet")]
    stored = b"".join(content for _, content in objects).decode(errors="replace")
    shown = [str(pq.read_table(table).to_pylist()) for table in tables]

    text = "\n".join([stored, *shown, *PRINTED])

    # The commands of these four builds alone are nine.
    assert len(objects) > 150 and len(PRINTED) >= 9
    assert [secret for secret in secrets if secret in text] == []
