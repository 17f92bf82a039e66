"""Rows that circumstances cost are asked again; a build is then, byte for byte, what it would have been without."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from aiohttp import web

from pipeline.build import Observer, build
from pipeline.io.manifests import find_manifest, load_manifest
from schemas.base import UsageError, UserError
from schemas.manifest import Manifest
from tests.pipeline.helpers import Notices, mining, number_of, rows_of, run_build, tiny, write_threads
from tests.pipeline.processes import failing, shards
from tests.stub import Answer, StubServer

Keys = dict[str, Any]


UNDISTURBED = failing(0)


@pytest.fixture(params=["sampled", "attempts", "portraits", "mined", "json"])
def keys(request: pytest.FixtureRequest, tmp_path: Path) -> Keys:
    """What a build asks a model for."""
    threads = write_threads(tmp_path / "threads.jsonl", 40)
    few = {"dimensions": ["demographics_and_traits"]}
    mined: Keys = {"pairs": None}
    kinds: dict[str, Keys] = {
        "sampled": {},
        "attempts": {"attempts": 2},
        "portraits": {"portrait": "model"},
        "mined": mined | {"mining": mining(threads, annotation=few)},
        "json": mined | {"mining": mining(threads, annotation=few | {"mode": "json", "min_confidence": 0})},
    }
    return {"limits": {"max_lost_share": 1}, **kinds[str(request.param)]}


def again(output: Path, answer: Answer, observer: Observer | None = None, **keys: Any) -> tuple[Manifest, StubServer]:
    """The same command with `--retry-lost`."""
    with StubServer(answer) as stub:
        config = tiny(**{"engine": {"kind": "openai", "base_urls": [stub.url]}} | keys)
        return build(config, output, observer=observer, retry_lost=True), stub


def count_lost(manifest: Manifest) -> int:
    return manifest.counts.pairs_unanswered + manifest.counts.threads.get("responses/unanswered", 0)


def test_retry_gives_the_bytes_of_a_build_that_nothing_disturbed(keys: Keys, tmp_path: Path) -> None:
    undisturbed, _ = run_build(tmp_path / "good", UNDISTURBED, **keys)
    before, first = run_build(tmp_path / "out", failing(7), **keys)
    assert count_lost(before) > 0
    assert count_lost(undisturbed) == 0

    after, stub = again(tmp_path / "out", UNDISTURBED, **keys)

    assert shards(tmp_path / "out") == shards(tmp_path / "good")
    assert (after.status, after.counts, after.files) == ("complete", undisturbed.counts, undisturbed.files)
    answered = {number_of(body) for body in first.bodies if number_of(body) % 7}
    assert answered.isdisjoint(map(number_of, stub.bodies))
    assert [run.status for run in after.runs] == ["complete", "complete"]


def test_retry_of_a_server_that_is_still_bad_keeps_the_bytes(keys: Keys, tmp_path: Path) -> None:
    before, _ = run_build(tmp_path / "out", failing(7), **keys)
    there = shards(tmp_path / "out")

    after, stub = again(tmp_path / "out", failing(7), **keys)

    assert shards(tmp_path / "out") == there
    assert (after.status, after.counts, after.files) == ("complete", before.counts, before.files)
    assert len(stub.bodies) > 0


def test_retry_with_nothing_lost_says_so_and_changes_nothing(tmp_path: Path) -> None:
    before, _ = run_build(tmp_path / "out", UNDISTURBED)
    manifest = (tmp_path / "out" / "manifest.json").read_bytes()
    observer = Notices()

    after, stub = again(tmp_path / "out", UNDISTURBED, observer)

    # Bad replies are the rows' own: 4xx and rules are not asked again.
    assert before.counts.pairs_lost > 0
    (line,) = observer.lines
    assert line.startswith("nothing to ask again")
    assert stub.bodies == []
    assert after == before
    assert (tmp_path / "out" / "manifest.json").read_bytes() == manifest


def test_finished_build_does_not_ask_again_by_itself(tmp_path: Path) -> None:
    before, _ = run_build(tmp_path / "out", failing(7))

    after, stub = run_build(tmp_path / "out", UNDISTURBED)

    assert stub.bodies == []
    assert after == before


@pytest.mark.parametrize(("portrait", "limit", "every"), [("template", 0.4, 3), ("model", 0.5, 7)])
def test_build_that_failed_by_such_losses_asks_again_by_the_same_command(
    tmp_path: Path, portrait: str, limit: float, every: int
) -> None:
    keys: Keys = {"portrait": portrait, "limits": {"max_lost_share": limit}}
    undisturbed, _ = run_build(tmp_path / "good", UNDISTURBED, **keys)

    with pytest.raises(UserError, match=r"because requests failed: \w+/http_500 .*out of memory.*same command"):
        run_build(tmp_path / "out", failing(every), **keys)
    failed = find_manifest(tmp_path / "out")
    after, _ = run_build(tmp_path / "out", UNDISTURBED, **keys)

    assert failed is not None
    assert failed.counts.pairs_unanswered > 0
    assert after.counts == undisturbed.counts
    assert shards(tmp_path / "out") == shards(tmp_path / "good")


def test_retry_that_fails_leaves_a_build_that_the_same_command_without_it_finishes(tmp_path: Path) -> None:
    before, _ = run_build(tmp_path / "out", failing(7))
    there = shards(tmp_path / "out")

    with pytest.raises(UserError, match=r"does not answer.*without --retry-lost"):
        build(tiny(), tmp_path / "out", retry_lost=True)
    unfinished = find_manifest(tmp_path / "out")
    after = build(tiny(), tmp_path / "out")

    assert unfinished is not None
    assert unfinished.status == "incomplete"
    assert (after.status, after.counts, after.files) == ("complete", before.counts, before.files)
    assert shards(tmp_path / "out") == there


def test_without_its_journal_a_retry_loses_nothing_that_was_answered(tmp_path: Path) -> None:
    keys: Keys = {"requests": {"max_retries": 0, "journal": False}}
    before, _ = run_build(tmp_path / "out", failing(7), **keys)
    pairs = {row["pair_id"] for row in rows_of(tmp_path / "out" / "pool")}

    after, _ = again(tmp_path / "out", failing(6), **keys)

    assert after.counts.pairs_unanswered <= before.counts.pairs_unanswered
    assert after.counts.pairs_accepted >= before.counts.pairs_accepted
    assert len(rows_of(tmp_path / "out" / "pool")) >= len(pairs)


def test_replayed_build_cannot_be_asked_again(tmp_path: Path) -> None:
    run_build(tmp_path / "out", failing(7))
    engine = {"kind": "replay", "journal": str(tmp_path / "out" / "journal")}
    replayed = build(tiny(engine=engine), tmp_path / "copy")

    assert replayed.counts.pairs_unanswered > 0
    assert shards(tmp_path / "copy") == shards(tmp_path / "out")
    with pytest.raises(UsageError, match="--retry-lost: engine replay has no model to ask again"):
        build(tiny(engine=engine), tmp_path / "copy", retry_lost=True)


def test_rejections_say_which_of_them_circumstances_cost(tmp_path: Path) -> None:
    run_build(tmp_path / "out", failing(7))

    rows = rows_of(tmp_path / "out" / "rejected" / "pairs")
    assert {(row["reason"], row["may_pass"]) for row in rows} == {("http_500", True), ("too_short", False)}


def test_shards_of_examples_are_built_again_where_their_pool_has_changed_and_not_elsewhere(tmp_path: Path) -> None:
    async def fails_in_train(request: web.Request, body: dict[str, Any]) -> web.StreamResponse:
        return await (failing(0) if number_of(body) not in lost else failing(1))(request, body)

    lost: set[int] = set()
    _, stub = run_build(tmp_path / "good", UNDISTURBED, history={"ugc": 1, "pair": 1, "min_support": 0, "blocks": 0})
    lost.add(max(map(number_of, stub.bodies)))
    keys: Keys = {"history": {"ugc": 1, "pair": 1, "min_support": 0, "blocks": 0}}
    run_build(tmp_path / "out", fails_in_train, **keys)
    folder = tmp_path / "out" / "data"
    written = {path.name: path.stat().st_mtime_ns for path in folder.iterdir()}

    again(tmp_path / "out", UNDISTURBED, **keys)

    changed = {name for name, when in written.items() if (folder / name).stat().st_mtime_ns != when}
    assert len(changed) == 1
    assert shards(tmp_path / "out") == shards(tmp_path / "good")


def test_a_finished_build_that_lost_more_than_a_later_run_allows_keeps_its_rows(
    tmp_path: Path,
) -> None:
    before, _ = run_build(tmp_path / "out", failing(7))

    with StubServer(failing(7)) as stub:
        strict = tiny(engine={"kind": "openai", "base_urls": [stub.url]}, limits={"max_lost_share": 0})
        with pytest.raises(
            UserError, match=r"of 60 pairs were lost, more than limits\.max_lost_share = 0; --retry-lost"
        ):
            build(strict, tmp_path / "out")
        assert stub.bodies == []
    missed = load_manifest(tmp_path / "out")
    assert (missed.status, missed.files) == ("missed_gate", before.files)

    after, _ = run_build(tmp_path / "out", failing(7))
    assert (after.status, after.counts, after.files) == ("complete", before.counts, before.files)
