"""A real browser, and pages in it that a test can act on."""

import json
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tests.frontend.chromium import chromium_program
from tests.node import install_packages, node_process

HERE = Path(__file__).parent

Answer = dict[str, Any]


class Browser:
    def __init__(self, process: subprocess.Popen[str]) -> None:
        self._process = process

    def open(self, url: str) -> "Page":
        """A page with cookies of its own, as in another person's browser."""
        answer = self.tell(open=url)
        return Page(self, answer["page"])

    def tell(self, **command: object) -> Answer:
        assert self._process.stdin
        assert self._process.stdout
        self._process.stdin.write(json.dumps(command) + "\n")
        self._process.stdin.flush()
        answer: Answer = json.loads(self._process.stdout.readline())
        return answer


@dataclass(frozen=True)
class Refusal:
    """The problem that the page's script could read, and the headers that it could see."""

    problem: Answer
    headers: dict[str, str]
    message: str


@dataclass(frozen=True)
class Page:
    """A page that runs page.ts; what can be done on it are the acts there."""

    browser: Browser
    number: int

    def _act(self, act: str, *parameters: object) -> Answer:
        return self.browser.tell(page=self.number, act=act, parameters=parameters)

    def do(self, act: str, *parameters: object) -> Any:
        outcome = self._act(act, *parameters)
        assert not outcome.keys() & {"problem", "error"}, outcome
        return outcome.get("value")

    def refused(self, act: str, *parameters: object) -> Refusal:
        outcome = self._act(act, *parameters)
        assert "problem" in outcome, outcome
        return Refusal(**outcome)

    def error(self, act: str, *parameters: object) -> str:
        """What the script gets instead of an answer."""
        outcome = self._act(act, *parameters)
        assert "error" in outcome, outcome
        return str(outcome["error"])


@contextmanager
def chromium() -> Iterator[Browser]:
    with node_process(install_packages(HERE) / "browser.mjs", chromium_program()) as process:
        yield Browser(process)
