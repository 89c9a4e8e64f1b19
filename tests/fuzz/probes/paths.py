"""Probes of paths, methods, IDs, query names, HEAD, and of what needs no token."""

import hashlib
import json
import re
from collections.abc import Iterator
from urllib.parse import quote

from httpx2 import Response

from tests.environment import ROOT
from tests.fuzz.prober import Prober, probe, valid
from tests.fuzz.routes import route_of
from tests.operations import ID, ON_ONE_TASK, OPERATIONS, methods_of
from tests.support import ACCOUNT, TASKS
from tests.wording import TITLES

ASSET_TYPES = {"css": "text/css; charset=utf-8", "js": "text/javascript; charset=utf-8"}
METHODS = ("GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS", "TRACE", "PROPFIND")
PUBLIC = ("/health/live", "/health/ready", "/openapi.json", "/docs", "/problems/not-found")
UNKNOWN = (
    "/", "/api", "/api/task", f"{TASKS}/", f"{TASKS}/{ID}/", f"{TASKS}/{ID}/x", "/API/TASKS", "/health",
    "/redoc", "/problems/", "/problems/unknown", "/docs/", "/docs/assets/x/y.js", "/%00", "/.env",
    "/favicon.ico",
)  # fmt: skip
BAD_IDS = (
    "1", "x" * 36, ID[:-1], f"{ID}0", ID.replace("-", ""), f"{{{ID}}}", f"urn:uuid:{ID}", f" {ID}",
    f"{ID}\n", ID.replace("0", "g"), ID[:8] + ID[9:] + "-0", "null", "%00", "*", "e" * 200,
)  # fmt: skip


@probe("tasks.id", "problems.errors", at_least=len(BAD_IDS) * len(ON_ONE_TASK))
def an_id_that_is_no_canonical_uuid(prober: Prober) -> None:
    for operation in ON_ONE_TASK:
        for task in BAD_IDS:
            url = operation.path.format(task_id=quote(task))
            request = valid(operation, prober.context.owner)
            response = prober.refuse(422, "invalid-request", operation.method, url, **request)
            prober.expect_errors(response, "parameter", "task_id")


@probe("tasks.id", "tasks.get.found")
def an_id_in_upper_case(prober: Prober) -> None:
    task = prober.context.any_task()
    prober.accept(200, "GET", f"{TASKS}/{task.upper()}", token=prober.context.owner)


@probe("tasks.list.query", "problems.errors", at_least=5 * len(OPERATIONS))
def a_query_parameter_that_is_unknown_or_repeated(prober: Prober) -> None:
    task = prober.context.any_task()
    declared = _query_parameters()
    for operation in OPERATIONS:
        repeated = [(f"{name}=1&{name}=1", name) for name in declared[operation.method, operation.path]]
        unknown = [(query, "") for query in ("color=red", "user_id=x", "task_id=x", "Limit=1", "=")]
        for query, location in (*unknown, *repeated):
            url = f"{operation.path.format(task_id=task)}?{query}"
            request = valid(operation, prober.context.owner)
            response = prober.refuse(422, "invalid-request", operation.method, url, **request)
            prober.expect_errors(response, "parameter", location)


@probe("tasks.list.query", "problems.errors", at_least=3)
def a_query_that_is_not_utf8(prober: Prober) -> None:
    for query in ("tag=%FF", "q=%C3", "q=%ED%A0%80"):
        response = prober.refuse(
            422, "invalid-request", "GET", f"{TASKS}?{query}", token=prober.context.owner
        )
        prober.expect_errors(response, "parameter", "")


def _query_parameters() -> dict[tuple[str, str], list[str]]:
    paths = json.loads((ROOT / "specs/openapi.json").read_text())["paths"]
    return {
        (method.upper(), path): [
            each["name"] for each in operation.get("parameters", ()) if each["in"] == "query"
        ]
        for path, methods in paths.items()
        for method, operation in methods.items()
    }


def _paths() -> Iterator[tuple[str, list[str]]]:
    """Every path with its methods."""
    for path in sorted({each.path for each in OPERATIONS}):
        yield path.format(task_id=ID), methods_of(path)
    for path in PUBLIC:
        yield path, ["GET", "HEAD"]


