"""`make chaos`: every fault under load, one at a time.

Prints one table, also to build/chaos.md. ONLY=… takes the scenarios with this in
their name, SEED=… repeats a run's choices. Exits with 1 when a scenario failed.
"""

import os
import random
import sys
import time
from pathlib import Path

import pytest

from tests.chaos.environment import environment
from tests.chaos.report import report, summary_line
from tests.chaos.runner import Result, run
from tests.chaos.scenarios import SCENARIOS
from tools.postgres import Failure
from tools.serve import end_on_signals

REPORT = Path("build/chaos.md")


def main() -> int:
    end_on_signals()
    wanted = os.environ.get("ONLY", "")
    seed = os.environ.get("SEED") or str(random.randrange(10**6))
    names = [name for name in SCENARIOS if wanted in name]
    if not names:
        sys.exit(f"No scenario has this in its name: {wanted}")
    print(f"SEED={seed}\n" + "\n".join(f"  {name}" for name in names), flush=True)
    try:
        return _run_all(names, seed)
    except (Failure, pytest.skip.Exception) as reason:
        sys.exit(str(reason))
    except KeyboardInterrupt:
        return 130


def _run_all(names: list[str], seed: str) -> int:
    results: list[Result] = []
    started_at = time.monotonic()
    with environment(seed) as servers:
        for number, name in enumerate(names, 1):
            results.append(run(SCENARIOS[name], servers))
            print(f"{number:3}/{len(names)} {summary_line(results[-1])}", file=sys.stderr, flush=True)
    text = f"{report(results, seed)} ({time.monotonic() - started_at:.0f} s in all)\n"
    print(text)
    REPORT.parent.mkdir(exist_ok=True)
    REPORT.write_text(text)
    return 1 if any(result.failed for result in results) else 0


if __name__ == "__main__":
    sys.exit(main())
