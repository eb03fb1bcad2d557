"""Requests to the machine that runs belong to, served by real processes of this one."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import IO

import pytest

from runner.paths import ROOT
from runner.targets import bundle
from runner.targets.transport.base import CommandFailed, ConnectionLost
from runner.targets.transport.local import LocalTransport
from runner.targets.transport.session import Sessions

SERVER = "import os; print(os.getppid())"
WAITS = "import os, signal; print(os.getppid(), flush=True); signal.pause()"


@pytest.fixture
def sessions(tmp_path: Path) -> Sessions:
    return Sessions(LocalTransport(), sys.executable, str(tmp_path / "there"))


def python(code: str) -> list[str]:
    return ["run", sys.executable, "-c", code]


def a_tar(stream: IO[bytes]) -> None:
    with bundle.archive(stream) as archive:
        for number in range(3):
            bundle.add(archive, f"inputs/{number}/file", bytes(2**20 + number))


def test_one_process_answers_one_request_after_another(sessions: Sessions) -> None:
    first = sessions.call(python(SERVER))
    sessions.call(["receive"], a_tar)
    with pytest.raises(CommandFailed):
        sessions.call(python("exit(3)"))
    assert sessions.call(python(SERVER)) == first
    assert list(sessions.lines(python(SERVER))) == [first.strip()]


def test_what_is_asked_meanwhile_is_answered_by_another_process(sessions: Sessions) -> None:
    lines = sessions.lines(python(WAITS))
    first = next(lines)
    assert sessions.call(python(SERVER)).strip() != first


def test_a_stream_that_nobody_reads_to_its_end_is_ended(sessions: Sessions) -> None:
    lines = sessions.lines(python(WAITS))
    server = int(next(lines))
    lines.close()  # type: ignore[attr-defined]
    assert not Path(f"/proc/{server}").exists()
    assert sessions.call(["look"])


def test_output_arrives_byte_by_byte_as_it_is(sessions: Sessions) -> None:
    code = "import os; [os.write(1, bytes(range(256)) * 1000) for _ in range(20)]"
    assert sessions.call(python(code)) == bytes(range(256)) * 20_000


def test_a_tar_is_unpacked_for_its_owner_alone_and_other_requests_keep_their_umask(
    sessions: Sessions, tmp_path: Path
) -> None:
    umask = python("import os; print(os.umask(0))")
    before = sessions.call(umask)
    sessions.call(["receive"], a_tar)
    files = sorted((tmp_path / "there" / "inputs").glob("*/file"))
    assert [file.stat().st_size - 2**20 for file in files] == [0, 1, 2]
    assert (tmp_path / "there").stat().st_mode & 0o777 == 0o700
    assert sessions.call(umask) == before


def test_a_tar_that_cannot_be_unpacked_is_one_line_and_the_next_one_arrives(sessions: Sessions, tmp_path: Path) -> None:
    folder = tmp_path / "there"
    folder.write_text("a file")

    def feed(stream: IO[bytes]) -> None:
        for _ in range(64):
            a_tar(stream)

    with pytest.raises(CommandFailed, match="there: File exists"):
        sessions.call(["receive"], feed)
    folder.unlink()
    sessions.call(["receive"], a_tar)
    assert len(list(folder.glob("inputs/*/file"))) == 3


def test_a_file_that_cannot_be_read_here_leaves_nothing_there(sessions: Sessions, tmp_path: Path) -> None:
    def feed(stream: IO[bytes]) -> None:
        stream.write(b"the beginning of a tar")
        (tmp_path / "missing").read_bytes()

    with pytest.raises(FileNotFoundError):
        sessions.call(["receive"], feed)
    sessions.call(["receive"], a_tar)
    assert {path.name for path in (tmp_path / "there").iterdir()} == {"inputs"}


def test_the_agent_runs_the_code_that_was_brought(sessions: Sessions, tmp_path: Path) -> None:
    (tmp_path / "there").mkdir()
    (tmp_path / "there" / "code").symlink_to(ROOT)
    assert sessions.call(["agent", "code", "list", "runs"]) == b"\n"
    with pytest.raises(CommandFailed, match="invalid choice: 'dance'") as failed:
        sessions.call(["agent", "code", "dance", "runs"])
    assert failed.value.status == 2
    with pytest.raises(CommandFailed, match="^runs/none/events.jsonl: No such file or directory$"):
        sessions.call(["agent", "code", "follow", "runs/none"])
    assert sessions.call(python("import os; print(os.environ['PYTHONPATH'].split(':')[0])")) == b"code\n"


def test_what_the_agent_starts_reads_no_request_and_prints_into_no_answer(sessions: Sessions, tmp_path: Path) -> None:
    package = tmp_path / "there" / "code" / "runner"
    (package / "execute").mkdir(parents=True)
    (package / "__init__.py").touch()
    command = ["sh", "-c", "cat; echo no"]
    (package / "execute" / "agent.py").write_text(
        f"import subprocess\ndef main(words):\n    return subprocess.run({command}).returncode"
    )
    for _ in range(2):
        assert sessions.call(["agent", "code", "list"]) == b""


def test_a_server_that_is_killed_is_a_lost_connection_and_the_next_request_gets_another(sessions: Sessions) -> None:
    with pytest.raises(ConnectionLost):
        sessions.call(python("import os; os.kill(os.getppid(), 9)"))
    assert sessions.call(["look"])


def test_commands_that_fail_have_their_reason(sessions: Sessions) -> None:
    with pytest.raises(CommandFailed, match="^bad luck$") as failed:
        sessions.call(python("import sys; print('out'); print('first', file=sys.stderr); sys.exit('bad luck')"))
    assert failed.value.status == 1
    with pytest.raises(CommandFailed, match="^no-such-command: No such file or directory$"):
        sessions.call(["run", "no-such-command"])
