"""Schemathesis as a stranger runs it: on the served document, and without our schemathesis.toml.

Only the inputs are fewer than by default, and the same each time. tests/fuzz has checks of its own.
"""

import subprocess
import sys
import uuid
from pathlib import Path

import pytest

from tests.process.service import Service
from tests.support import SECRET
from tools.tokens import mint

SECONDS = 60
EXPECTS_410_AND_412 = """
[checks.positive_data_acceptance]
expected-statuses = ["2xx", "3xx", "401", "403", "404", "409", "410", "412", "429", "5xx"]
"""
PHASES = ["Examples", "Coverage", "Fuzzing", "Stateful"]


@pytest.mark.spec("contract.fuzz")
def test_schemathesis_finds_nothing(api: Service, tmp_path: Path) -> None:
    token = mint(SECRET, f"stranger-{uuid.uuid4()}")
    (tmp_path / "schemathesis.toml").write_text(EXPECTS_410_AND_412)
    ended = subprocess.run(
        [
            Path(sys.executable).with_name("schemathesis"),
            "run",
            f"{api.client.base_url}/openapi.json",
            "--header",
            f"Authorization: Bearer {token}",
            "--generation-deterministic",
            "--max-examples=25",
            "--no-color",
        ],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=SECONDS,
        check=False,
    )
    assert ended.returncode == 0, ended.stdout
    assert [phase for phase in PHASES if f"✅ {phase}\n" not in ended.stdout] == []
