"""Injects a fault into this process: call `inject` before importing any module of the service."""

import sys
from importlib.machinery import SourceFileLoader
from pathlib import Path
from types import CodeType

from tests.faults.catalogue import Edit, Fault

ROOT = Path(__file__).parent.parent.parent


class NotInjected(Exception):
    """The text to replace does not occur exactly once, or its module is already imported."""


def apply_edit(edit: Edit, source: str) -> str:
    if source.count(edit.old) != 1:
        raise NotInjected(f"{edit.path} does not have exactly once: {edit.old}")
    return source.replace(edit.old, edit.new)


def inject(fault: Fault) -> None:
    """Load the fault's files, migrations included, with its edits."""
    imported = {getattr(module, "__file__", None) for module in sys.modules.values()}
    for edit in fault.edits:
        if str(ROOT / edit.path) in imported:
            raise NotInjected(f"{edit.path} is imported already")
    original_get_code = SourceFileLoader.get_code

    def get_code(loader: SourceFileLoader, name: str) -> CodeType | None:
        edits = [edit for edit in fault.edits if ROOT / edit.path == Path(loader.path)]
        if not edits:
            return original_get_code(loader, name)
        # Bypass the bytecode cache, which has the unedited file.
        source = Path(loader.path).read_text()
        for edit in edits:
            source = apply_edit(edit, source)
        return compile(source, loader.path, "exec", dont_inherit=True)

    SourceFileLoader.get_code = get_code  # type: ignore[method-assign, assignment]
