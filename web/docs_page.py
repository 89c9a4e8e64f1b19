"""The page at /docs: Swagger UI, served by this application, without a CDN.

Holds the page, its assets and its Content-Security-Policy. `swagger_ui/` is vendored
and never edited; `docs_page.js` initialises it. No knowledge of routes or of the API's
operations belongs here.
"""

import hashlib
from collections.abc import AsyncIterator
from dataclasses import dataclass
from functools import cache
from html import escape
from pathlib import Path

PREFIX = "/docs/assets"

# Every asset has its content's hash in its path, so a cached copy is never out of date.
CACHE_CONTROL = "public, max-age=31536000, immutable"

CSP = (
    "default-src 'none'; frame-ancestors 'none'; base-uri 'none'; form-action 'none'; "
    "connect-src 'self'; img-src 'self' data:; script-src 'self'; style-src 'self'"
)

PIECE_BYTES = 64 * 1024
"""Bytes per write. `web/connections.py` limits the time a client may take to read each one."""

_HERE = Path(__file__).parent
_SCRIPT, _STYLE = "text/javascript; charset=utf-8", "text/css; charset=utf-8"
_FILES = {
    "swagger-ui.css": (_HERE / "swagger_ui/swagger-ui.css", _STYLE),
    "swagger-ui-bundle.js": (_HERE / "swagger_ui/swagger-ui-bundle.js", _SCRIPT),
    "docs_page.js": (_HERE / "docs_page.js", _SCRIPT),
}


@dataclass(frozen=True)
class Asset:
    content: bytes
    media_type: str

    async def pieces(self) -> AsyncIterator[bytes]:
        for start in range(0, len(self.content), PIECE_BYTES):
            yield self.content[start : start + PIECE_BYTES]


@cache
def assets() -> dict[str, Asset]:
    """The assets by path. Read on first use, and kept: 1.9 MB in each process that served the page."""
    found = {}
    for name, (file, media_type) in _FILES.items():
        content = file.read_bytes()
        digest = hashlib.sha256(content).hexdigest()[:16]
        found[f"{PREFIX}/{digest}/{name}"] = Asset(content, media_type)
    return found


@cache
def page(title: str) -> str:
    """The HTML. An empty icon keeps browsers from requesting /favicon.ico."""
    paths = {path.rpartition("/")[2]: path for path in assets()}
    return f"""\
<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>{escape(title)}</title>
<link rel="icon" href="data:,">
<link rel="stylesheet" href="{paths["swagger-ui.css"]}">
</head>
<body>
<div id="swagger-ui"></div>
<script src="{paths["swagger-ui-bundle.js"]}"></script>
<script src="{paths["docs_page.js"]}"></script>
</body>
</html>
"""
