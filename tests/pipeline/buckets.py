"""Builds in object stores: the stores, the processes that build there, and what these leave and show meanwhile."""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import json
import threading
from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import orjson
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from aiohttp import web

from pipeline.io.manifests import read_manifest
from schemas.manifest import Manifest
from tests.forks import Fork
from tests.object_stores import ObjectStore
from tests.pipeline.commands import PRINTED, Result
from tests.pipeline.helpers import NOWHERE
from tests.pipeline.processes import sometimes_bad

PAIRS = 200
"""As many as `write_config` asks for by default."""
SHARDS = 8
ROWS = ("pool", "data", "rejected")
"""The folders in which everything is the same bytes."""

AWS_SECRET, MODEL_SECRET = "9f81ThisIsTheSecretOfTheStore", "sk-0c47ThisIsTheKeyOfTheModel"

LIMIT = 90
"""Seconds within which a build ends that has lost its store: its client tries for half a minute before it says so."""

NO_MODEL = f"{{kind: openai, base_urls: ['{NOWHERE}']}}"
"""The engine of what must not ask anything."""


class Model:
    """The answers of `sometimes_bad`, `seconds` late, or `held`; `keys` are the journal's, of all that was asked."""

    def __init__(self, seconds: float = 0.0) -> None:
        self.keys: list[str] = []
        self.seconds = seconds
        self.held = False

    async def __call__(self, request: web.Request, body: dict[str, Any]) -> web.StreamResponse:
        # Whether a request is streamed is no part of its key.
        asked = {name: value for name, value in body.items() if not name.startswith("stream")}
        self.keys.append(hashlib.blake2b(orjson.dumps(asked), digest_size=16).hexdigest())
        await asyncio.sleep(self.seconds)
        while self.held:  # noqa: ASYNC110 - another thread lets go, and may never do so
            await asyncio.sleep(0.01)
        return await sometimes_bad(request, body)


# Stores, and what is in them


@dataclass(frozen=True)
class Site:
    """A store, as tests and builds use it. `files` is its file system in this process."""

    store: ObjectStore
    files: Any
    environment: Mapping[str, str]
    work: Path
    scenarios: Scenarios

    def url(self, name: str) -> str:
        return f"{self.store.url}/{name}"

    def objects(self, url: str, *folders: str) -> dict[str, bytes]:
        """The objects below an address, or below some folders there, by their names."""
        found = {}
        for name in self.names(url):
            if not folders or name.split("/")[0] in folders:
                # A build at work may delete it meanwhile.
                with contextlib.suppress(FileNotFoundError):
                    found[name] = self.files.cat_file(f"{url}/{name}")
        return found

    def names(self, url: str, folder: str = "") -> list[str]:
        """The names of the objects below an address, or in a folder there."""
        return [f"{folder}/{name}" if folder else name for name in self.versions(f"{url}/{folder}".rstrip("/"))]

    def versions(self, url: str) -> dict[str, str]:
        """Return the store's version of each object, which every write changes."""
        root = url.partition("://")[2] + "/"
        keys = ("ETag", "etag", "LastModified", "updated")
        return {
            name.removeprefix(root): " ".join(str(info[key]) for key in keys if key in info)
            for name, info in self.files.find(url, detail=True).items()
            if info["type"] == "file"
        }

    def put(self, url: str, objects: Mapping[str, bytes]) -> str:
        for name, content in objects.items():
            self.files.pipe_file(f"{url}/{name}", content)
        return url

    def manifest(self, url: str) -> Manifest:
        return read_manifest(self.files.cat_file(f"{url}/manifest.json"))


class Scenarios:
    """What threads work out, each once."""

    def __init__(self) -> None:
        # Two that are busy, and two that wait for a store that is gone.
        self._pool = ThreadPoolExecutor(4)
        self._futures: dict[tuple[str, str], Future[Any]] = {}
        self._lock = threading.Lock()

    def start(self, name: str, site: Site) -> Future[Any]:
        with self._lock:
            key = (name, site.store.scheme)
            if key not in self._futures:
                self._futures[key] = self._pool.submit(known[name], site)
            return self._futures[key]

    def close(self) -> None:
        self._pool.shutdown(cancel_futures=True)


known: dict[str, Callable[[Site], Any]] = {}


