"""What needs no connection. Commands over a real sshd are in tests/integration/test_ssh.py."""

from __future__ import annotations

import subprocess

import pytest

from runner.targets.transport import ssh


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("there", ("there", None)),
        ("me@there", ("me@there", None)),
        ("me@there:2222", ("me@there:2222", None)),
        ("there:work", ("there", "work")),
        ("there:2222:/work", ("there:2222", "/work")),
        ("me@[::1]:2222:/fsx/me", ("me@[::1]:2222", "/fsx/me")),
        ("there:", ("there", None)),
    ],
)
def test_a_host_and_its_folder(text: str, expected: tuple[str, str | None]) -> None:
    assert ssh.split_folder(text) == expected


@pytest.mark.parametrize(
    ("host", "expected"),
    [("me@there:2222", ("there", "me", 2222)), ("me@[::1]:22", ("::1", "me", 22)), ("me@::1", ("::1", "me", None))],
)
def test_a_connection_has_the_user_and_the_port_of_its_host(host: str, expected: tuple[str, str, int | None]) -> None:
    connection = ssh._connection_to(host)
    assert (connection.host, connection.user) == expected[:2]
    assert connection.port == (expected[2] or 22)


@pytest.mark.parametrize("shell", ["sh", "bash"])
def test_arguments_reach_the_command_as_they_are_through_any_shell(shell: str) -> None:
    arguments = ["a b", "it's", "$HOME", "a\nb", "!x", "\\", "ü", ""]
    command = ssh._for_any_shell(["printf", "%s|", *arguments])
    done = subprocess.run([shell, "-c", command], capture_output=True, text=True, check=True)
    assert done.stdout.rpartition(f"{ssh._MARK}\n")[2] == "".join(f"{argument}|" for argument in arguments)
