"""Stands in for the Python of the stage programs: makes in milliseconds small files as a stage would have made them.

Everything else of a run is real: its recipe, plan, record, executor and store.
"""

import json
import os
import signal
import socket
import sys
from pathlib import Path

_FILES = {
    "tokenize": {"statistics.json": {"seq_len": 256}},
    "train": {"training.json": {"loss": 1.5}},
    "evaluate": {"report.json": {"examples": 3, "base": {"loss": 2.0}, "adapter": {"loss": 1.0}}},
    "export": {"adapter/adapter_config.json": {"r": 16}},
}


def main(*argv: str) -> None:
    if argv[0] == "-c":  # the executor asks for the installed packages
        print(Path(__file__).with_name("packages.json").read_text())
        return
    if "--port" in argv:
        serve(int(argv[argv.index("--port") + 1]))
    folder, stage = Path(argv[argv.index("--output") + 1]), os.environ["RUNNER_STAGE"]
    for name, content in _FILES.get(stage, {}).items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(json.dumps(content))
    for part in range(2):
        (folder / f"{part}.bin").write_bytes(f"{stage} {part}".encode() * 1000)
    report(event="metric", at=1, values={"loss": 1.5})


def report(**event: object) -> None:
    line = json.dumps({"time": 1.0, "stage": os.environ["RUNNER_STAGE"], **event})
    with Path(os.environ["RUNNER_EVENTS"]).open("ab", buffering=0) as events:
        events.write(line.encode() + b"\n")


def serve(port: int) -> None:
    with socket.create_server(("127.0.0.1", port)):
        report(event="serving", url=f"http://127.0.0.1:{port}", models=["base", "adapter"])
        signal.sigwait([signal.SIGTERM])
    sys.exit(0)


signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGTERM] if "--port" in sys.argv else [])
main(*sys.argv[1:])
