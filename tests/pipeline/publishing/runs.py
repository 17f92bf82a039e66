"""Runs of `everyuser publish` and `everyuser build` against the tests' Hub, and their results."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

from pipeline.io.manifests import load_manifest, write_manifest
from prompts.renderer import INPUTS
from schemas.manifest import Manifest
from tests.forks import Fork
from tests.hub_stub import WRITER, FakeHub
from tests.pipeline import commands
from tests.pipeline.commands import Result, config_file, run
from tests.stub import StubServer

SET = "ann/set"
OTHERS = {
    *("README.md", "manifest.json", "preference_space.yaml"),
    *(f"templates/{name}.j2" for name in INPUTS),
}
"""What is published of a build besides its shards, while there is no report."""


def publish(folder: Path, *arguments: str, repo_id: str = SET) -> Result:
    return run("publish", str(folder), repo_id, *arguments)


def succeed(folder: Path, *arguments: str, repo_id: str = SET) -> str:
    """Publish without an error and return the output."""
    return commands.succeed("publish", str(folder), repo_id, *arguments)


EMPTY = "(nothing was published; ann/set was created and is still empty)"


def environment(hub: FakeHub, home: Path, token: str = WRITER) -> dict[str, str]:
    """Return the environment of another process that uses the Hub."""
    own = {"HF_ENDPOINT": hub.url, "HF_TOKEN": token, "HF_HOME": str(home), "HF_HUB_DISABLE_XET": "1"}
    return os.environ | own | {"COLUMNS": "300"}


def start(hub: FakeHub, folder: Path, *arguments: str, token: str = WRITER) -> Fork:
    """Start `everyuser publish` as another process."""
    env = environment(hub, folder.parent / "home", token)
    return Fork("-m", "pipeline.cli", "publish", str(folder), SET, *arguments, env=env)


def finish(process: Fork, code: int = 0) -> tuple[str, str]:
    out, err = process.communicate(timeout=300)
    assert process.returncode == code, out + err
    return out, err


def shards(folder: Path) -> dict[str, bytes]:
    """Return the shards of a build by path in the repository."""
    return {f"data/{path.name}": path.read_bytes() for path in (folder / "data").glob("*.parquet")}


def hashes(folder: Path) -> dict[str, int]:
    """Return SHA-256 and size of each shard."""
    return {entry.sha256: entry.bytes for entry in load_manifest(folder).files}


def commits(hub: FakeHub, repo_id: str = SET) -> list[str]:
    """Return the messages of all commits after the Hub's first one."""
    return [commit.message for commit in hub.repos[repo_id].commits.values()][1:]


def write(folder: Path, manifest: dict[str, Any]) -> None:
    """Replace a build's manifest by another valid one."""
    write_manifest(folder, Manifest.model_validate_json(json.dumps(manifest)))


def unfinished(folder: Path) -> Path:
    """Return a build stopped in its last phase, without its second train shard."""
    left = {"status": "incomplete", "files": [], "counts": {}}
    write(folder, load_manifest(folder).model_dump(mode="json") | left)
    (folder / "README.md").unlink()
    (folder / "data" / "train-00001-of-00003.parquet").unlink()
    return folder


def build(folder: Path, stub: StubServer, *arguments: str, **keys: Any) -> Result:
    """Run `everyuser build` with the small configuration of `finished` and the keys of the test."""
    config = config_file(folder.parent, stub, **{"name": "my-set"} | keys)
    return run("build", config, "--output", str(folder), *arguments)
