"""Vendored third-party files."""

import hashlib

from tests.environment import ROOT

VENDORED = ROOT / "web/swagger_ui"


def test_the_vendored_files_are_unmodified() -> None:
    sums = dict(line.split()[::-1] for line in (VENDORED / "SHA256SUMS").read_text().splitlines())
    assert {"LICENSE", "NOTICE", "swagger-ui-bundle.js", "swagger-ui.css"} <= sums.keys()
    assert sums.keys() | {"README.md", "SHA256SUMS"} == {file.name for file in VENDORED.iterdir()}
    for name, digest in sums.items():
        assert hashlib.sha256((VENDORED / name).read_bytes()).hexdigest() == digest, name
