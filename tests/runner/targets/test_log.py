from runner.targets.log import Log


def test_the_flags_of_a_log() -> None:
    assert Log("train", live=True).flags == ["--stage", "train", "--live"]
    assert Log(None, live=True).flags == ["--onward"]
    assert Log(None, live=False).flags == []


def test_a_log_continues_where_the_connection_was_lost(capsys) -> None:
    log = Log(None, live=True)
    printed = [b"!job 3 is waiting", b"", b">convert", b" a", b">train", b" b", b" "]
    assert list(log.new_lines(printed)) == [b"a", b"b", b""]
    assert log.flags == ["--stage", "train", "--onward"]
    assert list(log.new_lines([b">train", b" b", b" ", b" c", b">export", b" d"])) == [b"c", b"d"]
    assert capsys.readouterr().err.splitlines() == [
        "runner: job 3 is waiting", "==> convert <==", "==> train <==", "==> export <=="
    ]  # fmt: skip
