"""The routes of the service, as the access log names them."""

import re

from tests.support import ACCOUNT, TASKS

ROUTES = (
    ACCOUNT, f"{ACCOUNT}/export",
    TASKS, f"{TASKS}/changes", f"{TASKS}/batch",
    f"{TASKS}/{{task_id}}", f"{TASKS}/{{task_id}}/restore", "/health/live", "/health/ready",
    "/problems/{name}", "/openapi.json", "/docs", "/docs/assets/{digest}/{name}",
)  # fmt: skip


def route_of(path: str) -> str | None:
    """The template of a path, as the log has it; None if no route has the path."""
    bare = path.partition("?")[0]
    for template in ROUTES:
        if re.fullmatch(re.sub(r"\{\w+\}", "[^/]+", template), bare):
            return template
    return None
