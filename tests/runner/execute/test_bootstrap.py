"""What is brought to a machine arrives whole or not at all, over a stream that need not end."""

from __future__ import annotations

import io
import json
import os
import subprocess
import sys
import tarfile
from pathlib import Path

from runner.execute import bootstrap
from runner.targets import bundle


def receive(folder: Path, *words: str) -> subprocess.Popen[bytes]:
    program = Path(bootstrap.__file__).read_text()
    command = [sys.executable, "-c", program, "receive", str(folder), *words]
    return subprocess.Popen(command, stdin=subprocess.PIPE, stderr=subprocess.PIPE)


def a_tar(**files: bytes) -> bytes:
    packed = io.BytesIO()
    with bundle.archive(packed) as archive:
        for name, content in files.items():
            bundle.add(archive, f"inputs/{name}/file", content)
    return packed.getvalue()


def test_a_stream_is_read_to_the_end_of_the_tar_though_it_stays_open(tmp_path: Path) -> None:
    process = receive(tmp_path)
    assert process.stdin
    process.stdin.write(a_tar(one=bytes(2**20), two=b"x"))
    process.stdin.flush()
    assert process.wait(60) == 0
    assert {file.stat().st_size for file in tmp_path.glob("inputs/*/file")} == {2**20, 1}


def test_a_stream_that_is_cut_leaves_nothing(tmp_path: Path) -> None:
    process = receive(tmp_path)
    process.communicate(a_tar(one=bytes(2**20))[: 2**19], 60)
    assert process.returncode == 1
    assert list(tmp_path.iterdir()) == []


def test_several_who_bring_the_same_at_once(tmp_path: Path) -> None:
    packed = tmp_path / "packed.tar.gz"
    with tarfile.open(packed, "w:gz") as archive:
        for number in range(50):
            bundle.add(archive, f"code/{number}/file", json.dumps(number).encode())
    processes = [receive(tmp_path / "there", str(packed)) for _ in range(4)]
    assert [process.wait(60) for process in processes] == [0] * 4
    assert len(list((tmp_path / "there").glob("code/*/file"))) == 50
    assert {path.name for path in (tmp_path / "there").iterdir()} == {"code"}


def test_what_a_killed_receiver_left_is_removed_and_what_another_writes_is_not(tmp_path: Path) -> None:
    killed, writing = receive(tmp_path), receive(tmp_path)
    for process in (killed, writing):
        assert process.stdin
        process.stdin.write(a_tar(one=bytes(2**20))[: 2**19])
        process.stdin.flush()
    while len(list(tmp_path.glob("incoming-*/inputs/one/file"))) < 2:
        assert killed.poll() is None and writing.poll() is None
    killed.kill()
    killed.communicate()
    assert receive(tmp_path).communicate(a_tar(two=b"x"), 60) == (None, b"")
    assert len(list(tmp_path.glob("incoming-*"))) == 1
    assert writing.communicate(a_tar(one=bytes(2**20))[2**19 :], 60) == (None, b"")
    assert {path.name for path in tmp_path.iterdir()} == {"inputs"}
    assert {file.stat().st_size for file in tmp_path.glob("inputs/*/file")} == {2**20, 1}


def test_an_archive_that_leads_out_of_the_folder_is_refused(tmp_path: Path) -> None:
    packed = io.BytesIO()
    with bundle.archive(packed) as archive:
        bundle.add(archive, "../../outside", b"x")
    process = receive(tmp_path / "there")
    _, said = process.communicate(packed.getvalue(), 60)
    assert (process.returncode, len(said.splitlines())) == (1, 1)
    assert [path.name for path in tmp_path.rglob("*")] == ["there"]


def test_what_is_asked_for_counts_as_used(tmp_path: Path) -> None:
    """`runner gc` leaves it for a day: the run that needs it comes next."""
    copied = tmp_path / "inputs" / "one"
    copied.mkdir(parents=True)
    os.utime(copied, (1, 1))
    bootstrap.look(tmp_path, ["inputs/one", "inputs/two"])
    assert copied.stat().st_mtime > 1
