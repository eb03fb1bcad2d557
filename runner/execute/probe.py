"""What a machine has, as one JSON object on stdout. Standard library alone: it travels to machines of any kind.

    python3 probe.py --store /data/store --python /opt/venv/bin/python --port 8000 --model owner/name

It judges nothing and changes nothing: `runner doctor` compares what it says with a recipe. A tool, an environment
or a hub that is not there is said in the answer. The value of a token is never part of it.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import platform
import shutil
import socket
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

_NEURON_LS = "/opt/aws/neuron/bin/neuron-ls"  # where the AMI has it; not on the PATH of every shell
_ENVIRONMENTS = "/opt/aws_neuronx_venv_*"
_TOOL_SECONDS, _HUB_SECONDS = 60, 5
LIST_PACKAGES = """
import importlib.metadata, json, platform
packages = {one.metadata["Name"]: one.version for one in importlib.metadata.distributions() if one.metadata["Name"]}
print(json.dumps({"version": platform.python_version(), "packages": packages}))
"""


def main(argv: Sequence[str] | None = None) -> None:
    """Entry point: look at what the flags name and print it."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--store", type=Path, help="folder of artifacts; it need not exist")
    parser.add_argument("--python", action="append", default=[], help="an environment's Python, looked into")
    parser.add_argument("--host", default="127.0.0.1", help="address of the ports")
    parser.add_argument("--port", type=int, action="append", default=[], help="a port that must be free")
    parser.add_argument("--any-port", type=int, action="append", default=[], help="one that must be free everywhere")
    parser.add_argument("--model", help="a model of the hub that must be readable")
    args = parser.parse_args(argv)
    print(json.dumps(machine(args)))


def machine(args: argparse.Namespace) -> dict[str, Any]:
    """All that is asked for by the flags of `main`, and what is always wanted."""
    found: dict[str, Any] = {
        "python": platform.python_version(),
        "system": system(),
        "memory": memory(Path("/proc/meminfo")),
        "neuron": neuron(),
        "environments": {path: environment(path) for path in args.python},
        "installed": sorted(str(path) for path in Path("/").glob(_ENVIRONMENTS.lstrip("/"))),
        "ports": {str(port): is_free(args.host, port) for port in args.port},
        "any_ports": {str(port): is_free("0.0.0.0", port) for port in args.any_port},
        "handed_out": handed_out(Path("/proc/sys/net/ipv4")),
    }
    if args.store:
        found["store"] = store(args.store)
    if args.model:
        found["hub"] = hub(args.model, os.environ)
    return found


def memory(meminfo: Path) -> dict[str, int] | None:
    """Bytes of the host's memory, total and available; None where there is no /proc."""
    try:
        lines = dict(line.split(":", 1) for line in meminfo.read_text(encoding="utf-8").splitlines())
        return {key.lower(): int(lines[f"Mem{key}"].split()[0]) * 1024 for key in ("Total", "Available")}
    except (OSError, KeyError, ValueError):
        return None


def system() -> dict[str, Any]:
    """The operating system, the instance type as its firmware names it (None if it does not), and Neuron's packages."""
    return {
        "kernel": platform.platform(),
        "os": _os_name(Path("/etc/os-release")),
        "instance": _first_line(Path("/sys/devices/virtual/dmi/id/product_name")),
        "packages": _system_packages(),
    }


def _os_name(release: Path) -> str | None:
    with contextlib.suppress(OSError):
        for line in release.read_text(encoding="utf-8").splitlines():
            if line.startswith("PRETTY_NAME="):
                return line.partition("=")[2].strip('"')
    return None


def _system_packages() -> list[str]:
    """Neuron's driver, runtime and tools with their versions, by the package manager of Ubuntu or Amazon Linux."""
    for command in (["dpkg-query", "-W", "aws-neuronx*"], ["rpm", "-qa", "aws-neuronx*"]):
        with contextlib.suppress(OSError, subprocess.SubprocessError):
            done = subprocess.run(command, capture_output=True, timeout=_TOOL_SECONDS, encoding="utf-8")
            if done.returncode == 0:
                return [" ".join(line.split()) for line in done.stdout.splitlines()]
    return []


def neuron() -> dict[str, Any]:
    """NeuronCores (logical), bytes of HBM and the processes on them, as neuron-ls says; `error` where it does not.

    The format is that of https://awsdocs-neuron.readthedocs-hosted.com (Neuron LS User Guide). Neuron 2.34 replaces
    --json-output by --output-format json, which puts the same devices below a field of its own.
    """
    tool = shutil.which("neuron-ls") or (_NEURON_LS if Path(_NEURON_LS).is_file() else None)
    if not tool:
        return {"error": "neuron-ls: no such command"}
    try:
        devices = _devices(_listing(tool))
        return {
            "devices": len(devices),
            "cores": sum(len(device.get("neuroncore_ids") or []) or device["nc_count"] for device in devices),
            "memory": sum(device["memory_size"] for device in devices),
            "processes": _processes(devices),
            "driver": _first_line(Path("/sys/module/neuron/version")),
        }
    except (OSError, subprocess.SubprocessError, KeyError, TypeError, ValueError) as error:
        return {"error": f"{tool}: {_reason(error)}"}


def _listing(tool: str) -> str:
    """What neuron-ls prints as JSON. Where it knows neither flag, the first one's complaint is the reason."""
    flags = (["--json-output"], ["--output-format", "json"])
    tries = []
    for words in flags:
        tries.append(subprocess.run([tool, *words], capture_output=True, timeout=_TOOL_SECONDS, encoding="utf-8"))
        if tries[-1].returncode == 0:
            return tries[-1].stdout
    complaint = (tries[0].stderr or tries[0].stdout).strip()
    raise ValueError(complaint.splitlines()[-1] if complaint else f"exit status {tries[0].returncode}")


