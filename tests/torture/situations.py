"""Commands at the same time, in poor surroundings, and killed at random."""

from __future__ import annotations

import os
import resource
import signal
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import suppress
from functools import partial
from random import Random

from runner import cli
from runner.record.runs import every
from tests.integration.ssh_host import free_port
from tests.torture.scenarios import Scenarios
from tests.torture.trial import Lost, Scenario, Trials

_RUNS = 20
_SIGNALS = (signal.SIGKILL, signal.SIGKILL, signal.SIGTERM, signal.SIGINT, signal.SIGSTOP)
_STOPPED = 0.2  # seconds


def situations(trials: Trials, made: Scenarios) -> Iterator[tuple[str, Callable[[], None]]]:
    """The name of each, and a function that raises Lost."""
    yield f"{_RUNS} runs at once", partial(_many_runs, trials, made)
    yield "two gc beside runs", partial(_two_gc, trials, made)
    yield "a sweep twice at once", partial(_sweep_twice, trials, made)
    yield "two servers on a port", partial(_two_servers, trials, made)
    for name, spoil in _SURROUNDINGS.items():
        yield f"a run with {name}", partial(_in_surroundings, trials, made, spoil)


def kill_at_random(
    trials: Trials, scenario: Scenario, expected: Mapping[str, str], chance: Random, seconds: float
) -> None:
    """Signal a random process of a run, which takes some `seconds`, at a random time. Raises Lost."""
    trials.prepare(scenario)
    command = trials.start(scenario.command, "command")
    time.sleep(chance.uniform(0, seconds))
    victim, number = chance.choice(trials.shim.processes() or [command]), chance.choice(_SIGNALS)
    _signal(victim, number)
    if number == signal.SIGSTOP:
        time.sleep(_STOPPED)
        _signal(victim, signal.SIGCONT)
    trials.finished(command, "command")
    trials.must_end()
    trials.must_be_whole(scenario, expected)


def _signal(pid: int, number: signal.Signals) -> None:
    with suppress(ProcessLookupError):  # it was faster
        os.kill(pid, number)


def _many_runs(trials: Trials, made: Scenarios) -> None:
    """All finish, and each artifact is made once."""
    scenario = made.of_run("")
    _, expected = trials.undisturbed(scenario)
    trials.prepare(scenario)
    _all_end(trials, [made.run] * _RUNS, (0,))
    runs = every(trials.folder / "runs")
    if [run.state for run in runs] != ["finished"] * _RUNS:
        raise Lost(f"of {_RUNS} runs, {len(runs)} are recorded: {', '.join(run.state for run in runs)}")
    finished = [stage for run in runs for stage, event in run.stages().items() if event["state"] == "finished"]
    if sorted(finished) != sorted(set(finished)):
        raise Lost(f"stages ran more than once: {' '.join(sorted(finished))}")
    trials.must_be_whole(scenario, expected)


def _two_gc(trials: Trials, made: Scenarios) -> None:
    """gc takes nothing from a run in progress, also if it removes all that it can, again and again."""
    scenario = made.of_run("")
    _, expected = trials.undisturbed(scenario)

    def collect() -> int:
        return max(cli.main(["gc", "--gb", "0"]) for _ in range(20))

    _all_end(trials, [made.run, collect, collect, made.run], (0,))
    trials.must_be_whole(scenario, expected)


def _sweep_twice(trials: Trials, made: Scenarios) -> None:
    """One runs, the other says that it does."""
    scenario = made.sweep
    _, expected = trials.undisturbed(scenario)
    trials.prepare(scenario)
    outputs = _all_end(trials, [scenario.command] * 2, (0, 2))
    if not any(status == 0 for status, _ in outputs):
        raise Lost(f"neither of two sweeps ran: {outputs}")
    trials.must_be_whole(scenario, expected)


def _two_servers(trials: Trials, made: Scenarios) -> None:
    """The second names the port and the server that has it, whether that is ready or not yet."""
    trials.prepare(made.of_run(""))
    port = free_port()
    serve = ["serve", *made.words[:1], *made.words[2:], "serve=embedded", "evaluate=none", f"serve.port={port}"]
    outputs = []
    first = trials.start(lambda: cli.main([*serve, "--detach"]), "first")
    outputs.append(trials.finished(first, "first"))
    outputs.append(trials.ended(lambda: cli.main([*serve, "--detach"])))
    trials.ended(lambda: cli.main(["stop"]))
    trials.must_end()
    if outputs[0][0] or outputs[1][0] != 2 or str(port) not in outputs[1][1]:
        raise Lost(f"two servers: {outputs}")


def _all_end(trials: Trials, commands: Sequence[Callable[[], int]], allowed: Sequence[int]) -> list[tuple[int, str]]:
    started = [(trials.start(command, f"command-{n}"), f"command-{n}") for n, command in enumerate(commands)]
    outputs = [trials.finished(pid, name) for pid, name in started]
    for status, output in outputs:
        if status not in allowed or "Traceback" in output:
            raise Lost(f"one of {len(commands)} commands ended with status {status}: {output}")
    trials.must_end()
    return outputs


def _in_surroundings(trials: Trials, made: Scenarios, spoil: Callable[[], None]) -> None:
    """A run ends in its own words, whatever its surroundings, and the same command in good ones has its result."""
    scenario = made.of_run("")
    _, expected = trials.undisturbed(scenario)
    trials.prepare(scenario)

    def run() -> int:
        spoil()
        return made.run()

    status, output = trials.ended(run)
    if status not in (0, 1, 2) or "Traceback" in output:
        raise Lost(f"it ended with status {status}: {output}")
    trials.must_end()
    trials.must_be_whole(scenario, expected)


def _limit(kind: int, most: int) -> None:
    resource.setrlimit(kind, (most, most))


def _write_to(path: str) -> None:
    os.dup2(os.open(path, os.O_WRONLY), 1)


_SURROUNDINGS: Mapping[str, Callable[[], None]] = {
    "files of at most 4 KB": partial(_limit, resource.RLIMIT_FSIZE, 4096),
    "16 open files": partial(_limit, resource.RLIMIT_NOFILE, 16),
    "no processes left": partial(_limit, resource.RLIMIT_NPROC, 0),
    "the C locale": lambda: os.environ.update(LC_ALL="C", LANG="C"),
    "no HOME": lambda: os.environ.pop("HOME", None) and None,
    "a closed standard output": lambda: os.close(1),
    "a full standard output": partial(_write_to, "/dev/full"),
}
