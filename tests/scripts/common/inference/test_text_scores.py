from __future__ import annotations

import unicodedata

import pytest
from hypothesis import given
from hypothesis import strategies as st

from common.inference.text_scores import _common_subsequence, exact_match, rouge_l, words


def test_exact_match_ignores_white_space_alone():
    assert exact_match(" SELECT  a\nFROM t ", "SELECT a FROM t")
    assert not exact_match("select a from t", "SELECT a FROM t")
    assert not exact_match("SELECTa FROM t", "SELECT a FROM t")


def test_exact_match_takes_two_spellings_of_one_character_as_equal_but_no_other_character():
    assert exact_match(unicodedata.normalize("NFD", "서울 café"), "서울 café")
    assert not exact_match("10²", "102")


# Answer, reference and the F-measure of rouge_score 0.1.2, RougeScorer(["rougeL"]), use_stemmer=False.
RECORDED = [
    ("the cat sat on the mat", "the cat was on a mat", 0.666666666667),
    ("Police killed the gunman.", "Police kill the gunman", 0.75),
    ("The gunman, police killed!", "police KILLED the gunman", 0.5),
    ("SELECT name FROM head WHERE age > 56", "SELECT COUNT(*) FROM head WHERE age >= 56", 0.857142857143),
    ("a_b c-d e.g. 3.14 it's", "a b c d e g 3 14 it s", 1.0),
    ("to be or not to be that is the question", "be that as it may the question is not to be asked", 0.363636363636),
    ("1, 2, 3", "3 2 1", 0.333333333333),
    ("", "the cat", 0),
    ("!!!", "???", 0),
    ("one two three four five six seven", "seven six five four three two one", 0.142857142857),
    ("a a a b", "a b a a", 0.75),
    ("It was the best of times, it was the worst of times", "it was the age of wisdom, it was the age of foolishness",
     0.666666666667),
]  # fmt: skip


@pytest.mark.parametrize(("answer", "reference", "expected"), RECORDED)
def test_rouge_l_of_english_is_that_of_rouge_score(answer, reference, expected):
    assert rouge_l(answer, reference) == pytest.approx(expected)


@pytest.mark.parametrize(
    ("answer", "reference", "expected"),
    [
        ("한국의 수도는 서울입니다", "한국의 수도는 서울입니다", 1),
        ("한국의 수도는 부산입니다", "한국의 수도는 서울입니다", 2 / 3),
        (unicodedata.normalize("NFD", "한국의 수도는"), "한국의 수도는", 1),
        ("가 1", "나 1", 1 / 2),
        ("CAFÉ", "café", 1),
        ("Ελλάδα", "ΕΛΛΆΔΑ", 1),
        ("हिन्दी भाषा", "हिन्दी", 2 / 3),
        ("東京は首都", "京都は首都", 4 / 5),
        ("Ｔｏｋｙｏ", "tokyo", 1),
    ],
)
def test_rouge_l_counts_the_words_of_every_script(answer, reference, expected):
    assert rouge_l(answer, reference) == pytest.approx(expected)


def test_marks_stay_with_their_letter_and_scripts_without_spaces_are_cut_at_every_character():
    assert words("हिन्दी, in 日本 v2.0") == ["हिन्दी", "in", "日", "本", "v2", "0"]


@given(st.lists(st.sampled_from("abcd"), max_size=12), st.lists(st.sampled_from("abcd"), max_size=12))
def test_the_common_subsequence_is_as_long_as_the_definition_says(one, other):
    table = [[0] * (len(other) + 1) for _ in range(len(one) + 1)]
    for i, left in enumerate(one):
        for j, right in enumerate(other):
            table[i + 1][j + 1] = table[i][j] + 1 if left == right else max(table[i][j + 1], table[i + 1][j])
    assert _common_subsequence(one, other) == table[-1][-1]
