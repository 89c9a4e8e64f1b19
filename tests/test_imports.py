"""Imports between layers point one way only."""

import ast
from collections.abc import Iterator
from graphlib import TopologicalSorter

import pytest

from tests.environment import ROOT

LAYERS = (
    "settings",
    "problems",
    "models",
    "schemas",
    "database",
    "observability",
    "db",
    "auth",
    "services",
    "web",
    "routes",
    "main",
    "purge",
)
"""Modules and packages, lowest first. Each may import only itself and those before it."""

WITHOUT_HTTP = ("settings", "models", "schemas", "database", "services")
WITHOUT_SQL = ("problems", "auth", "routes", "web.parameters", "web.pagination", "web.json_bodies")

MODULES = sorted(
    str(path.relative_to(ROOT).with_suffix("")).replace("/", ".")
    for layer in LAYERS
    for path in [ROOT / f"{layer}.py", *(ROOT / layer).glob("*.py")]
    if path.is_file() and path.name != "__init__.py"
)


def imported(module: str) -> Iterator[str]:
    for node in ast.walk(ast.parse((ROOT / f"{module.replace('.', '/')}.py").read_text())):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module:
            yield node.module
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


def layer_of(module: str) -> str:
    return module.partition(".")[0]


@pytest.mark.parametrize("module", MODULES)
def test_a_module_imports_only_its_own_layer_and_those_below(module: str) -> None:
    own = LAYERS.index(layer_of(module))
    above = set(LAYERS[own + 1 :]) | {"tests", "tools", "bench"}
    assert not {name for name in imported(module) if layer_of(name) in above}


def test_imports_have_no_cycle() -> None:
    graph = {module: [name for name in imported(module) if name in MODULES] for module in MODULES}
    assert len([*TopologicalSorter(graph).static_order()]) == len(MODULES)


@pytest.mark.parametrize("module", [each for each in MODULES if each.startswith(WITHOUT_HTTP)])
def test_lower_layers_do_not_import_http_frameworks(module: str) -> None:
    assert not {layer_of(name) for name in imported(module)} & {"fastapi", "starlette"}


@pytest.mark.parametrize("module", [each for each in MODULES if each.startswith(WITHOUT_SQL)])
def test_http_layers_do_not_import_database_libraries(module: str) -> None:
    assert not {layer_of(name) for name in imported(module)} & {"sqlalchemy", "sqlmodel", "psycopg2"}


def test_every_module_of_the_application_has_a_layer() -> None:
    tracked = {path.parent.name for path in ROOT.glob("*/*.py")} | {path.stem for path in ROOT.glob("*.py")}
    others = {"tests", "tools", "bench", "migrations", "gunicorn.conf"}
    assert {name for name in tracked - others if not name.startswith((".", "_"))} <= {*LAYERS, "build"}
