"""The modules of the product, in which faults and mutants are planted."""

from tests.environment import ROOT

FOLDERS = ("routes", "services", "web", "auth", "database", "observability", "migrations")
FILES = (
    "main.py",
    "purge.py",
    "settings.py",
    "models.py",
    "schemas.py",
    "db.py",
    "problems.py",
    "gunicorn.conf.py",
)


def modules() -> list[str]:
    """The paths of all files of the product that have code."""
    found = [ROOT / name for name in FILES]
    found += [path for folder in FOLDERS for path in (ROOT / folder).rglob("*.py")]
    return sorted(str(path.relative_to(ROOT)) for path in found if path.stat().st_size)
