"""Reading SQL as text: the query in a model's answer, and the parts of a query that decide the order of its rows.

No parser: comments, quoted texts and parentheses are told apart, keywords are looked for outside of them.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import NamedTuple

_TOKEN = re.compile(
    r"""'(?:[^']|'')*' | "(?:[^"]|"")*" | `[^`]*` | \[[^\]]*\] | --[^\n]* | /\*.*?\*/ | \w+ | \s+ | .""",
    re.DOTALL | re.VERBOSE,
)
_WITH = r"WITH\s+(?:RECURSIVE\s+)?\S+\s*(?:\([^()]*\)\s*)?\bAS\b"  # and not the English word
_QUERY = rf"(?:(?:SELECT|VALUES)\b|{_WITH})"
_STATEMENT = re.compile(
    rf"\s*(?:{_QUERY}|(?:INSERT|UPDATE|DELETE|REPLACE|CREATE|DROP|ALTER|PRAGMA|ATTACH|DETACH|EXPLAIN|VACUUM)\b)",
    re.IGNORECASE,
)
_FENCED = re.compile(rf"```(?:[\w+-]*[ \t]*\n|sqlite\b|sql\b)?(\s*{_QUERY}.*?)(?:```|\Z)", re.IGNORECASE | re.DOTALL)
_LEAD_IN = re.compile(rf"(?:^|:)[^\S\n]*(?={_QUERY})", re.IGNORECASE | re.MULTILINE)  # each line once, however many
_BLANK_LINE = re.compile(r"\n[ \t\r]*\n")
_GOES_ON = re.compile(  # what a query can go on with after a blank line
    r"(?:SELECT|FROM|WHERE|GROUP|HAVING|WINDOW|ORDER|LIMIT|UNION|INTERSECT|EXCEPT|AND|OR|ON|(?:\w+\s+)?JOIN)\b|[(;-]",
    re.IGNORECASE,
)
_COMPOUND = {"UNION", "INTERSECT", "EXCEPT"}
_AFTER_COLUMNS = {"FROM", "WHERE", "GROUP", "ORDER", "LIMIT"}
_DIRECTION = re.compile(r"(?:\s+(?:ASC|DESC))?(?:\s+NULLS\s+(?:FIRST|LAST))?\s*$", re.IGNORECASE)
_LIMIT = re.compile(r"LIMIT\s+(\d+)\s*(?:(OFFSET\s|,)\s*(\d+)\s*)?", re.IGNORECASE)


def query_in(answer: str) -> str:
    """The query in an answer, without a fence or a lead-in before it and an explanation after it.

    An explanation begins after the semicolon, or after a blank line. What is not a query stays as it is.
    """
    fenced = _FENCED.search(answer)
    text = fenced[1] if fenced else answer
    if not _STATEMENT.match(text):
        lead_in = _LEAD_IN.search(text)
        text = text[lead_in.end() :] if lead_in else text
    return text[: _end(text)].strip()


def _end(text: str) -> int:
    """Where the first statement ends. One that another follows does not: two statements are no query."""
    for token, start, depth in _tokens(text):
        then = start + len(token)
        if token == ";" and not _STATEMENT.match(text, then):
            return start
        if token.isspace() and _BLANK_LINE.search(token) and not depth and not _GOES_ON.match(text, then):
            return start
    return len(text)


def _tokens(text: str) -> Iterator[tuple[str, int, int]]:
    """Each token with its place and how many parentheses it stands in."""
    depth = 0
    for found in _TOKEN.finditer(text):
        depth -= found[0] == ")"
        yield found[0], found.start(), depth
        depth += found[0] == "("


class Query(NamedTuple):
    """A query cut at the two places that matter: where columns can be added, and where LIMIT begins.

    `terms` are those of ORDER BY without their direction; `offset` counts rows that LIMIT passes over.
    """

    columns: str
    source: str
    terms: list[str]
    limited: bool
    offset: int
    compound: bool

    def unlimited(self, more_columns: list[str]) -> str:
        return self.columns + "".join(f", ({column})" for column in more_columns) + " " + self.source


def parts(query: str) -> Query | None:
    """The parts of a query, None for one that has no plain SELECT, or a LIMIT that is not of plain numbers."""
    query = "".join(" " if token.startswith(("--", "/*")) else token for token, *_ in _tokens(query)).rstrip("; \n\t\r")
    words = [(token.upper(), start) for token, start, depth in _tokens(query) if not depth and token.strip()]
    names = [word for word, _ in words]
    if "SELECT" not in names:
        return None
    after = [place for place in words[names.index("SELECT") :] if place[0] in _AFTER_COLUMNS]
    columns_end = after[0][1] if after else len(query)
    pairs = zip(["", *names], words, strict=False)
    orders = [start + len("BY") for before, (word, start) in pairs if (before, word) == ("ORDER", "BY")]
    limits = [start for word, start in words if word == "LIMIT"]
    limit = limits[-1] if limits else len(query)
    found = _LIMIT.fullmatch(query, limit)
    if limits and not found:
        return None
    offset = int(found[1 if found[2] == "," else 3]) if found and found[2] else 0
    terms = list(_terms(query[orders[-1] : limit])) if orders else []
    source = query[columns_end:limit]
    return Query(query[:columns_end], source, terms, bool(limits), offset, not _COMPOUND.isdisjoint(names))


def _terms(clause: str) -> Iterator[str]:
    """The terms of `a DESC, b`, what follows ORDER BY, without their direction."""
    commas = [place for token, place, depth in _tokens(clause) if token == "," and not depth]
    for begin, end in zip([0, *(place + 1 for place in commas)], [*commas, len(clause)], strict=True):
        yield _DIRECTION.sub("", clause[begin:end]).strip()
