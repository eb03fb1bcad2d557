"""What all schedulers share: their commands, and the Python path of a job."""

from __future__ import annotations

import subprocess
import sys

import pytest

from runner.execute.schedulers.base import Refused, command_output, python_path


def test_the_last_line_of_a_command_that_fails_is_the_reason() -> None:
    code = "import sys; print('a warning', file=sys.stderr); sys.exit('invalid partition')"
    with pytest.raises(Refused, match="^invalid partition$"):
        command_output([sys.executable, "-c", code])
    with pytest.raises(Refused, match="^exit status 3$"):
        command_output([sys.executable, "-c", "raise SystemExit(3)"])


def test_a_command_that_is_not_installed_is_named() -> None:
    with pytest.raises(Refused, match="no-such-sbatch: no such command"):
        command_output(["no-such-sbatch"])


def test_a_command_gets_its_input() -> None:
    assert command_output(["cat"], text="#!/bin/sh\n") == "#!/bin/sh\n"


@pytest.mark.parametrize(("before", "after"), [({}, "/our code"), ({"PYTHONPATH": "/theirs"}, "/our code:/theirs")])
def test_our_code_goes_before_the_users(before: dict[str, str], after: str) -> None:
    script = f'PYTHONPATH={python_path("/our code")}; printf %s "$PYTHONPATH"'
    assert subprocess.run(["sh", "-c", script], env=before, capture_output=True, text=True).stdout == after
