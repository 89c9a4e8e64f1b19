"""Imports point one way: main → routes → services → db and models."""

import ast

import pytest

from tests.stage import ROOT

ALLOWED = {
    "settings": set(),
    "models": set(),
    "cursors": set(),
    "lanes": set(),
    "request_context": set(),
    "tracing": {"lanes", "request_context"},
    "db": {"lanes", "settings", "tracing"},
    "logs": {"lanes", "request_context", "tracing"},
    "services.tasks": {"lanes", "models"},
    "problems": {"db", "lanes"},
    "keys": set(),
    "rate_limits": {"problems", "request_context", "settings"},
    "auth": {"keys", "problems", "rate_limits", "settings"},
    "bodies": {"problems"},
    "queries": {"problems"},
    "contract": {"models", "problems"},
    "middleware": {"problems", "request_context", "tracing"},
    "handlers": {"db", "logs", "problems", "services"},
    "routes.health": {"contract", "db", "problems"},
    "routes.pages": {"contract", "problems"},
    "routes.tasks": {
        "auth",
        "bodies",
        "contract",
        "cursors",
        "db",
        "models",
        "problems",
        "queries",
        "rate_limits",
        "services",
    },
    "web.connections": set(),
    "main": {"auth", "contract", "db", "handlers", "logs", "middleware", "rate_limits", "routes", "settings"},
}
OURS = {name.partition(".")[0] for name in ALLOWED} | {"tests", "tools"}


def imported(module: str) -> set[str]:
    tree = ast.parse((ROOT / f"{module.replace('.', '/')}.py").read_text())
    names = {alias.name for node in ast.walk(tree) if isinstance(node, ast.Import) for alias in node.names}
    names |= {node.module or "" for node in ast.walk(tree) if isinstance(node, ast.ImportFrom)}
    return {name.partition(".")[0] for name in names} & OURS


@pytest.mark.parametrize("module", ALLOWED)
def test_a_module_imports_only_what_lies_below_it(module: str) -> None:
    assert imported(module) <= ALLOWED[module]


def test_every_module_is_held_to_this() -> None:
    files = [
        *ROOT.glob("*.py"),
        *ROOT.glob("routes/*.py"),
        *ROOT.glob("services/*.py"),
        *ROOT.glob("web/*.py"),
    ]
    found = {
        str(path.relative_to(ROOT).with_suffix("")).replace("/", ".") for path in files if path.read_text()
    }
    assert found - {"gunicorn.conf"} == ALLOWED.keys()
