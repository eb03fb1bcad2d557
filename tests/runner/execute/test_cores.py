"""Leases of cores: between real processes, ended by the kernel."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from runner.execute import cores
from runner.paths import ROOT

HOLD = """
import sys
from runner.execute import cores
with cores.lease(int(sys.argv[1]), 64, sys.argv[2], None) as held:
    print(held.visible, flush=True)
    sys.stdin.read()
"""


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RUNNER_CORES", str(tmp_path / "leases"))


def hold(count: int, name: str) -> tuple[subprocess.Popen[str], str]:
    process = subprocess.Popen(
        [sys.executable, "-c", HOLD, str(count), name],
        stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env={**os.environ, "PYTHONPATH": str(ROOT)},
    )  # fmt: skip
    assert process.stdout
    return process, process.stdout.readline().strip()


def test_two_of_32_fit_into_64_and_a_third_sees_who_holds_them() -> None:
    (one, first), (two, second) = hold(32, "run a"), hold(32, "run b")
    assert (first, second) == ("0-31", "32-63")
    with pytest.raises(cores.NoFreeCores, match="0-31: run a; 32-63: run b"), cores.lease(8, 64, "run c", None):
        pass
    one.kill()
    one.wait()
    with cores.lease(8, 64, "run c", None) as held:
        assert held.visible == "0-7"
        assert cores.holders(64) == "0-7: run c; 32-63: run b"
    two.communicate()


def test_who_waits_is_told_for_whom_and_goes_on() -> None:
    other, _ = hold(64, "run a")
    told: list[str] = []

    def on_wait(holders: str) -> None:
        told.append(holders)
        other.kill()

    with cores.lease(1, 64, "run b", on_wait) as held:
        assert held.visible == "0"
    assert told == ["0-63: run a"]
    other.communicate()


def test_a_process_that_inherits_the_lease_keeps_it() -> None:
    with cores.lease(4, 8, "run a", None) as held:
        heir = subprocess.Popen(["sleep", "60"], pass_fds=held.descriptors)
    assert cores.holders(8) == "0-3: run a"
    heir.kill()
    heir.wait()
    assert cores.holders(8) == ""


def test_blocks_begin_at_multiples_of_their_size() -> None:
    with cores.lease(2, 8, "a", None), cores.lease(4, 8, "b", None) as four, cores.lease(2, 8, "c", None) as two:
        assert (four.visible, two.visible) == ("4-7", "2-3")