@probe("problems.method", at_least=35)
def a_method_that_the_path_does_not_have(prober: Prober) -> None:
    for path, methods in _paths():
        for method in METHODS:
            if method in methods:
                continue
            response = prober.refuse(405, "method-not-allowed", method, path, token=prober.context.owner)
            allow = response.headers.get("Allow", "")
            prober.expect(sorted(allow.split(", ")) == methods, f"Allow of {path} is {allow!r}", response)


@probe("problems.unknown-path", "problems.type", "contract.docs.assets", at_least=2 * len(UNKNOWN))
def a_path_that_does_not_exist(prober: Prober) -> None:
    for path in UNKNOWN:
        prober.refuse(404, "not-found", "GET", path, token=prober.context.owner)
        has_route = route_of(path) is not None
        status, kind = (405, "method-not-allowed") if has_route else (404, "not-found")
        prober.refuse(status, kind, "POST", path, token=prober.context.owner)


@probe("http.head", at_least=2 * (len(PUBLIC) + 5))
def the_head_of_every_get(prober: Prober) -> None:
    task = prober.context.any_task()
    for path in (
        *PUBLIC,
        TASKS,
        f"{TASKS}?limit=2",
        f"{TASKS}/changes",
        f"{TASKS}/{task}",
        f"{TASKS}/{ID}",
        f"{ACCOUNT}/export",
    ):
        answer, head = (
            prober.accept(404 if path.endswith(ID) else 200, method, path, token=prober.context.owner)
            for method in ("GET", "HEAD")
        )
        prober.expect(head.content == b"", f"the HEAD of {path} has a body", head)
        expected, found = _comparable(answer), _comparable(head)
        prober.expect(
            found == expected, f"the HEAD of {path} has other headers: {found} and not {expected}", head
        )


def _comparable(response: Response) -> dict[str, str]:
    """The headers without those that differ between any two responses, or that a HEAD may leave out."""
    varying = {"x-request-id", "date", "server-timing", "transfer-encoding"}
    headers = {name: value for name, value in response.headers.items() if name not in varying}
    if response.status_code >= 400:
        del headers["content-length"]
    return headers


@probe(
    "health.live",
    "health.ready",
    "health.anonymous",
    "problems.type",
    "contract.openapi",
    at_least=3 + len(TITLES),
)
def a_request_that_needs_no_token(prober: Prober) -> None:
    for name, status in (("live", "live"), ("ready", "ready")):
        response = prober.accept(200, "GET", f"/health/{name}")
        prober.expect(response.json() == {"status": status}, f"/health/{name} has {response.text}", response)
    for name, title in TITLES.items():
        response = prober.accept(200, "GET", f"/problems/{name}")
        plain = response.headers.get("Content-Type", "").startswith("text/plain")
        heading = re.escape(title) + r" \(\d{3}\)\n\n"
        explained = re.fullmatch(heading + r"[A-Z].{40,}\.\n", response.text, re.DOTALL)
        prober.expect(plain and explained, f"/problems/{name} is not explained in plain text", response)
    document = prober.accept(200, "GET", "/openapi.json")
    committed = json.loads((ROOT / "specs/openapi.json").read_text())
    prober.expect(document.json() == committed, "/openapi.json is not the committed document", document)


@probe("contract.docs", "contract.docs.assets", at_least=4)
def the_documentation_page_and_its_assets(prober: Prober) -> None:
    page = prober.accept(200, "GET", "/docs")
    prober.expect("//" not in re.sub(r"xmlns[^>]*", "", page.text), "/docs refers to another host", page)
    for path in sorted(set(re.findall(r"/docs/assets/[^\"']+", page.text))):
        asset = prober.accept(200, "GET", path)
        kind = asset.headers.get("Content-Type")
        expected = ASSET_TYPES[path.rpartition(".")[2]]
        prober.expect(kind == expected, f"the type of {path} is {kind!r}", asset)
        digest, name = path.split("/")[-2:]
        prober.expect(
            hashlib.sha256(asset.content).hexdigest().startswith(digest), f"{path} has another digest", asset
        )
        for other in ("0" * len(digest), digest[:-1], digest.upper() + "A"):
            prober.refuse(404, "not-found", "GET", f"/docs/assets/{other}/{name}")
