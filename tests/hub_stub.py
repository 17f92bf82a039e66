"""A Hugging Face Hub for tests: real HTTP on the loopback interface, in memory, with faults as a test asks.

`with FakeHub() as hub: hub.on("POST", "/commit/", respond(500)); ...; hub.repos["ann/set"].files("main")`

It answers what `huggingface_hub` and `datasets` ask when they create, upload, commit, list and load a dataset. Status
codes and error texts are the real Hub's, as far as they are known from its client's code and issues.
"""

from __future__ import annotations

import asyncio
import base64
import hashlib
import json
import re
import threading
from collections import Counter
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from aiohttp import web

from tests.servers import Server

WRITER, READER, STRANGER = "hf_annMayWrite", "hf_annMayRead", "hf_bobMayWrite"
"""Tokens: of `ann`, who is in `club` (may write there) and `library` (may read); of `ann`, to read; and of `bob`."""

_ACCOUNTS = {WRITER: ("ann", "write"), READER: ("ann", "read"), STRANGER: ("bob", "write")}
_ORGANISATIONS = {"ann": {"club": "write", "library": "read"}, "bob": {}}
_KNOWN_ORGANISATIONS = ("club", "library", "others")

Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]
Action = Callable[[web.Request, Handler], Awaitable[web.StreamResponse]]


class Blob(NamedTuple):
    """A file of a commit."""

    content: bytes
    is_lfs: bool

    @property
    def sha256(self) -> str:
        return hashlib.sha256(self.content).hexdigest()

    @property
    def oid(self) -> str:
        """The git blob's name: of the file, or of the pointer to it."""
        data = f"pointer to {self.sha256}".encode() if self.is_lfs else self.content
        return hashlib.sha1(b"blob %d\0" % len(data) + data).hexdigest()  # noqa: S324 - git's own


class Commit(NamedTuple):
    """A tree with its message."""

    files: Mapping[str, Blob]
    message: str


@dataclass
class Repo:
    """A dataset repository. `objects` is its large-file storage: all that was uploaded, committed or not."""

    private: bool
    commits: dict[str, Commit] = field(default_factory=dict)
    branches: dict[str, str] = field(default_factory=dict)
    tags: dict[str, str] = field(default_factory=dict)
    objects: dict[str, bytes] = field(default_factory=dict)

    def commit(self, files: Mapping[str, Blob], message: str, branch: str = "main") -> str:
        """Make `files` the branch's tree."""
        sha = hashlib.sha1(f"{len(self.commits)} {message} {sorted(files)}".encode()).hexdigest()  # noqa: S324 - a name
        self.commits[sha] = Commit(dict(files), message)
        self.branches[branch] = sha
        return sha

    def add(self, path: str, content: bytes, branch: str = "main") -> str:
        """A commit by somebody else."""
        files = self.commits[self.branches[branch]].files
        return self.commit({**files, path: Blob(content, path.endswith(".parquet"))}, f"Add {path}", branch)

    def resolve(self, revision: str) -> str | None:
        """The commit of a branch, a tag or a commit."""
        found = self.branches.get(revision) or self.tags.get(revision) or revision
        return found if found in self.commits else None

    def files(self, revision: str = "main") -> dict[str, bytes]:
        """What a reader gets."""
        sha = self.resolve(revision)
        return {} if sha is None else {path: blob.content for path, blob in self.commits[sha].files.items()}


def respond(status: int, message: str = "", headers: Mapping[str, str] | None = None) -> Action:
    """An error instead of the answer."""

    async def action(request: web.Request, handler: Handler) -> web.StreamResponse:
        return web.json_response({"error": message} if message else {}, status=status, headers=headers)

    return action


def after(work: Callable[[], object]) -> Action:
    """The answer, after some work."""

    async def action(request: web.Request, handler: Handler) -> web.StreamResponse:
        work()
        return await handler(request)

    return action


def held(gate: threading.Event) -> Action:
    """The answer once a gate opens; until then nothing of the request's body is read."""

    async def action(request: web.Request, handler: Handler) -> web.StreamResponse:
        while not gate.is_set():  # noqa: ASYNC110 - the gate is another thread's, and may never open
            await asyncio.sleep(0.01)
        return await handler(request)

    return action


async def hidden(request: web.Request, handler: Handler) -> web.StreamResponse:
    """The request has its effect, but the answer is an error."""
    await handler(request)
    return web.json_response({}, status=504)


