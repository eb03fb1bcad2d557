"""How close an answer is to its reference, as text. Standard library."""

from __future__ import annotations

import re
import unicodedata

# Scripts that put no space between words (Thai, Lao, Myanmar, Khmer, kana, Han): here each character is a word.
_UNSPACED = (
    "\u0e00-\u0eff\u1000-\u109f\u1780-\u17ff\u3040-\u30ff\u31f0-\u31ff\u3400-\u9fff\uf900-\ufaff\U00020000-\U0003ffff"
)
_WORD = re.compile(rf"[{_UNSPACED}]|[^\s{_UNSPACED}]+")


def exact_match(answer: str, reference: str) -> bool:
    """Whether both are the same, apart from white space and from how Unicode composes a character (NFC)."""
    return _composed(answer) == _composed(reference)


def _composed(text: str) -> list[str]:
    return unicodedata.normalize("NFC", text).split()


def rouge_l(answer: str, reference: str) -> float:
    """ROUGE-L, 0 to 1: the F-measure of the longest common subsequence (LCS) of words.

    With precision P = LCS / words of the answer and recall R = LCS / words of the reference it is 2PR / (P + R);
    Lin, "ROUGE: A Package for Automatic Evaluation of Summaries", 2004, section 3.1, with beta = 1. On ASCII text it
    is what the package rouge_score gives without stemming.
    """
    answered, expected = words(answer), words(reference)
    if not answered or not expected:
        return 0.0
    return 2 * _common_subsequence(answered, expected) / (len(answered) + len(expected))  # = 2PR / (P + R)


def words(text: str) -> list[str]:
    """Runs of letters, digits and their combining marks, of any script, without regard to case or to wide forms."""
    text = unicodedata.normalize("NFKC", text.casefold())
    return _WORD.findall("".join(char if unicodedata.category(char)[0] in "LMN" else " " for char in text))


def _common_subsequence(one: list[str], other: list[str]) -> int:
    """Length of the longest common subsequence, a row of the usual table at a time as the bits of one number.

    A zero bit at i: row[i + 1] is one more than row[i]. Hyyrö, "Bit-Parallel LCS-length Computation Revisited", 2004.
    """
    places: dict[str, int] = {}
    for place, word in enumerate(one):
        places[word] = places.get(word, 0) | 1 << place
    full = row = (1 << len(one)) - 1
    for word in other:
        matches = row & places.get(word, 0)
        row = (row + matches | row - matches) & full
    return len(one) - bin(row).count("1")
