"""Object stores for tests: an S3 and a Google Cloud Storage, each a process of its own on the loopback interface.

`with S3Store() as store: ... store.environment ... store.url`

Whoever has a store's `environment` uses it through `s3fs` or `gcsfs` with no option in code. The variables count when
a process first uses (`s3fs`) or imports (`gcsfs`) them, so those that a test starts need nothing more; in its own
process, a test sets them before it touches a URL. The store outlives them all, and forgets everything when it ends.
"""

from __future__ import annotations

import asyncio
import contextlib
import io
import logging
import os
import subprocess
import sys
import threading
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, ClassVar, Self

import pytest
from aiohttp import web

from tests.gcs_stub import PRIVATE, GcsStub
from tests.servers import Server

if TYPE_CHECKING:
    from _typeshed.wsgi import StartResponse, WSGIApplication, WSGIEnvironment

BUCKET = "everyuser-test"

_KEY = "everyuserTestKey"
_DENIED = {
    "AccessDenied": "Access Denied",
    "InvalidAccessKeyId": "The AWS Access Key Id you provided does not exist in our records.",
}


in_a_bucket = pytest.mark.parametrize("place", ["s3", "gs"], indirect=True)
"""A test's mark: its `folder` and `store` are those of a bucket."""


class ObjectStore:
    """A server with one bucket, `url`, and another at `private_url` that lets nobody in."""

    scheme: ClassVar[str]

    def __init__(self) -> None:
        self.url = f"{self.scheme}://{BUCKET}"
        self.private_url = f"{self.scheme}://{PRIVATE}"
        self.environment: dict[str, str] = {}

    def __enter__(self) -> Self:
        # A session of its own: what ends a build's process group leaves it alone.
        self._process = subprocess.Popen(
            [sys.executable, "-m", "tests.object_stores", self.scheme],
            cwd=Path(__file__).parent.parent,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            start_new_session=True,
        )
        assert self._process.stdout is not None
        port = self._process.stdout.readline()
        assert port, "the object store did not start"
        self.environment = {"NO_PROXY": "127.0.0.1"} | self._variables(f"http://127.0.0.1:{int(port)}")
        forget_clients()
        return self

    def __exit__(self, *_: object) -> None:
        self._process.kill()
        self._process.communicate()
        forget_clients()

    def _variables(self, address: str) -> dict[str, str]:
        raise NotImplementedError


class S3Store(ObjectStore):
    """moto's S3. It takes any signature of its one key; another key gets 403."""

    scheme = "s3"

    def _variables(self, address: str) -> dict[str, str]:
        return {
            "AWS_ENDPOINT_URL": address,
            "AWS_ENDPOINT_URL_S3": address,
            "AWS_ACCESS_KEY_ID": _KEY,
            "AWS_SECRET_ACCESS_KEY": "secret",
            "AWS_DEFAULT_REGION": "us-east-1",
            "AWS_EC2_METADATA_DISABLED": "true",
            # Nothing of whoever runs the tests.
            "AWS_CONFIG_FILE": os.devnull,
            "AWS_SHARED_CREDENTIALS_FILE": os.devnull,
        }


class GcsStore(ObjectStore):
    """`tests.gcs_stub`."""

    scheme = "gs"

    def _variables(self, address: str) -> dict[str, str]:
        return {
            "STORAGE_EMULATOR_HOST": address,
            # `gcsfs` tries credentials in a file (there is none), then the machine's own, and then does without.
            "GOOGLE_APPLICATION_CREDENTIALS": "/nonexistent/anonymous",
            "NO_GCE_CHECK": "true",
            # Else it asks over gRPC what kind of bucket this is: a warning each time, or a minute with token="anon".
            "GCSFS_EXPERIMENTAL_ZB_HNS_SUPPORT": "false",
        }