def _devices(said: str) -> list[dict[str, Any]]:
    content = json.loads(said)
    lists = [content] if isinstance(content, list) else [value for value in content.values() if isinstance(value, list)]
    found = next((one for one in lists if one and isinstance(one[0], dict) and "nc_count" in one[0]), None)
    if found is None:
        raise ValueError("no device in its answer")
    return found


def _processes(devices: Sequence[Mapping[str, Any]]) -> dict[str, str]:
    """Commands by process number; a process on several devices is one."""
    processes = (process for device in devices for process in device.get("neuron_processes") or [])
    return {str(process["pid"]): str(process.get("command", "")) for process in processes}


def _first_line(path: Path) -> str | None:
    try:
        return path.read_text(encoding="utf-8").splitlines()[0]
    except (OSError, IndexError):
        return None


def environment(python: str) -> dict[str, Any]:
    """Version of an environment's Python and of all packages in it; `error` where it does not start."""
    try:
        command = [python, "-c", LIST_PACKAGES]
        done = subprocess.run(command, capture_output=True, timeout=_TOOL_SECONDS, encoding="utf-8")
        if done.returncode:
            said = done.stderr.strip().splitlines()[-1:] or ["it printed nothing"]
            return {"error": f"does not run Python: exit status {done.returncode}: {said[0]}"}
        return json.loads(done.stdout)
    except (OSError, subprocess.SubprocessError, ValueError) as error:
        return {"error": _reason(error)}


def _reason(error: Exception) -> str:
    return (isinstance(error, OSError) and error.strerror) or str(error)


def is_free(host: str, port: int) -> bool:
    """Whether a server could listen there now."""
    with socket.socket() as one:
        one.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            one.bind((host, port))
        except OSError:
            return False
    return True


def handed_out(settings: Path) -> dict[str, Any] | None:
    """Ports that the system gives to connections that ask for none, as first and last, and what of them is reserved."""
    try:
        first, last = map(int, (settings / "ip_local_port_range").read_text(encoding="utf-8").split())
        words = (settings / "ip_local_reserved_ports").read_text(encoding="utf-8").strip().split(",")
        reserved = [[int(number) for number in (word.split("-") * 2)[:2]] for word in words if word]
        return {"range": [first, last], "reserved": reserved}
    except (OSError, ValueError):
        return None


def store(folder: Path) -> dict[str, Any]:
    """Free bytes where the store is, or will be, and the finished artifacts in it."""
    there = next(path for path in (folder.absolute(), *folder.absolute().parents) if path.exists())
    objects = folder / "objects"
    return {
        "path": str(folder),
        "writable": os.access(there, os.W_OK),
        "free": shutil.disk_usage(there).free,
        "objects": sorted(path.name for path in objects.iterdir()) if objects.is_dir() else [],
    }


def hub(model: str, environment: Mapping[str, str]) -> dict[str, Any]:
    """Where a token was found, whom the hub knows by it, and what it answers about the model.

    `token` is the name of the place, `user` None without an accepted token, `status` and `code` the HTTP status and
    X-Error-Code of the question whether the model may be read. `error` instead of these where the hub does not answer.
    """
    endpoint = environment.get("HF_ENDPOINT", "https://huggingface.co").rstrip("/")
    place, token = hub_token(environment)
    found: dict[str, Any] = {"endpoint": endpoint, "token": place}
    if environment.get("HF_HUB_OFFLINE", "0") not in ("", "0"):
        return {**found, "error": "HF_HUB_OFFLINE is set"}
    if token and not (token.isascii() and token.isprintable()):  # an exception would quote it
        found["user"] = token = None
    headers = {"Authorization": f"Bearer {token}"} if token else {}
    try:
        if token:
            status, _, body = _ask(f"{endpoint}/api/whoami-v2", headers)
            found["user"] = json.loads(body).get("name") if status == 200 else None
        found["status"], found["code"], _ = _ask(f"{endpoint}/api/models/{model}/auth-check", headers)
    except (OSError, ValueError) as error:  # urllib's errors are OSErrors
        found["error"] = str(getattr(error, "reason", error))
    return found


def hub_token(environment: Mapping[str, str]) -> tuple[str | None, str | None]:
    """The place of the hub's token and the token, by the rules of huggingface_hub."""
    for name in ("HF_TOKEN", "HUGGING_FACE_HUB_TOKEN"):
        if environment.get(name, "").strip():
            return name, environment[name].strip()
    cache = Path(environment.get("XDG_CACHE_HOME", "~/.cache")) / "huggingface"
    path = Path(environment.get("HF_TOKEN_PATH") or Path(environment.get("HF_HOME", cache)) / "token").expanduser()
    token = _first_line(path)
    return (str(path), token.strip()) if token and token.strip() else (None, None)


def _ask(address: str, headers: Mapping[str, str]) -> tuple[int, str | None, bytes]:
    """HTTP status, X-Error-Code and body of a GET."""
    import urllib.error  # HTTP and TLS take 15 ms to import; every run imports this module, and few ask the hub
    import urllib.request

    class NoRedirect(urllib.request.HTTPRedirectHandler):
        """A redirect may lead to another host, which must not see the token."""

        def redirect_request(self, *_: Any) -> None:
            return None

    request = urllib.request.Request(address, headers=dict(headers))
    try:
        with urllib.request.build_opener(NoRedirect).open(request, timeout=_HUB_SECONDS) as answer:
            return answer.status, None, answer.read()
    except urllib.error.HTTPError as error:
        with error:
            return error.code, error.headers.get("X-Error-Code"), b""


if __name__ == "__main__":
    sys.exit(main())
