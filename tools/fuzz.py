"""`make fuzz`: Schemathesis over HTTP, against gunicorn as the Procfile starts it.

Settings: BUDGET is the time in seconds, SEED repeats a run. The reports are in
build/fuzz/.
"""

import json
import os
import secrets
import subprocess
import sys
from pathlib import Path

from tools import postgres, serve, tokens

REPORTS = Path("build/fuzz")
CONTRACT = "specs/openapi.json"


def main() -> int:
    secret = secrets.token_hex(32)
    REPORTS.mkdir(parents=True, exist_ok=True)
    write_users(REPORTS / "auth.json", secret)
    try:
        with postgres.temporary_server() as url:
            environment = {
                "PATH": os.environ.get("PATH", os.defpath),
                "DATABASE_URL": url.render_as_string(hide_password=False),
                "BETTER_AUTH_SECRET": secret,
                "HOST": "127.0.0.1",
                "PORT": str(postgres.free_port()),
                "RATE_LIMIT_REQUESTS": "1000000/second",
                "RATE_LIMIT_AUTH_FAILURES": "1000000/second",
            }
            with serve.service(environment, log=REPORTS / "service.log"):
                return _fuzz(serve.base_url(environment))
    except postgres.Failure as failure:
        sys.exit(str(failure))
    except KeyboardInterrupt:
        return 130


def write_users(path: Path, secret: str) -> None:
    """The two identities that schemathesis.toml names, with real tokens."""
    users = []
    for name in ("owner", "stranger"):
        header = {"name": "Authorization", "value": f"Bearer {tokens.mint(secret, f'fuzz-{name}')}"}
        users.append({"name": name, "fixedHeaders": [header]})
    path.write_text(json.dumps({"auth": users}))


def _fuzz(base_url: str) -> int:
    arguments = [
        f"--url={base_url}",
        f"--max-time={os.environ.get('BUDGET') or 60}",
        "--continue-on-failure",
        "--report=junit,html",
        f"--report-dir={REPORTS}",
        f"--report-junit-path={REPORTS / 'junit.xml'}",
        f"--report-html-path={REPORTS / 'html'}",
        "--no-color",
    ]
    if seed := os.environ.get("SEED"):
        arguments.append(f"--seed={seed}")
    command = [str(Path(sys.executable).with_name("schemathesis")), "run", CONTRACT, *arguments]
    return subprocess.run(command, check=False).returncode


if __name__ == "__main__":
    sys.exit(main())
