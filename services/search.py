"""Case- and accent-insensitive search: the folded text that is stored, and patterns to match it.

PostgreSQL cannot fold like this under row security with an index, nor without ICU (ß and SS), so
the service folds both sides. Source of the rules: specs/api/rest-endpoints.md, section 3.
"""

import unicodedata

ESCAPE = "\\"
"""The escape character of the patterns, which is also PostgreSQL's default."""


def fold(text: str) -> str:
    """The text without case, accents and differences of compatibility, such as full-width letters.

    Idempotent. At most 18 times as long as the text (U+FDFA), and usually as long.
    """
    decomposed = unicodedata.normalize("NFKD", unicodedata.normalize("NFKD", text).casefold())
    return unicodedata.normalize("NFC", "".join(each for each in decomposed if not _is_mark(each)))


def pattern(word: str) -> str:
    """A LIKE pattern for a folded word anywhere in a text; its wildcards match only themselves."""
    escaped = word.replace(ESCAPE, ESCAPE * 2).replace("%", f"{ESCAPE}%").replace("_", f"{ESCAPE}_")
    return f"%{escaped}%"


def _is_mark(character: str) -> bool:
    return unicodedata.category(character) == "Mn"