async def echoed(request: web.Request, handler: Handler) -> web.StreamResponse:
    """A server that is so unwise as to send the token back."""
    return web.json_response({"error": f"bad header: {request.headers.get('authorization')}"}, status=403)


async def cut_off(request: web.Request, handler: Handler) -> web.StreamResponse:
    """The connection breaks in the middle of the request's body."""
    await request.content.read(64)
    assert request.transport is not None
    request.transport.abort()
    return web.Response()


class FakeHub(Server):
    """A Hub on a thread.

    `requests` are the method and path of each request, `received` the bytes read of each large file's content.
    """

    def __init__(self) -> None:
        super().__init__()
        self.repos: dict[str, Repo] = {}
        self.requests: list[str] = []
        self.received: Counter[str] = Counter()
        self.tokens_at_storage: list[str] = []
        self._faults: list[tuple[str, str, Action, list[int]]] = []

    def on(self, method: str, path: str, action: Action, times: int = 1) -> None:
        """Answer the next requests whose path has a part that matches in another way."""
        self._faults.append((method, path, action, [times]))

    def seen(self, method: str, path: str) -> int:
        """How many such requests there were."""
        return sum(bool(re.match(f"{method} .*{path}", request)) for request in self.requests)

    def create(self, repo_id: str, private: bool = True) -> Repo:
        """A repository as the Hub makes it."""
        repo = self.repos[repo_id] = Repo(private)
        repo.commit({".gitattributes": Blob(b"*.parquet filter=lfs\n", False)}, "initial commit")
        return repo

    def app(self) -> web.Application:
        """Return what answers as the Hub does."""
        app = web.Application(client_max_size=2**28, middlewares=[self._route])
        repo = "/api/datasets/{owner}/{name}"
        app.add_routes(
            [
                web.get("/api/whoami-v2", self._whoami),
                web.get("/api/{kind:organizations|users}/{owner}/overview", self._overview),
                web.post("/api/validate-yaml", self._validate),
                web.post("/api/repos/create", self._create),
                web.get(repo, self._info),
                web.get(repo + "/revision/{revision}", self._info),
                web.get(repo + "/refs", self._refs),
                web.post(repo + "/branch/{branch}", self._branch),
                web.post(repo + "/tag/{revision}", self._tag),
                web.get(repo + "/tree/{revision}", self._tree),
                web.get(repo + "/tree/{revision}/{path:.*}", self._tree),
                web.post(repo + "/preupload/{revision}", self._preupload),
                web.post("/datasets/{owner}/{name}.git/info/lfs/objects/batch", self._batch),
                web.put("/storage/{owner}/{name}/{oid}", self._put),
                web.post(repo + "/commit/{revision}", self._commit),
                web.get("/datasets/{owner}/{name}/resolve/{revision}/{path:.*}", self._download),
            ]
        )
        return app

    @web.middleware
    async def _route(self, request: web.Request, handler: Handler) -> web.StreamResponse:
        self.requests.append(f"{request.method} {request.path}")
        for method, path, action, times in self._faults:
            if request.method == method and re.search(path, request.path) and times[0]:
                times[0] -= 1
                return await action(request, handler)
        if not request.path.startswith("/storage") and self._token(request) not in _ACCOUNTS:
            return _error(401, "Invalid username or password.")
        try:
            return await handler(request)
        except _AnswerError as error:
            return error.response

    def _token(self, request: web.Request) -> str:
        return request.headers.get("authorization", "").removeprefix("Bearer ")

    def _role(self, request: web.Request, owner: str) -> str | None:
        """What the token may do with the repositories of an owner: "write", "read", or None."""
        user, role = _ACCOUNTS[self._token(request)]
        mine = "write" if owner == user else _ORGANISATIONS[user].get(owner)
        return "read" if mine and role == "read" else mine

    def _repo(self, request: web.Request, needs: str = "read") -> Repo:
        """The repository of a request, if the token may do that with it."""
        owner = request.match_info["owner"]
        repo = self.repos.get(f"{owner}/{request.match_info['name']}")
        role = self._role(request, owner)
        if repo is None or (repo.private and role is None):
            raise _AnswerError(_error(404, "Repository not found", code="RepoNotFound"))
        if needs == "write" and role != "write":
            message = "Forbidden: pass `create_pr=1` as a query parameter to create a Pull Request"
            raise _AnswerError(_error(403, message))
        return repo

    def _at(self, repo: Repo, revision: str) -> tuple[str, Commit]:
        sha = repo.resolve(revision)
        if sha is None:
            raise _AnswerError(_error(404, f"Invalid rev id: {revision}", code="RevisionNotFound"))
        return sha, repo.commits[sha]

    async def _whoami(self, request: web.Request) -> web.Response:
        user, role = _ACCOUNTS[self._token(request)]
        organisations = [{"name": name, "roleInOrg": role} for name, role in _ORGANISATIONS[user].items()]
        return web.json_response(
            {"type": "user", "name": user, "orgs": organisations, "auth": {"accessToken": {"role": role}}}
        )

    async def _overview(self, request: web.Request) -> web.Response:
        kind, owner = request.match_info["kind"], request.match_info["owner"]
        known = _KNOWN_ORGANISATIONS if kind == "organizations" else _ORGANISATIONS
        if owner not in known:
            return _error(404, "This user or organisation does not exist")
        return web.json_response({"name": owner, "fullname": owner, "user": owner, "avatarUrl": ""})

    async def _validate(self, request: web.Request) -> web.Response:
        return web.json_response({"errors": [], "warnings": [{"message": "the warnings of a card are not shown"}]})

    async def _create(self, request: web.Request) -> web.Response:
        body = await request.json()
        repo_id = f"{body['organization']}/{body['name']}"
        if self._role(request, body["organization"]) != "write":
            return _error(403, "You don't have the rights to create a dataset under this namespace")
        url = f"{self.url}/datasets/{repo_id}"
        if repo_id in self.repos:
            return web.json_response({"error": "You already created this dataset repo", "url": url}, status=409)
        self.create(repo_id, body.get("visibility") == "private")
        return web.json_response({"url": url})

    async def _info(self, request: web.Request) -> web.Response:
        repo = self._repo(request)
        sha, commit = self._at(repo, request.match_info.get("revision", "main"))
        return web.json_response(
            {
                "id": f"{request.match_info['owner']}/{request.match_info['name']}",
                "sha": sha,
                "private": repo.private,
                "disabled": False,
                "gated": False,
                "tags": [],
                "downloads": 0,
                "likes": 0,
                "siblings": [{"rfilename": path} for path in commit.files],
            }
        )

    async def _refs(self, request: web.Request) -> web.Response:
        repo = self._repo(request)

        def listed(kind: str, refs: Mapping[str, str]) -> list[dict[str, str]]:
            return [{"name": n, "ref": f"refs/{kind}/{n}", "targetCommit": sha} for n, sha in refs.items()]

        return web.json_response(
            {"branches": listed("heads", repo.branches), "converts": [], "tags": listed("tags", repo.tags)}
        )

    async def _branch(self, request: web.Request) -> web.Response:
        repo, branch = self._repo(request, "write"), request.match_info["branch"]
        if branch in repo.branches:
            return _error(409, "Reference already exists")
        repo.branches[branch], _ = self._at(repo, (await request.json()).get("startingPoint", "main"))
        return web.json_response({})

    async def _tag(self, request: web.Request) -> web.Response:
        repo, tag = self._repo(request, "write"), (await request.json())["tag"]
        if tag in repo.tags:
            return _error(409, "Tag reference exists already")
        repo.tags[tag], _ = self._at(repo, request.match_info["revision"])
        return web.json_response({})

    async def _tree(self, request: web.Request) -> web.Response:
        _, commit = self._at(self._repo(request), request.match_info["revision"])
        folder = request.match_info.get("path", "")
        prefix = f"{folder}/" if folder else ""
        found = [path for path in sorted(commit.files) if path.startswith(prefix)]
        if request.query.get("recursive", "").lower() == "true":
            return web.json_response([_entry(path, commit) for path in found])
        direct = dict.fromkeys(prefix + path.removeprefix(prefix).split("/")[0] for path in found)
        return web.json_response([_entry(path, commit) for path in direct])

    async def _preupload(self, request: web.Request) -> web.Response:
        repo = self._repo(request, "write")
        _, commit = self._at(repo, request.match_info["revision"])
        ignored = repo.files(request.match_info["revision"]).get(".gitignore", b"").decode().split()
        answers = []
        for file in (await request.json())["files"]:
            path, blob = file["path"], commit.files.get(file["path"])
            answers.append(
                {
                    "path": path,
                    "uploadMode": "lfs" if path.endswith((".parquet", ".png")) else "regular",
                    "shouldIgnore": path in ignored,
                    "oid": None if blob is None else blob.sha256 if blob.is_lfs else blob.oid,
                }
            )
        return web.json_response({"files": answers})

    async def _batch(self, request: web.Request) -> web.Response:
        repo = self._repo(request, "write")
        storage = f"{self.url}/storage/{request.match_info['owner']}/{request.match_info['name']}"
        answers = []
        for asked in (await request.json())["objects"]:
            actions = {"actions": {"upload": {"href": f"{storage}/{asked['oid']}"}}}
            answers.append(asked | ({} if asked["oid"] in repo.objects else actions))
        return web.json_response({"transfer": "basic", "objects": answers})

    async def _put(self, request: web.Request) -> web.Response:
        if "authorization" in request.headers:
            self.tokens_at_storage.append(request.path)
        oid, content = request.match_info["oid"], b""
        async for chunk in request.content.iter_any():
            content += chunk
            self.received[oid] += len(chunk)
        if hashlib.sha256(content).hexdigest() != oid:
            return _error(400, "the content does not have this hash")
        self.repos[f"{request.match_info['owner']}/{request.match_info['name']}"].objects[oid] = content
        return web.Response()

    async def _commit(self, request: web.Request) -> web.Response:
        repo, branch = self._repo(request, "write"), request.match_info["revision"]
        head, commit = self._at(repo, branch)
        files, header = dict(commit.files), {"summary": ""}
        for line in (await request.read()).splitlines():
            key, value = (entry := json.loads(line))["key"], entry["value"]
            if key == "header":
                header = value
            elif key == "file":
                files[value["path"]] = Blob(base64.b64decode(value["content"]), False)
            elif key == "lfsFile" and value["oid"] in repo.objects:
                files[value["path"]] = Blob(repo.objects[value["oid"]], True)
            elif key == "deletedFile" and value["path"] in files:
                del files[value["path"]]
            else:
                message = "Your push was rejected because an LFS pointer pointed to a file that does not exist."
                return _error(400, message if key == "lfsFile" else f"A file with this name doesn't exist: {value}")
        if header.get("parentCommit", head) != head:
            return _error(412, "A commit has happened since. Please refresh and try again.")
        sha = repo.commit(files, header["summary"], branch)
        url = f"{self.url}/datasets/{request.match_info['owner']}/{request.match_info['name']}/commit/{sha}"
        return web.json_response({"success": True, "commitOid": sha, "commitUrl": url})

    async def _download(self, request: web.Request) -> web.Response:
        sha, commit = self._at(self._repo(request), request.match_info["revision"])
        blob = commit.files.get(request.match_info["path"])
        if blob is None:
            return _error(404, "Entry not found", code="EntryNotFound", headers={"X-Repo-Commit": sha})
        headers = {"X-Repo-Commit": sha, "ETag": f'"{blob.oid}"', "Accept-Ranges": "bytes"}
        if blob.is_lfs:
            headers |= {"X-Linked-Etag": f'"{blob.sha256}"', "X-Linked-Size": str(len(blob.content))}
        wanted, size = request.http_range, len(blob.content)
        if "range" not in request.headers:
            return web.Response(body=blob.content, headers=headers)
        start, stop, _ = wanted.indices(size)
        headers["Content-Range"] = f"bytes {start}-{stop - 1}/{size}"
        return web.Response(body=blob.content[wanted], status=206, headers=headers)


class _AnswerError(Exception):
    """Ends a handler with a response."""

    def __init__(self, response: web.Response) -> None:
        super().__init__()
        self.response = response


def _error(status: int, message: str, code: str = "", headers: Mapping[str, str] | None = None) -> web.Response:
    named = {"X-Error-Message": message, **({"X-Error-Code": code} if code else {}), **(headers or {})}
    return web.json_response({"error": message}, status=status, headers=named)


def _entry(path: str, commit: Commit) -> dict[str, Any]:
    """A file or a folder, as the Hub lists it."""
    blob = commit.files.get(path)
    if blob is None:
        return {"type": "directory", "path": path, "oid": hashlib.sha1(path.encode()).hexdigest(), "size": 0}  # noqa: S324
    entry: dict[str, Any] = {"type": "file", "path": path, "oid": blob.oid, "size": len(blob.content)}
    return entry | ({"lfs": {"oid": blob.sha256, "size": len(blob.content), "pointerSize": 134}} if blob.is_lfs else {})
