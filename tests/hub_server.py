"""A Hub on 127.0.0.1 for the tests: what of its HTTP interface `huggingface_hub` uses to push models and to load them.

Repositories are kept in memory, every request is logged, and a fault can be set for each repository. Files are sent
by plain LFS: the client needs `HF_HUB_DISABLE_XET=1`.
"""

import base64
import hashlib
import json
import re
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, Literal
from urllib.parse import unquote, urlsplit

import yaml

OWNER = "someone"
WRITER, READER = "hf_that_may_write", "hf_that_may_only_read"  # the tokens this Hub knows
Fault = Literal["cut_upload", "cut_download", "fail_commit", "hang_commit", "hang_download", "slow_upload"]
LARGE = (".safetensors", ".bin")  # what goes by LFS, as .gitattributes has it on the Hub
REPO = rf"(?P<repo>{OWNER}/[\w.-]+)"


@dataclass(frozen=True)
class Commit:
    """A commit, with all files of the repository as it leaves them."""

    title: str
    files: dict[str, bytes]
    oid: str


@dataclass(frozen=True)
class Request:
    """A request as the server got it; `target` is a whole URL where it was meant for another host."""

    method: str
    target: str
    status: int


@dataclass
class Hub:
    """The state of the server.

    Attributes:
        url: What `HF_ENDPOINT` is to be.
        commits: Of each repository, the first one first.
        objects: LFS files that were uploaded, by their SHA-256.
        faults: How many times a fault is still to happen, by repository and name.
        requests: All requests so far.
        errors: What this server itself failed at.
    """

    url: str
    commits: dict[str, list[Commit]] = field(default_factory=dict)
    objects: dict[str, bytes] = field(default_factory=dict)
    faults: dict[tuple[str, Fault], int] = field(default_factory=dict)
    requests: list[Request] = field(default_factory=list)
    errors: list[BaseException | None] = field(default_factory=list)
    lock: threading.RLock = field(default_factory=threading.RLock)
    closing: threading.Event = field(default_factory=threading.Event)

    def create(self, repo: str) -> None:
        self.commits[repo] = []
        self.commit(repo, "initial commit", {".gitattributes": b"*.safetensors filter=lfs diff=lfs merge=lfs -text\n"})

    def commit(self, repo: str, title: str, files: dict[str, bytes]) -> Commit:
        oid = hashlib.sha1(f"{repo} {len(self.commits[repo])} {title}".encode()).hexdigest()
        self.commits[repo].append(Commit(title, files, oid))
        return self.commits[repo][-1]

    def files(self, repo: str) -> dict[str, bytes]:
        return self.commits[repo][-1].files

    def breaks(self, repo: str, fault: Fault) -> bool:
        with self.lock:
            left = self.faults.get((repo, fault), 0)
            self.faults[repo, fault] = left - 1
            return left > 0


class Refusal(Exception):
    """An answer other than 2xx, as the Hub words it."""

    def __init__(self, status: int, message: str, code: str = "", **headers: str) -> None:
        super().__init__(message)
        named = {"X-Error-Code": code} if code else {}
        self.status, self.message, self.headers = status, message, {**named, "X-Error-Message": message, **headers}


