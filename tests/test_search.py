"""Folding for search, on its own: what two texts have in common, and what a pattern matches."""

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from services.search import fold, pattern
from tests.environment import Sql

TEXT = st.text(st.characters(exclude_characters="\0", exclude_categories=["Cs"]), max_size=30)


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("ÉCOLE", "ecole"),
        ("straße", "STRASSE"),
        ("ﬁle", "FILE"),
        ("Ｆｕｌｌ", "full"),
        ("Σίσυφος", "σισυφοσ"),
        ("İstanbul", "istanbul"),
        ("Å", "A\u030a"),
        ("가", "\u1100\u1161"),
    ],
)
def test_texts_that_fold_to_the_same(one: str, other: str) -> None:
    assert fold(one) == fold(other)


@pytest.mark.parametrize(("one", "other"), [("緊急", "緊"), ("a b", "ab"), ("o", "0"), ("l", "1")])
def test_texts_that_fold_differently(one: str, other: str) -> None:
    assert fold(one) != fold(other)


@given(TEXT)
def test_folding_is_idempotent_and_bounded(text: str) -> None:
    assert fold(fold(text)) == fold(text)
    assert len(fold(text)) <= 18 * len(text)


@given(TEXT, TEXT, TEXT)
def test_a_pattern_matches_its_word_anywhere(sql: Sql, before: str, word: str, after: str) -> None:
    assert sql("SELECT %s LIKE %s", f"{before}{word}{after}", pattern(word)) == [(True,)]


@given(TEXT, st.text("a%_\\\\", min_size=1, max_size=6))
def test_a_pattern_matches_nothing_else(sql: Sql, text: str, word: str) -> None:
    expected = re.search(re.escape(word), text) is not None
    assert sql("SELECT %s LIKE %s", text, pattern(word)) == [(expected,)]
