"""The client of the README: what it lets a frontend's developer write, by the types of the contract."""

import re
from pathlib import Path

from tests.environment import ROOT
from tests.frontend.typescript import GENERATE, HERE, compiled, sources


def test_the_client_compiles_and_mistakes_in_its_use_do_not(tmp_path: Path) -> None:
    lines = (HERE / "mistakes.ts").read_text().splitlines()
    wrong = {
        ("mistakes.ts", str(number)) for number, line in enumerate(lines, 1) if line.endswith("// wrong")
    }
    complaints = compiled(sources(tmp_path, "client.ts", "mistakes.ts"))
    assert set(re.findall(r"^(?:.*/)?(\w+\.ts)\((\d+),", complaints, re.MULTILINE)) == wrong


def test_the_readme_shows_the_client_and_how_its_types_are_made() -> None:
    readme = (ROOT / "README.md").read_text()
    assert f"```ts\n{(HERE / 'client.ts').read_text()}```\n" in readme
    command = GENERATE.format(contract="https://tasks.example.com/openapi.json", types="lib/openapi.d.ts")
    assert f"npx {command}\n" in readme