class HubServer(ThreadingHTTPServer):
    daemon_threads = True
    hub: Hub

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Keep what went wrong; connections that this server or its client cut are part of the tests."""
        if not isinstance(sys.exc_info()[1], ConnectionError):
            self.hub.errors.append(sys.exc_info()[1])


class HubHandler(BaseHTTPRequestHandler):
    """Answers a request by the first of `ROUTES` that matches its method and path."""

    protocol_version = "HTTP/1.1"
    server: HubServer

    def do_any(self) -> None:
        body, path = self._body(), unquote(urlsplit(self.path).path)
        try:
            for method, pattern, route in ROUTES:
                match = re.fullmatch(pattern, path)
                if match and self.command in method.split() and self.path.startswith("/"):
                    self._refuse_unknown_tokens()
                    return route(self, body, **match.groupdict())
            raise Refusal(501, f"This Hub has no {self.command} {self.path}.")
        except Refusal as refusal:
            self.answer({"error": refusal.message}, refusal.status, refusal.headers)

    do_GET = do_HEAD = do_POST = do_PUT = do_DELETE = do_CONNECT = do_any

    # The routes.

    def whoami(self, body: bytes) -> None:
        """`HfApi.whoami`"""
        if self.token is None:
            raise Refusal(401, "Invalid username or password.")
        self.answer({"type": "user", "name": OWNER, "orgs": [], "auth": {}})

    def harnesses(self, body: bytes) -> None:
        """Every client, once a day, for its `User-Agent`"""
        self.answer({"standardEnvVars": [], "harnesses": {}})

    def validate_yaml(self, body: bytes) -> None:
        """`HfApi.create_commit` before it uploads a README.md, and `ModelCard.validate`"""
        errors = [{"message": error} for error in card_errors(json.loads(body)["content"])]
        self.answer({"errors": errors, "warnings": []}, 400 if errors else 200)

    def create_repo(self, body: bytes) -> None:
        """`HfApi.create_repo`; 409 where it exists already, which `exist_ok=True` takes well"""
        wish = json.loads(body)
        repo = f"{wish.get('organization') or OWNER}/{wish['name']}"
        if self.token != WRITER or not repo.startswith(f"{OWNER}/"):
            self._refuse_writing(f'You don\'t have the rights to create a model under the namespace "{repo}"')
        url = {"url": f"{self.hub.url}/{repo}", "name": repo}
        with self.hub.lock:
            if repo in self.hub.commits:
                return self.answer({"error": "You already created this model repo", **url}, 409)
            self.hub.create(repo)
        self.answer(url)

    def model_info(self, body: bytes, repo: str, revision: str = "main") -> None:
        """`HfApi.model_info`, which `snapshot_download` and `create_commit` without changes ask"""
        commit = self._commit(repo, revision)
        siblings = [{"rfilename": path} for path in commit.files]
        self.answer({"id": repo, "sha": commit.oid, "private": False, "tags": [], "siblings": siblings})

    def tree(self, body: bytes, repo: str, revision: str) -> None:
        """`HfApi.list_repo_tree`, which `snapshot_download` asks"""
        entries = []
        for path, content in self._commit(repo, revision).files.items():
            entry = {"type": "file", "path": path, "size": len(content), "oid": git_oid(content)}
            if path.endswith(LARGE):
                entry["lfs"] = {"oid": sha256(content), "size": len(content), "pointerSize": 134}
            entries.append(entry)
        self.answer(entries)

    def preupload(self, body: bytes, repo: str, revision: str) -> None:
        """`HfApi.create_commit`: which files go by LFS, and what the repository has of each already"""
        self._to_write(repo)
        if self.hub.breaks(repo, "slow_upload"):
            self.hub.closing.wait(0.5)  # seconds, in which a small model trains for an epoch
        there = self._commit(repo, revision).files
        files = []
        for wish in json.loads(body)["files"]:
            path = wish["path"]
            entry = {"path": path, "uploadMode": "lfs" if path.endswith(LARGE) else "regular", "shouldIgnore": False}
            if path in there:
                entry["oid"] = (sha256 if path.endswith(LARGE) else git_oid)(there[path])
            files.append(entry)
        self.answer({"files": files})

    def lfs_batch(self, body: bytes, repo: str) -> None:
        """`HfApi.create_commit`: where to upload each LFS file; nowhere if it is there already"""
        self._to_write(repo)
        objects = []
        for wish in json.loads(body)["objects"]:
            if wish["oid"] not in self.hub.objects:
                upload = {"href": f"{self.hub.url}/lfs/{repo}/{wish['oid']}"}
                verify = {"href": f"{self.hub.url}/{repo}.git/info/lfs/verify"}
                wish["actions"] = {"upload": upload, "verify": verify}
            objects.append(wish)
        self.answer({"transfer": "basic", "objects": objects})

    def lfs_upload(self, body: bytes, repo: str, oid: str) -> None:
        """`HfApi.create_commit`: the content of an LFS file"""
        if sha256(body) != oid:
            raise Refusal(400, "The content is not what its SHA-256 says.")
        self.hub.objects[oid] = body
        self.answer({})

    def lfs_verify(self, body: bytes, repo: str) -> None:
        """`HfApi.create_commit` after each LFS upload"""
        wish = json.loads(body)
        if len(self.hub.objects.get(wish["oid"], b"")) != wish["size"]:
            raise Refusal(404, "The object was not uploaded.")
        self.answer({})

    def make_commit(self, body: bytes, repo: str, revision: str) -> None:
        """`HfApi.create_commit`: lines of JSON, a header and an operation each"""
        self._to_write(repo)
        if self.hub.breaks(repo, "fail_commit"):
            raise Refusal(500, "The disk of this Hub is full.")
        if self.hub.breaks(repo, "hang_commit"):
            self._hang()
        title, description, files = "", "", dict(self._commit(repo, revision).files)
        with self.hub.lock:
            for line in body.splitlines():
                operation = json.loads(line)
                value = operation["value"]
                if operation["key"] == "header":
                    title, description = value["summary"], value["description"]
                    newest = self._commit(repo, revision).oid
                    if value.get("parentCommit", newest) != newest:
                        raise Refusal(412, "A commit has happened since. Please refresh and try again.")
                elif operation["key"] == "file":
                    files[value["path"]] = base64.b64decode(value["content"])
                elif operation["key"] == "lfsFile":
                    files[value["path"]] = self.hub.objects[value["oid"]]
                else:
                    raise Refusal(400, f"This Hub knows no operation {operation['key']!r}.")
            commit = self.hub.commit(repo, title, files)
        url = f"{self.hub.url}/{repo}/commit/{commit.oid}"
        self.answer({"commitOid": commit.oid, "commitUrl": url, "commitMessage": title, "description": description})

    def resolve(self, body: bytes, repo: str, revision: str, path: str) -> None:
        """`hf_hub_download`: HEAD for what there is, then GET, with `Range` after a download that broke off"""
        commit = self._commit(repo, revision)
        if self.hub.breaks(repo, "hang_download"):
            self._hang()
        named = {"X-Repo-Commit": commit.oid}
        if path not in commit.files:
            raise Refusal(404, "Entry not found", "EntryNotFound", **named)
        content = commit.files[path]
        named["ETag"] = f'"{git_oid(content)}"'
        if path.endswith(LARGE):
            named |= {"X-Linked-Etag": f'"{sha256(content)}"', "X-Linked-Size": str(len(content))}
        wanted = re.fullmatch(r"bytes=(\d+)-", self.headers.get("Range", ""))
        start = int(wanted[1]) if wanted else 0
        if wanted:
            named["Content-Range"] = f"bytes {start}-{len(content) - 1}/{len(content)}"
        cut = self.command == "GET" and self.hub.breaks(repo, "cut_download")
        self.answer(content[start:], 206 if wanted else 200, named, cut)

    # What the routes share.

    @property
    def hub(self) -> Hub:
        return self.server.hub

    @property
    def token(self) -> str | None:
        return (self.headers.get("Authorization") or "").removeprefix("Bearer ") or None

    def _refuse_unknown_tokens(self) -> None:
        if self.token not in (None, WRITER, READER):
            raise Refusal(401, "Invalid credentials in Authorization header")

    def _refuse_writing(self, message: str) -> None:
        if self.token is None:
            raise Refusal(401, "Invalid username or password.")
        raise Refusal(403, message)

    def _to_write(self, repo: str) -> None:
        self._commit(repo, "main")
        if self.token != WRITER:
            self._refuse_writing("Your token has no write permission for this repository")

    def _commit(self, repo: str, revision: str) -> Commit:
        if repo not in self.hub.commits:
            raise Refusal(404 if self.token else 401, "Repository not found", "RepoNotFound")
        for commit in reversed(self.hub.commits[repo]):
            if revision in ("main", commit.oid):
                return commit
        raise Refusal(404, f"Invalid rev id: {revision}", "RevisionNotFound")

    def _hang(self) -> None:
        self.hub.closing.wait()
        raise ConnectionAbortedError

    def _body(self) -> bytes:
        length = int(self.headers.get("Content-Length") or 0)
        upload = re.fullmatch(rf"/lfs/{REPO}/\w+", self.path)
        if upload and self.command == "PUT" and self.hub.breaks(upload["repo"], "cut_upload"):
            self.rfile.read(length // 2)
            self._log(0)
            raise ConnectionAbortedError
        if self.headers.get("Transfer-Encoding") != "chunked":
            return self.rfile.read(length)
        chunks = []
        while size := int(self.rfile.readline(), 16):
            chunks.append(self.rfile.read(size))
            self.rfile.readline()
        self.rfile.readline()
        return b"".join(chunks)

    def answer(self, content: Any, status: int = 200, headers: dict[str, str] | None = None, cut: bool = False) -> None:
        body = content if isinstance(content, bytes) else json.dumps(content).encode()
        self._log(status)
        self.send_response(status)
        for name, value in {"Content-Length": str(len(body)), **(headers or {})}.items():
            self.send_header(name, value)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body[: len(body) // 2] if cut else body)
        self.close_connection = self.close_connection or cut

    def _log(self, status: int) -> None:
        self.hub.requests.append(Request(self.command, self.path, status))

    def log_message(self, format: str, *args: Any) -> None:
        """Nothing on stderr."""


Route = Callable[..., None]
API = rf"/api/models/{REPO}"
ROUTES: list[tuple[str, str, Route]] = [
    ("GET", r"/api/whoami-v2", HubHandler.whoami),
    ("GET", r"/api/agent-harnesses", HubHandler.harnesses),
    ("POST", r"/api/validate-yaml", HubHandler.validate_yaml),
    ("POST", r"/api/repos/create", HubHandler.create_repo),
    ("GET", API, HubHandler.model_info),
    ("GET", rf"{API}/revision/(?P<revision>.+)", HubHandler.model_info),
    ("GET", rf"{API}/tree/(?P<revision>.+)", HubHandler.tree),
    ("POST", rf"{API}/preupload/(?P<revision>.+)", HubHandler.preupload),
    ("POST", rf"{API}/commit/(?P<revision>.+)", HubHandler.make_commit),
    ("POST", rf"/{REPO}\.git/info/lfs/objects/batch", HubHandler.lfs_batch),
    ("POST", rf"/{REPO}\.git/info/lfs/verify", HubHandler.lfs_verify),
    ("PUT", rf"/lfs/{REPO}/(?P<oid>\w+)", HubHandler.lfs_upload),
    ("HEAD GET", rf"/{REPO}/resolve/(?P<revision>[^/]+)/(?P<path>.+)", HubHandler.resolve),
]


def card_errors(content: str) -> list[str]:
    """What is wrong with the metadata of a card, by the Hub's documentation of its keys and of `model-index`."""
    front = re.match(r"---\n(.*?)\n---\n", content, re.DOTALL)
    data = yaml.safe_load(front[1]) if front else {}
    errors = []
    for name in ("base_model", "datasets", "language", "library_name", "license", "metrics", "model_name", "tags"):
        value = data.get(name, [])
        if not all(isinstance(item, str) for item in (value if isinstance(value, list) else [value])):
            errors.append(f'"{name}" must be a string or a list of strings')
    for model in data.get("model-index", []):
        for result in [{}] if not model.get("name") else model.get("results", [{}]):
            places = [result.get("dataset", {}), *({**metric, "name": ""} for metric in result.get("metrics", [{}]))]
            if "type" not in result.get("task", {}) or not all({"type", "name"} <= set(place) for place in places):
                errors.append('"model-index" needs a name, and results with a task, a dataset and metrics')
    return errors


def sha256(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()


def git_oid(content: bytes) -> str:
    return hashlib.sha1(b"blob %d\0" % len(content) + content).hexdigest()


@contextmanager
def serve() -> Iterator[Hub]:
    """Run a Hub on a free port of 127.0.0.1, in threads of this process."""
    server = HubServer(("127.0.0.1", 0), HubHandler)
    server.hub = hub = Hub(f"http://127.0.0.1:{server.server_port}")
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05})
    thread.start()
    try:
        yield hub
    finally:
        hub.closing.set()
        server.shutdown()
        thread.join()
        server.server_close()