class Line(Server):
    """A way to a server, which can be cut and restored: `url` is at the other end of it."""

    def __init__(self, address: str) -> None:
        super().__init__()
        self._store = address.removeprefix("http://").split(":")
        self._writers: set[asyncio.StreamWriter] = set()

    def restore(self) -> None:
        self.complete(self.start())

    def restore_if_cut(self) -> None:
        if not self._server.is_serving():
            self.restore()

    def cut(self) -> None:
        self.complete(self.stop())

    async def start(self) -> None:
        self._server = await asyncio.start_server(self._connect, "127.0.0.1", self.port)
        self.port = self._server.sockets[0].getsockname()[1]

    async def stop(self) -> None:
        self._server.close()
        for writer in self._writers:
            writer.transport.abort()
        rest = asyncio.all_tasks() - {asyncio.current_task()}
        await asyncio.gather(*rest, return_exceptions=True)

    async def _connect(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            there, away = await asyncio.open_connection(*self._store)
        except OSError:
            writer.transport.abort()
            return
        self._writers |= {writer, away}
        await asyncio.gather(self._carry(reader, away), self._carry(there, writer))
        self._writers -= {writer, away}

    async def _carry(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(ConnectionError):
            while content := await reader.read(1 << 16):
                writer.write(content)
                await writer.drain()
        writer.close()


@contextlib.contextmanager
def serving(kind: type[ObjectStore]) -> Iterator[ObjectStore]:
    """A store that this process uses, and those that it starts; skips the test where a package is missing."""
    if kind is S3Store:
        pytest.importorskip("moto.server", reason="moto[s3,server] is not installed")
    with kind() as store, pytest.MonkeyPatch.context() as patch:
        for name, value in store.environment.items():
            patch.setenv(name, value)
        # Which reads some of them when it is imported.
        package = {"s3": "s3fs", "gs": "gcsfs"}[kind.scheme]
        pytest.importorskip(package, reason=f"{package} is not installed")
        yield store


def forget_clients() -> None:
    """Let `s3fs` and `gcsfs` make new clients in this process: the old ones keep to the server that they began with."""
    for module, name in (("s3fs", "S3FileSystem"), ("gcsfs", "GCSFileSystem")):
        if module in sys.modules:
            getattr(sys.modules[module], name).clear_instance_cache()


class _S3Requests:
    """What moto lacks: credentials that count, and one request at a time.

    moto looks whether a key is there and then writes it, in as many threads as there are requests: of two that create
    a key at once, both may succeed. Bodies are read side by side, and only whole ones count.
    """

    def __init__(self, app: WSGIApplication) -> None:
        self._app = app
        self._lock = threading.Lock()

    def __call__(self, environ: WSGIEnvironment, start_response: StartResponse) -> Iterable[bytes]:
        length = int(environ.get("CONTENT_LENGTH") or 0)
        body = environ["wsgi.input"].read(length) if length else b""
        problem = None
        if len(body) < length:
            problem = "RequestTimeout"
        elif f"Credential={_KEY}/" not in environ.get("HTTP_AUTHORIZATION", ""):
            problem = "InvalidAccessKeyId" if "HTTP_AUTHORIZATION" in environ else "AccessDenied"
        elif environ["PATH_INFO"].split("/")[1] == PRIVATE:
            problem = "AccessDenied"
        if problem:
            text = f"<Error><Code>{problem}</Code><Message>{_DENIED.get(problem, problem)}</Message></Error>"
            start_response("403 Forbidden", [("Content-Type", "application/xml")])
            return [] if environ["REQUEST_METHOD"] == "HEAD" else [text.encode()]
        environ["wsgi.input"] = io.BytesIO(body)
        with self._lock:
            return [b"".join(self._app(environ, start_response))]


def _serve_s3(ready: Callable[[int], None]) -> None:
    from moto.moto_server.werkzeug_app import DomainDispatcherApplication, MotoRequestHandler, create_backend_app
    from werkzeug.serving import make_server
    from werkzeug.test import Client

    logging.getLogger("werkzeug").setLevel(logging.ERROR)
    app = DomainDispatcherApplication(create_backend_app)
    Client(app).put(f"/{BUCKET}")
    server = make_server("127.0.0.1", 0, _S3Requests(app), threaded=True, request_handler=MotoRequestHandler)
    ready(server.server_port)
    server.serve_forever()


def _serve_gcs(ready: Callable[[int], None]) -> None:
    async def serve() -> None:
        runner = web.AppRunner(GcsStub(BUCKET).app(), access_log=None)
        await runner.setup()
        await web.TCPSite(runner, "127.0.0.1", 0).start()
        ready(runner.addresses[0][1])
        await asyncio.Event().wait()

    asyncio.run(serve())


def main() -> None:
    """Be a store, as long as whoever started it lives."""

    def end() -> None:
        os.read(sys.stdin.fileno(), 1)
        os._exit(0)

    def ready(port: int) -> None:
        sys.stdout.write(f"{port}\n")
        sys.stdout.flush()

    threading.Thread(target=end, daemon=True).start()
    {"s3": _serve_s3, "gs": _serve_gcs}[sys.argv[1]](ready)


if __name__ == "__main__":
    main()
