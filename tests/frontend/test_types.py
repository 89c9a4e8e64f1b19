"""clients/typescript/tasks.ts: what compiles with it, by the types of the contract."""

import re
from pathlib import Path

from tests.environment import ROOT
from tests.frontend.typescript import CLIENT, GENERATE, HERE, compiled, sources

README = (ROOT / "README.md").read_text()


def test_the_client_compiles_and_mistakes_in_its_use_do_not(tmp_path: Path) -> None:
    lines = (HERE / "mistakes.ts").read_text().splitlines()
    wrong = {
        ("mistakes.ts", str(number)) for number, line in enumerate(lines, 1) if line.endswith("// wrong")
    }
    complaints = compiled(sources(tmp_path, "mistakes.ts"))
    assert set(re.findall(r"^(?:.*/)?(\w+\.ts)\((\d+),", complaints, re.MULTILINE)) == wrong


def test_the_example_in_the_readme_compiles(tmp_path: Path) -> None:
    [example] = re.findall(
        r"^```ts\n(import .*?from \"\./tasks\";\n.*?)^```", README, re.MULTILINE | re.DOTALL
    )
    (sources(tmp_path) / "example.ts").write_text(example)
    assert compiled(tmp_path) == ""


def test_the_readme_and_the_client_say_how_its_types_are_made() -> None:
    command = GENERATE.format(contract="https://tasks.example.com/openapi.json", types="lib/openapi.d.ts")
    for text in (README, CLIENT.read_text()):
        assert f"npx {command}\n" in text
