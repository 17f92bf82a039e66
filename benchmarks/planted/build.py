"""Building of a planted dataset: the real pipeline, asking a server that writes by the grammar."""

from __future__ import annotations

import asyncio
import contextlib
import sys
import threading
from collections.abc import Iterator, Mapping
from functools import cached_property
from pathlib import Path

import orjson
import pyarrow.parquet as pq

from benchmarks.planted.grammar import Pole, posts, reply, reworded, turns
from benchmarks.runs import run, with_keys
from benchmarks.stub_server import Stub
from preference_space.space import load_space

Size = Mapping[str, list[str]]
"""Keys of a build for each kind of persona."""

# A pair shows 2 or 3 dimensions, so that 8 items show each of 5 to 7 about three times.
_USERS = "pairs_per_user: 9, active: {min: 5, max: 7}, topical_posts: 0, min_items: 8"
FULL: Size = {
    "matched": ["pairs=2000"],
    "users": ["persona=users", f"users={{count: 220, {_USERS}}}"],
}
SMALL: Size = {
    "matched": ["pairs=300"],
    "users": ["persona=users", f"users={{count: 40, {_USERS}}}"],
}


def build(folder: Path, persona: str, size: Size = FULL) -> None:
    """Build a dataset, or resume its build. Raise `SystemExit` if that fails.

    Args:
        folder: Gets the dataset. The posts are written beside it.
        persona: A key of `size`.
        size: How many pairs or users.
    """
    file = folder.with_name("posts.jsonl")
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_bytes(b"".join(orjson.dumps({"text": post}) + b"\n" for post in posts(4000)))
    with serving(Writer(folder)) as url:
        engine = f"engine={{kind: openai, base_urls: ['{url}'], in_flight: 64}}"
        keys = [f"seeds.path={file}", "generation.model=planted", engine, *size[persona]]
        config = Path(__file__).parent / "dataset.yaml"
        command = [sys.executable, "-m", "pipeline.cli", "build", str(config), "--output", str(folder)]
        run(f"{persona}: build", command + with_keys(keys))


def write_reworded(folder: Path, file: Path) -> None:
    """Write the test rows of a dataset with histories in the turns that training has.

    The replies keep theirs, so that history and replies have no turn in common: a model that copies is at chance.
    """
    rows = pq.read_table(sorted((folder / "data").glob("test-*.parquet"))).to_pylist()
    for row in rows:
        for item in row["User-Generated Content"]:
            item["comment"] = reworded(item["comment"], "known")
        for item in row["Pair-wise Comparative Feedback"]:
            item |= {side: reworded(item[side], "known") for side in ("chosen", "rejected")}
    file.write_bytes(b"".join(orjson.dumps(row) + b"\n" for row in rows))


class Writer:
    """The writer of a build's replies. It uses held-out turns on posts of the split `test`, which the folder names."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def __call__(self, body: bytes) -> str:
        """Return the reply that a request asks for."""
        lines = [line for message in orjson.loads(body)["messages"] for line in message["content"].splitlines()]
        poles = [pole for line in lines if (pole := self._poles.get(line.removeprefix("- ")))]
        if not poles:
            return "Hello."
        post = lines[next(k for k, line in enumerate(lines) if line.startswith("Post: ")) + 1]
        return reply(post, poles, "held_out" if post in self._tested else "known")

    @cached_property
    def _poles(self) -> dict[str, Pole]:
        dimensions = {dimension.slug: dimension for dimension in load_space("alignx").dimensions}
        return {dimensions[slug].pole(level).hint: (slug, level) for slug, level in turns()}

    @cached_property
    def _tested(self) -> set[str]:
        return set(pq.read_table(self._folder / "seeds" / "test.parquet")["text"].to_pylist())


@contextlib.contextmanager
def serving(writer: Writer) -> Iterator[str]:
    """Serve a writer on a free port of the loopback interface; yield the base URL."""
    loop = asyncio.new_event_loop()
    server = loop.run_until_complete(loop.create_server(lambda: Stub(writer), "127.0.0.1", 0))
    thread = threading.Thread(target=loop.run_forever)
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}/v1"
    finally:
        loop.call_soon_threadsafe(loop.stop)
        thread.join()
        server.close()
        loop.close()