def scenario(work: Callable[[Site], Any]) -> Any:
    """Makes a fixture of a function: what it returns, as soon as some thread has worked it out."""
    known[work.__name__] = work

    @pytest.fixture(scope="module", name=work.__name__)
    def wait(site: Site) -> Any:
        return site.scenarios.start(work.__name__, site).result()

    return wait


# Commands


def start(
    environment: Mapping[str, str],
    config: Path | str,
    output: Path | str,
    *arguments: str,
    program: Sequence[str] = ("-m", "pipeline.cli"),
) -> Fork:
    return Fork(*program, "build", str(config), "--output", str(output), *arguments, env=environment)


def end(process: Fork, seconds: float = 300) -> Result:
    """Wait for the end of a command, and return what it printed."""
    out, err = process.communicate(timeout=seconds)
    PRINTED.append(out + err)
    # The first run after a kill warns of the lease that it takes over.
    err = "".join(line for line in err.splitlines(keepends=True) if "took over the lease" not in line)
    return Result(process.wait(), out, err)


def finish(process: Fork) -> None:
    code, out, err = end(process)
    assert (code, err) == (0, ""), out + err


def keys_in(journals: Iterable[bytes]) -> list[str]:
    return [str(json.loads(line)["key"]) for content in journals for line in content.splitlines()]


def files_in(folder: Path, *folders: str) -> dict[str, bytes]:
    """As `Site.objects`, of this machine."""
    paths = [path for path in sorted(folder.rglob("*")) if path.is_file()]
    names = {str(path.relative_to(folder)): path for path in paths}
    return {name: path.read_bytes() for name, path in names.items() if not folders or name.split("/")[0] in folders}


@dataclass
class Stop:
    """A build's end before its time: what had been asked until then, and what was in the bucket."""

    code: int
    err: str
    asked: int
    stored: set[str]
    """Keys of the outcomes in the journals."""
    pool: set[str]
    """Shards of the pool."""
    parts: list[str]

    def lost(self, keys: Sequence[str]) -> set[str]:
        """What had been asked, and is not kept."""
        return set(keys[: self.asked]) - self.stored

    def again(self, keys: Sequence[str]) -> set[str]:
        """What later runs have asked again."""
        return set(keys[: self.asked]) & set(keys[self.asked :])


def stopped(process: Fork, site: Site, url: str, model: Model) -> Stop:
    """Wait for the end of an interrupted build, and look at what it leaves."""
    code, _, err = end(process)
    journals = site.objects(url, "journal")
    pool = {Path(name).stem for name in site.names(url, "pool") if name.endswith(".parquet")}
    parts = [name for name in journals if ".parts/" in name]
    return Stop(code, err, len(model.keys), set(keys_in(journals.values())), pool, parts)


class Watch:
    """Looks at every object below an address as soon as it is written, and whether it is whole."""

    def __init__(self, site: Site, url: str) -> None:
        self.contents: dict[str, set[bytes]] = {}
        """All that was ever to be read under a name."""
        self.faults: list[str] = []
        self.looks = 0
        self._site = site
        self._url = url
        self._versions: dict[str, str] = {}
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._run, daemon=True)

    def __enter__(self) -> Watch:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._over.set()
        self._thread.join()
        self._look()

    def _run(self) -> None:
        while not self._over.wait(0.3):
            try:
                self._look()
            except Exception as error:
                self.faults.append(repr(error))

    def _look(self) -> None:
        self.looks += 1
        for name, version in self._site.versions(self._url).items():
            if self._versions.get(name) != version:
                self._versions[name] = version
                with contextlib.suppress(FileNotFoundError):
                    content = self._site.files.cat_file(f"{self._url}/{name}")
                    self.contents.setdefault(name, set()).add(content)
                    try:
                        check(name, content)
                    except Exception as error:
                        self.faults.append(f"{name}: {error!r}")


def check(name: str, content: bytes) -> None:
    """Raise for what is not whole."""
    if name.endswith(".parquet"):
        with pq.ParquetFile(pa.BufferReader(content)) as file:
            file.read()
            assert "-of-" not in name or b"everyuser" in file.metadata.metadata
    elif name.endswith(".json"):
        json.loads(content)
    elif name.endswith(".jsonl"):
        assert content.endswith(b"\n")
        assert all(isinstance(json.loads(line), dict) for line in content.splitlines())
    else:
        assert content
