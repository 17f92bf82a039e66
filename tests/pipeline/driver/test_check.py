"""Damage of every kind to every kind of file, before and after the end of a build: no row changes silently."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from typer.testing import CliRunner

from pipeline.build import build
from pipeline.cli import app
from pipeline.driver.check import check_build
from pipeline.io.manifests import load_manifest, write_manifest
from schemas.base import UserError
from schemas.config import BuildConfig, VllmEngine
from tests.pipeline.helpers import mining, tiny, write_posts, write_threads
from tests.stub import StubServer, good

SHARD = "train-00001-of-00003"
FILES = [
    *("manifest.json", "preference_space.yaml", "templates/reply.j2", "seeds/train.parquet"),
    *("threads/index.json", "threads/kept.npy", "threads/part-00000.parquet", "pool/shared_replies.json"),
    *(f"{folder}/{SHARD}.parquet" for folder in ("pool", "rejected/pairs", "rejected/examples", "data")),
    *(f"{folder}/train-00002-of-00003.parquet" for folder in ("annotated", "pool")),
    f"journal/pairs-{SHARD}.jsonl",
]
"""One of each kind; the train split's last shard is mined."""
OF_AN_UNFINISHED_BUILD = [file for file in FILES if not file.startswith(("data/", "rejected/examples/"))]


def cut_off(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-7])


def flip_a_bit(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)


def empty(path: Path) -> None:
    path.write_bytes(b"")


def swap(path: Path) -> None:
    """Replace a file by another one of its folder."""
    siblings = [other for other in sorted(path.parent.iterdir()) if other.suffix == path.suffix and other != path]
    if siblings:
        shutil.copy(siblings[0], path)


def put_a_folder(path: Path) -> None:
    path.unlink()
    path.mkdir()


DAMAGES: list[Callable[[Path], None]] = [cut_off, flip_a_bit, empty, swap, put_a_folder, Path.unlink]


def is_harmless(file: str, damage: Callable[[Path], None]) -> bool:
    """Return whether damage loses nothing: a bit in Parquet statistics, or journal lines, which are sent again."""
    if damage is flip_a_bit:
        return file.startswith(("pool/", "rejected/", "annotated/")) and file.endswith(".parquet")
    return file.startswith("journal/") and damage is not put_a_folder


@pytest.fixture(scope="module")
def stub() -> Iterator[StubServer]:
    with StubServer(good) as server:
        yield server


@pytest.fixture(scope="module")
def config(stub: StubServer, tmp_path_factory: pytest.TempPathFactory) -> BuildConfig:
    inputs = tmp_path_factory.mktemp("inputs")
    return tiny(
        engine={"kind": "openai", "base_urls": [stub.url]},
        seeds={"path": str(write_posts(inputs / "posts.jsonl", 60))},
        mining=mining(write_threads(inputs / "threads.jsonl", 40), share=0.2),
        limits={"max_lost_share": 0.9},
        history={"ugc": 1, "pair": 0, "min_support": 0},
        shard_pairs=20,
    )


@pytest.fixture(scope="module")
def finished(config: BuildConfig, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("finished") / "out"
    build(config, folder)
    return folder


@pytest.fixture(scope="module")
def unfinished(finished: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a build killed in phase one: the second shard is finished, and the first has only its journal."""
    folder = tmp_path_factory.mktemp("unfinished") / "out"
    shutil.copytree(finished, folder)
    manifest = load_manifest(folder)
    write_manifest(folder, manifest.model_copy(update={"status": "incomplete", "files": (), "runs": ()}))
    for path in ("data", "rejected/examples"):
        shutil.rmtree(folder / path)
    for path in ("README.md", "pool/train-00000-of-00003.parquet", "rejected/pairs/train-00000-of-00003.parquet"):
        (folder / path).unlink()
    return folder


def rows(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in (folder / "data").iterdir()}


def test_a_build_checks_out(finished: Path, unfinished: Path) -> None:
    assert all((finished / file).is_file() for file in FILES)
    assert check_build(finished).problems == ()
    assert check_build(unfinished).problems == ()
    assert (check_build(finished).state, check_build(unfinished).state) == ("finished", "not finished")


def test_advice_about_a_finished_build_leads_somewhere(finished: Path, tmp_path: Path) -> None:
    folder = tmp_path / "out"
    shutil.copytree(finished, folder)
    for file in (f"pool/{SHARD}.parquet", "pool/shared_replies.json", "README.md"):
        (folder / file).unlink()
    cut_off(folder / "rejected" / "pairs" / f"{SHARD}.parquet")

    problems = check_build(folder).problems

    assert len(problems) == 4
    assert sum("the rows do not need it" in problem for problem in problems) == 3
    assert any("README.md is missing; `everyuser report` writes it again" in problem for problem in problems)


@pytest.mark.parametrize("file", [f"data/{SHARD}.parquet", f"pool/{SHARD}.parquet"])
def test_a_link_that_leads_nowhere_is_a_missing_file(finished: Path, tmp_path: Path, file: str) -> None:
    folder = tmp_path / "out"
    shutil.copytree(finished, folder)
    (folder / file).unlink()
    (folder / file).symlink_to(tmp_path / "nowhere")

    (problem,) = check_build(folder).problems

    assert problem.startswith(f"{folder / file} is missing")


def test_damaged_manifest_is_made_again_whatever_the_engine(
    config: BuildConfig, finished: Path, tmp_path: Path
) -> None:
    folder = tmp_path / "out"
    shutil.copytree(finished, folder)
    cut_off(folder / "manifest.json")

    build(config.model_copy(update={"engine": VllmEngine()}), folder)

    assert rows(folder) == rows(finished)
    assert check_build(folder).problems == ()


def assert_is_built_or_refused(config: BuildConfig, folder: Path, file: str, reference: dict[str, bytes]) -> None:
    try:
        build(config, folder)
    except UserError as error:
        assert str(folder / file) in str(error) or str((folder / file).parent) in str(error), str(error)
        assert "\n" not in str(error)
    else:
        assert rows(folder) == reference


@pytest.mark.parametrize("file", OF_AN_UNFINISHED_BUILD)
def test_damage_before_the_end_changes_no_row(
    config: BuildConfig, finished: Path, unfinished: Path, tmp_path: Path, file: str
) -> None:
    for number, damage in enumerate(DAMAGES):
        folder = tmp_path / str(number)
        shutil.copytree(unfinished, folder)
        damage(folder / file)
        assert_is_built_or_refused(config, folder, file, rows(finished))


@pytest.mark.parametrize("file", FILES)
def test_damage_after_the_end_is_found(config: BuildConfig, finished: Path, tmp_path: Path, file: str) -> None:
    for number, damage in enumerate(DAMAGES):
        folder = tmp_path / str(number)
        shutil.copytree(finished, folder)
        damage(folder / file)
        is_changed = not (folder / file).is_file() or (folder / file).read_bytes() != (finished / file).read_bytes()

        for command in (["check", str(folder)], ["inspect", str(folder)], ["report", str(folder), "--workers", "1"]):
            result = CliRunner().invoke(app, command)
            assert result.exit_code in (0, 1, 2), (command, damage, result.output)
            named = (file.rpartition("/")[2], str((folder / file).parent))
            assert result.exit_code == 0 or any(name in result.output for name in named), (command, damage)
            if command[0] == "check" and is_changed and not is_harmless(file, damage):
                assert result.exit_code != 0, (damage, result.output)

        # A finished build is not read whole before it is said to be built: `check` does that.
        if not (file.startswith("data/") and damage is flip_a_bit):
            assert_is_built_or_refused(config, folder, file, rows(finished))
