"""Google Cloud Storage for tests: the part of its JSON API that `gcsfs` uses, in memory, over real HTTP.

As a process: see `tests.object_stores`. It has no accounts: everybody may do everything, except in the bucket
`PRIVATE`, which answers as the real one does to a caller without credentials.

What a test may rely on: an object appears whole or not at all, also when its sender dies; `ifGenerationMatch` holds
when the last byte is in, not before; ranges, also from the end; names in order, by pages; no answer is ever stale.
"""

from __future__ import annotations

import base64
import hashlib
import json
import re
import time
from bisect import bisect_left
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from itertools import count
from typing import Any, NamedTuple
from urllib.parse import quote

from aiohttp import web

PRIVATE = "everyuser-private"

_MULTIPART = re.compile(
    rb"\s*--(?P<boundary>[^\r\n]+)\r?\n.*?\r?\n\r?\n(?P<resource>.*?)\r?\n--(?P=boundary)\r?\n"
    rb"(?P<headers>.*?)\r?\n\r?\n(?P<content>.*)\n--(?P=boundary)--\s*",
    re.DOTALL,
)
_CHUNK = re.compile(r"bytes (?:(?P<start>\d+)-\d+|\*)/(?P<total>\d+|\*)")


class StoredObject(NamedTuple):
    """An object as it is read: its bytes and what the API tells of it."""

    content: bytes
    resource: Mapping[str, Any]

    @property
    def generation(self) -> str:
        return str(self.resource["generation"])


@dataclass
class Upload:
    """A resumable upload. Nobody sees it until it is whole."""

    bucket: str
    name: str
    content_type: str
    metadata: Mapping[str, Any] | None
    match: str | None
    received: bytearray = field(default_factory=bytearray)


def _problem(status: int, message: str) -> web.Response:
    body = {"error": {"code": status, "message": message, "errors": [{"message": message, "domain": "global"}]}}
    return web.json_response(body, status=status)


class _ProblemError(Exception):
    """The request fails."""

    def __init__(self, status: int, message: str) -> None:
        super().__init__(message)
        self.response = _problem(status, message)


