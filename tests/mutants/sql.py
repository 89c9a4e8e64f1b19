"""Mutations of SQL in string literals: drop or weaken one clause at a time."""

import re
from collections.abc import Iterator

_SQL = re.compile(
    r"\b(SELECT|GRANT|REVOKE|ALTER|CREATE|SET LOCAL|BETWEEN|IS (NOT )?NULL)\b|\bIN \(|set_config\("
    r"|[\w)] (<=|>=|<|>) "
)

_REPLACEMENTS: tuple[tuple[str, str], ...] = (
    (r"\bENABLE(?= ROW)", "DISABLE"),
    (r"\bFORCE(?= ROW)", "NO FORCE"),
    (r"(?<!IS) NOT NULL\b", ""),
    (r"\bIS NOT NULL\b", "IS NULL"),
    (r"\bIS NULL\b", "IS NOT NULL"),
    (r"\bNOT (?=EXISTS\b|pg_)", ""),
    (r"\bUNIQUE ", ""),
    (r"\bNOLOGIN\b", "LOGIN"),
    (r"\bNOINHERIT\b", "INHERIT"),
    (r"\bSELECT, (?=[A-Z]+ ON\b)", ""),
    (r"(?<=SELECT), INSERT\b", ""),
    (r"(?<=GRANT )UPDATE\b", "SELECT"),
    (r"\bNULLIF\(", "coalesce("),
    (r"(?<!\w)'[A-Za-z_.]+'(?=, )", "'x'"),
    (r"(?<=IN \()'\w+', ", ""),
    (r"(?<!\d) AND (?=\w)", " OR "),
    (r"<=", "<"),
    (r">=", ">"),
    (r"(?<!_timeout) = ", " <> "),
    (r"(?<= )<(?= )", "<="),
    (r"\b(true|TRUE)\b", "false"),
    (r"\b(false|FALSE)\b", "true"),
)
_NUMBER = re.compile(r"(?<![\w.':+-])\d+(?![\w.:+-])")
_CONDITION = re.compile(r"\b(USING|WITH CHECK) (?=\()")


def is_sql(literal: str) -> bool:
    return _SQL.search(literal) is not None


def weakened(text: str) -> Iterator[tuple[int, int, str]]:
    """Start, end and replacement, in characters."""
    for pattern, new in _REPLACEMENTS:
        for found in re.finditer(pattern, text):
            yield *found.span(), new
    for found in _NUMBER.finditer(text):
        for step in (1, -1):
            yield *found.span(), str(int(found[0]) + step)
    for found in _CONDITION.finditer(text):
        yield found.end(), _closing(text, found.end()), "(true)"


def _closing(text: str, start: int) -> int:
    """The position after the parenthesis that closes the one at `start`."""
    depth = 0
    for position in range(start, len(text)):
        depth += {"(": 1, ")": -1}.get(text[position], 0)
        if depth == 0:
            return position + 1
    return len(text)
