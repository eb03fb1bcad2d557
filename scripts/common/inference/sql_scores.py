"""Whether an SQL query answers the question: its result on SQLite against the gold query's.

    with SqlChecker() as checker:
        question = checker.question("CREATE TABLE t (a INTEGER)", "", "SELECT a FROM t WHERE a > 56")
        checker.accepts(question, "The query: SELECT a FROM t WHERE a >= 57")  # True

A model's queries run in another process (common.inference.sql_execution), which may be ended and started again.
"""

from __future__ import annotations

import json
import signal
import subprocess
import sys
from pathlib import Path
from threading import Timer
from typing import Any, NamedTuple

from common.inference import sql_execution

_SCRIPTS = Path(__file__).parents[2]
_WALL_SECONDS = 60  # for one request, where the CPU time that it may take is not even given to it


class GoldFails(Exception):
    """The example's schema, rows or gold query do not run on SQLite."""


class SqlQuestion(NamedTuple):
    """An example with a gold query that runs.

    Attributes:
        empty: the gold query finds nothing in any database, so agreeing with it says little.
    """

    schema: str
    rows: str
    gold: str
    empty: bool

    @property
    def invented(self) -> bool:
        """Whether the example has no rows of its own."""
        return not self.rows.strip()


class SqlChecker:
    """The process that executes queries: started when it is needed, and again when a query was its end."""

    def __init__(self) -> None:
        self._process: subprocess.Popen[str] | None = None

    def __enter__(self) -> SqlChecker:
        return self

    def __exit__(self, *_: object) -> None:
        self._end()

    def question(self, schema: str, rows: str, reference: str) -> SqlQuestion:
        """The example, once its gold query has run. Raises GoldFails."""
        reply = self._ask({"schema": schema, "rows": rows, "gold": reference})
        if "failure" in reply:
            raise GoldFails(reply["failure"])
        return SqlQuestion(schema, rows, reference, reply["empty"])

    def accepts(self, question: SqlQuestion, answer: str) -> bool:
        """Whether the query in `answer` gives the gold result, in the order that the gold query decides."""
        request = {"schema": question.schema, "rows": question.rows, "gold": question.gold}
        return self._ask({**request, "prediction": answer}).get("accepted", False)

    def result(self, schema: str, rows: str, reference: str, answer: str) -> dict[str, Any]:
        """What the query in `answer` finds: the names of `columns`, the first `rows` as texts (None is NULL), their
        `count`, and whether the tables have `invented` rows; or the `failure`. The reference may be empty.
        """
        return self._ask({"schema": schema, "rows": rows, "gold": reference, "shown": answer})

    def _ask(self, request: dict[str, str]) -> dict[str, Any]:
        process = self._process = self._process or _start()
        assert process.stdin and process.stdout
        timer = Timer(_WALL_SECONDS, process.kill)
        timer.start()
        try:
            process.stdin.write(json.dumps(request) + "\n")
            process.stdin.flush()
            line = process.stdout.readline()
        except BrokenPipeError:
            line = ""
        finally:
            timer.cancel()
        return json.loads(line) if line else {"failure": f"its execution was ended: {_reason(self._end())}"}

    def _end(self) -> int:
        """End the process, if there is one, and return its status."""
        if not self._process:
            return 0
        process, self._process = self._process, None
        process.kill()
        process.communicate()
        return process.returncode


def _start() -> subprocess.Popen[str]:
    command = [sys.executable, "-m", sql_execution.__name__]
    return subprocess.Popen(
        command, cwd=_SCRIPTS, stdin=subprocess.PIPE, stdout=subprocess.PIPE, encoding="utf-8", start_new_session=True
    )


def _reason(status: int) -> str:
    if status == -signal.SIGXCPU:
        return f"it took more than {sql_execution.GOLD_CPU_SECONDS} s of CPU time"
    return f"exit status {status}"