class GcsStub:
    """The server. All work happens between two awaits of one event loop, so no two requests meet in the middle."""

    def __init__(self, *buckets: str) -> None:
        self.buckets: dict[str, dict[str, StoredObject]] = {bucket: {} for bucket in buckets}
        self._uploads: dict[str, Upload] = {}
        self._generations = count(time.time_ns() // 1000)

    def app(self) -> web.Application:
        """What serves it."""
        app = web.Application(client_max_size=2**31, middlewares=[self._answer])
        api, one = "/storage/v1/b", "/{bucket:[^/]+}/o/{name:[^/]+}"
        app.router.add_get(api, self._list_buckets)
        app.router.add_post(api, self._create_bucket)
        app.router.add_get(api + "/{bucket:[^/]+}", self._get_bucket)
        app.router.add_get(api + "/{bucket:[^/]+}/o", self._list_objects)
        app.router.add_get(api + one, self._get_object)
        app.router.add_delete(api + one, self._delete_object)
        app.router.add_post(api + one + "/{verb:rewriteTo}/b/{to:[^/]+}/o/{new:[^/]+}", self._copy)
        app.router.add_post(api + one + "/{verb:moveTo}/o/{new:[^/]+}", self._copy)
        app.router.add_get("/download" + api + one, self._get_object)
        for method in ("POST", "PUT", "DELETE"):
            app.router.add_route(method, "/upload" + api + "/{bucket:[^/]+}/o", self._upload)
        return app

    @web.middleware
    async def _answer(
        self, request: web.Request, handler: Callable[[web.Request], Awaitable[web.StreamResponse]]
    ) -> web.StreamResponse:
        if request.match_info.get("bucket") == PRIVATE:
            who = "Anonymous caller does not have storage.objects access to the Google Cloud Storage bucket."
            return _problem(401, f"{who} Permission denied on resource (or it may not exist).")
        try:
            return await handler(request)
        except _ProblemError as error:
            return error.response
        except ConnectionResetError:  # the sender died; nobody reads this
            return _problem(400, "The body is not whole")
        except web.HTTPException as error:  # not 404, which `gcsfs` would take for an object that is not there
            return _problem(400, f"The stub does not know {request.method} {request.path}: {error.reason}")

    def _bucket(self, name: str) -> dict[str, StoredObject]:
        if name not in self.buckets:
            raise _ProblemError(404, "The specified bucket does not exist.")
        return self.buckets[name]

    def _object(self, request: web.Request) -> StoredObject:
        bucket, name = request.match_info["bucket"], request.match_info["name"]
        found = self._bucket(bucket).get(name)
        if found is None or request.query.get("generation", found.generation) != found.generation:
            raise _ProblemError(404, f"No such object: {bucket}/{name}")
        return found

    def _store(
        self,
        bucket: str,
        name: str,
        content: bytes,
        content_type: str,
        metadata: Mapping[str, Any] | None,
        match: str | None,
    ) -> Mapping[str, Any]:
        """Make the object visible, if what `match` says of its current generation (0: there is none) is true."""
        objects = self._bucket(bucket)
        current = objects[name].generation if name in objects else "0"
        if match not in (None, current):
            raise _ProblemError(412, "At least one of the pre-conditions you specified did not hold.")
        now, generation = datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%S.%fZ"), str(next(self._generations))
        resource = {
            "kind": "storage#object",
            "id": f"{bucket}/{name}/{generation}",
            "name": name,
            "bucket": bucket,
            "generation": generation,
            "metageneration": "1",
            "contentType": content_type,
            "size": str(len(content)),
            "md5Hash": base64.b64encode(hashlib.md5(content).digest()).decode(),  # noqa: S324 - the API's own
            "etag": generation,
            "timeCreated": now,
            "updated": now,
        } | ({"metadata": metadata} if metadata else {})
        objects[name] = StoredObject(content, resource)
        return resource

    async def _list_buckets(self, request: web.Request) -> web.Response:
        buckets = [{"kind": "storage#bucket", "name": name} for name in self.buckets]
        return web.json_response({"kind": "storage#buckets", "items": buckets})

    async def _create_bucket(self, request: web.Request) -> web.Response:
        name = (await request.json())["name"]
        if name in self.buckets:
            raise _ProblemError(
                409, "Your previous request to create the named bucket succeeded and you already own it."
            )
        self.buckets[name] = {}
        return web.json_response({"kind": "storage#bucket", "name": name})

    async def _get_bucket(self, request: web.Request) -> web.Response:
        name = request.match_info["bucket"]
        self._bucket(name)
        return web.json_response({"kind": "storage#bucket", "name": name})

    async def _list_objects(self, request: web.Request) -> web.Response:
        objects, query = self._bucket(request.match_info["bucket"]), request.query
        prefix, delimiter = query.get("prefix", ""), query.get("delimiter", "")
        names = sorted(name for name in objects if name.startswith(prefix))
        found: dict[str, Mapping[str, Any] | None] = {}
        for name in names[bisect_left(names, query.get("startOffset", "")) :]:
            if query.get("endOffset") and name >= query["endOffset"]:
                break
            rest = name[len(prefix) :]
            if delimiter and delimiter in rest:
                found[prefix + rest[: rest.index(delimiter)] + delimiter] = None
            else:
                found[name] = objects[name].resource
        # A page's token is the last name (or prefix) of it.
        after = base64.urlsafe_b64decode(query.get("pageToken", "")).decode()
        left = [key for key in found if key > after]
        page = left[: min(int(query.get("maxResults", 1000)), 1000)]
        body: dict[str, Any] = {"kind": "storage#objects"}
        if items := [found[key] for key in page if found[key] is not None]:
            body["items"] = items
        if prefixes := [key for key in page if found[key] is None]:
            body["prefixes"] = prefixes
        if len(page) < len(left):
            body["nextPageToken"] = base64.urlsafe_b64encode(page[-1].encode()).decode()
        return web.json_response(body)

    async def _get_object(self, request: web.Request) -> web.Response:
        found = self._object(request)
        if request.query.get("alt") != "media":
            return web.json_response(found.resource)
        size, headers = len(found.content), {"X-Goog-Hash": f"md5={found.resource['md5Hash']}"}
        if "Range" not in request.headers:
            return web.Response(body=found.content, headers=headers, content_type=found.resource["contentType"])
        start, stop, _ = request.http_range.indices(size)
        if start >= stop:
            raise _ProblemError(416, "Request range not satisfiable")
        headers["Content-Range"] = f"bytes {start}-{stop - 1}/{size}"
        return web.Response(status=206, body=found.content[start:stop], headers=headers)

    async def _delete_object(self, request: web.Request) -> web.Response:
        if request.query.get("ifGenerationMatch") not in (None, self._object(request).generation):
            raise _ProblemError(412, "At least one of the pre-conditions you specified did not hold.")
        del self.buckets[request.match_info["bucket"]][request.match_info["name"]]
        return web.Response(status=204)

    async def _copy(self, request: web.Request) -> web.Response:
        source, info, match = self._object(request), request.match_info, request.query.get("ifGenerationMatch")
        sent = source.resource
        bucket = info.get("to", info["bucket"])
        resource = self._store(bucket, info["new"], source.content, sent["contentType"], sent.get("metadata"), match)
        if info["verb"] == "moveTo":
            if (bucket, info["new"]) != (info["bucket"], info["name"]):
                del self.buckets[info["bucket"]][info["name"]]
            return web.json_response(resource)
        size = resource["size"]
        return web.json_response(
            {
                "kind": "storage#rewriteResponse",
                "totalBytesRewritten": size,
                "objectSize": size,
                "done": True,
                "resource": resource,
            }
        )

    async def _upload(self, request: web.Request) -> web.Response:
        """A whole object, a resumable upload's beginning or a chunk of it, or its end without an object."""
        bucket, query = request.match_info["bucket"], request.query
        self._bucket(bucket)
        if "upload_id" in query:
            return await self._resume(request)
        body = await request.read()
        kind, match = query.get("uploadType"), query.get("ifGenerationMatch")
        if kind == "media":
            return web.json_response(self._store(bucket, query["name"], body, request.content_type, None, match))
        if kind == "multipart":
            parts = _MULTIPART.fullmatch(body)
            if parts is None:
                raise _ProblemError(400, "Failed to parse the multipart body")
            sent = json.loads(parts["resource"])
            content_type = re.search(rb"(?i)^content-type:\s*([^\s;]+)", parts["headers"], re.MULTILINE)
            return web.json_response(
                self._store(
                    bucket,
                    sent["name"],
                    parts["content"],
                    content_type[1].decode() if content_type else "application/octet-stream",
                    sent.get("metadata"),
                    match,
                )
            )
        if kind == "resumable":
            sent = json.loads(body) if body else {}
            name, key = query.get("name") or sent["name"], f"upload-{next(self._generations)}"
            content_type_header = request.headers.get("X-Upload-Content-Type", "application/octet-stream")
            self._uploads[key] = Upload(bucket, name, content_type_header, sent.get("metadata"), match)
            # As the real one's, it repeats the query, which `gcsfs` counts on when it gives an upload up.
            again = "".join(f"&{word}={quote(query[word])}" for word in ("name", "ifGenerationMatch") if word in query)
            location = f"http://{request.host}{request.path}?uploadType=resumable{again}&upload_id={key}"
            return web.Response(headers={"Location": location})
        raise _ProblemError(400, f"Unknown upload type {kind}")

    async def _resume(self, request: web.Request) -> web.Response:
        key = request.query["upload_id"]
        if key not in self._uploads:
            raise _ProblemError(404, "No such upload")
        if request.method == "DELETE":
            del self._uploads[key]
            return web.Response(status=499)
        body = await request.read()
        upload = self._uploads.get(key)
        chunk = _CHUNK.fullmatch(request.headers.get("Content-Range", f"bytes */{len(body) if body else '*'}"))
        if upload is None or chunk is None or (chunk["start"] and int(chunk["start"]) > len(upload.received)):
            raise _ProblemError(400, "That chunk does not fit")
        if body:
            upload.received[int(chunk["start"] or 0) :] = body
        if chunk["total"] != str(len(upload.received)):
            headers = {"Range": f"bytes=0-{len(upload.received) - 1}"} if upload.received else {}
            return web.Response(status=308, headers=headers)
        content = bytes(upload.received)
        resource = self._store(upload.bucket, upload.name, content, upload.content_type, upload.metadata, upload.match)
        del self._uploads[key]
        return web.json_response(resource)
