"""The connection to a Kubernetes cluster: objects as plain values, logs as they grow, commands and ports in pods.

The official client reads the kubeconfig (contexts, certificates, `aws eks get-token`) and connects. This module works
around three of its habits: it retries silently, waits for ever on a broken connection, and stops reading a command's
output while TLS still has some buffered.
"""

from __future__ import annotations

import json
import logging
import re
import socket
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from typing import IO, Any, cast

from runner.compose.schema import Kubernetes
from runner.errors import RecipeError
from runner.targets.transport.base import CommandFailed, ConnectionLost, whole_lines

_CONNECT, _ANSWER = 10.0, 30.0  # seconds
_SILENCE = 60.0  # seconds of silence: a command answers when done, or every `runner.execute.files.HEARTBEAT`
_CHUNK = 2**16
_STDIN, _STDOUT, _STDERR, _STATUS = b"\0", 1, 2, 3  # channels of a command's WebSocket
_CREATE = {
    "Job": "batch.create_namespaced_job",
    "ConfigMap": "core.create_namespaced_config_map",
    "Secret": "core.create_namespaced_secret",
    "Service": "core.create_namespaced_service",
    "Pod": "core.create_namespaced_pod",
    "Deployment": "apps.create_namespaced_deployment",
}

Object = dict[str, Any]


class ClusterLost(ConnectionLost):
    """The API server does not answer now, which tells nothing about what runs in the cluster."""


class Missing(Exception):
    """The object does not exist."""


class Refused(RecipeError):
    """The API server refused the request; the text is its reason."""


class Cluster:
    """The cluster and namespace that the settings choose. It connects when first needed."""

    def __init__(self, settings: Kubernetes) -> None:
        self._settings = settings
        self._apis: dict[str, Any] = {}

    @property
    def namespace(self) -> str:
        """The namespace of the settings, or else the one of the context."""
        return self._settings.namespace or self._connection()["namespace"]

    def forget(self) -> None:
        """Drop the connection; the next request makes a new one, with new credentials."""
        self._apis = {}

    def create(self, item: Object, dry_run: bool = False) -> Object:
        """Create an object, or only check whether it could be created; returns it as the server has it."""
        return self.ask(_CREATE[item["kind"]], self.namespace, item, **({"dry_run": "All"} if dry_run else {}))

    def ask(self, call: str, *args: Any, **options: Any) -> Any:
        """Call a method of the client, such as `core.list_node`; returns its answer as plain values.

        Raises Missing, Refused, ClusterLost.
        """
        api, _, method = call.partition(".")
        apis = self._connection()
        with _translated_errors():
            answer = getattr(apis[api], method)(*args, _request_timeout=(_CONNECT, _ANSWER), **options)
            return apis["client"].sanitize_for_serialization(answer)

    def log(self, pod: str, container: str) -> Iterator[bytes]:
        """The output of a container from its start until it ends, line by line. Raises as `ask` does."""
        core = self._connection()["core"]
        with _translated_errors():
            answer = core.read_namespaced_pod_log(
                pod, self.namespace, container=container, follow=True,
                _preload_content=False, _request_timeout=(_CONNECT, None),
            )  # fmt: skip
            try:
                yield from whole_lines(answer.stream(_CHUNK))
            finally:
                answer.close()

    def call(self, pod: str, container: str, command: Sequence[str], feed: Callable[[IO[bytes]], None] | None) -> bytes:
        """Output of a command in a pod; `feed` writes its standard input. Raises CommandFailed, and as `ask` does."""
        return b"".join(self._output(pod, container, command, feed))

    def lines(self, pod: str, container: str, command: Sequence[str]) -> Iterator[bytes]:
        """Output of a command in a pod, line by line as it comes. Raises as `call` does."""
        return whole_lines(self._output(pod, container, command, None))

    def port(self, pod: str, port: int) -> socket.socket:
        """A connection to a port of a pod."""
        connect = self._connection()["core"].connect_get_namespaced_pod_portforward
        from kubernetes.stream import portforward

        with _translated_errors():
            forward: Any = portforward(connect, pod, self.namespace, ports=str(port))
            return forward.socket(port)

    def _output(
        self, pod: str, container: str, command: Sequence[str], feed: Callable[[IO[bytes]], None] | None
    ) -> Iterator[bytes]:
        """Standard output of a command, in chunks."""
        connect, errors = self._connection()["core"].connect_get_namespaced_pod_exec, b""
        from kubernetes.stream import stream

        with _translated_errors():
            opened: Any = stream(
                connect, pod, self.namespace, container=container, command=list(command), stdin=feed is not None,
                stdout=True, stderr=True, tty=False, binary=True, _preload_content=False,
            )  # fmt: skip
            websocket = opened.sock
            websocket.settimeout(_SILENCE)
            try:
                if feed:
                    _feed(websocket, feed)
                for channel, data in _frames(websocket):
                    if channel == _STDOUT:
                        yield data
                    elif channel == _STDERR:
                        errors += data
                    elif channel == _STATUS:
                        _check(json.loads(data), errors)
                        return
            finally:
                websocket.close()
        raise ClusterLost("the connection was closed")

    def _connection(self) -> dict[str, Any]:
        if not self._apis:
            self._apis = _connect(self._settings.context)
        return self._apis


def check_client() -> None:
    """Raises RecipeError where the package kubernetes is missing."""
    try:
        import kubernetes  # noqa: F401
    except ImportError:
        raise RecipeError(
            "target=kubernetes: its client is missing; install it: pip install 'trainium-recipes[kubernetes]'"
        ) from None


def _connect(context: str | None) -> dict[str, Any]:
    check_client()
    from kubernetes import client, config

    said = _Said()
    try:
        contexts, current = cast(Any, config.list_kube_config_contexts())
        configuration: Any = client.Configuration()
        configuration.client_side_validation = False  # a server may be older than the client
        configuration.retries = False
        configuration.socket_options = _keepalive()
        with said.collecting():
            connected = config.new_client_from_config(context=context, client_configuration=configuration)
    except (config.ConfigException, OSError, TypeError) as error:
        reason = _first_line(str(error)).removeprefix("Invalid kube-config file. ")
        raise RecipeError(
            f"target.kubernetes.context: {context or 'the current one'}: {reason}; "
            "`kubectl config get-contexts` lists the contexts, `aws eks update-kubeconfig --name CLUSTER` adds one"
        ) from None
    if said.errors and not (configuration.api_key or configuration.cert_file):  # it would go on as system:anonymous
        raise RecipeError(
            f"target.kubernetes.context: {context or 'the current one'}: the credential command of its user failed: "
            f"{_first_line(said.errors[0]).removeprefix('exec: ')}"
        )
    chosen = next((entry for entry in contexts if entry["name"] == context), current)
    return {
        "client": connected,
        "namespace": chosen["context"].get("namespace", "default"),
        "core": client.CoreV1Api(connected),
        "batch": client.BatchV1Api(connected),
        "apps": client.AppsV1Api(connected),
        "storage": client.StorageV1Api(connected),
        "access": client.AuthorizationV1Api(connected),
    }


class _Said(logging.Handler):
    """What the client only logs: that the command for credentials failed."""

    def __init__(self) -> None:
        super().__init__(logging.ERROR)
        self.errors: list[str] = []

    def emit(self, record: logging.LogRecord) -> None:
        self.errors.append(record.getMessage())

    @contextmanager
    def collecting(self) -> Iterator[None]:
        """Collect the errors of the root logger."""
        logging.getLogger().addHandler(self)
        try:
            yield
        finally:
            logging.getLogger().removeHandler(self)


def _keepalive() -> list[tuple[int, int, int]]:
    """Let the kernel detect a broken connection in about half a minute, even if it is idle for hours."""
    wanted = {"TCP_NODELAY": 1, "TCP_KEEPIDLE": 15, "TCP_KEEPINTVL": 5, "TCP_KEEPCNT": 3}
    known = {getattr(socket, name): value for name, value in wanted.items() if hasattr(socket, name)}
    return [(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1), *((socket.IPPROTO_TCP, *option) for option in known.items())]


@contextmanager
def _translated_errors() -> Iterator[None]:
    """Convert the client's exceptions to ours."""
    from kubernetes.client import ApiException
    from urllib3.exceptions import HTTPError
    from websocket import WebSocketException

    try:
        yield
    except ApiException as error:
        raise _translated(error) from error
    except AttributeError as error:
        if not isinstance(error.__context__, ApiException):
            raise
        raise _translated(error.__context__) from error  # the client fails on a WebSocket error, which has no body
    except (HTTPError, WebSocketException, OSError) as error:
        raise ClusterLost(_first_line(str(error)) or type(error).__name__) from error


def _translated(error: Any) -> Exception:
    """Our exception for an ApiException."""
    reason = _reason(error)
    status = error.status or int((re.match(r"Handshake status (\d+)", reason) or [0, 0])[1])
    if status == 404:
        return Missing(reason)
    return Refused(f"target.kubernetes: {reason}") if status in (400, 403, 409, 413, 422) else ClusterLost(reason)


def _reason(error: Any) -> str:
    with suppress(TypeError, ValueError, KeyError):
        return json.loads(error.body)["message"]
    return _first_line(str(error.reason)) or f"status {error.status}"


def _first_line(text: str) -> str:
    return text.strip().partition("\n")[0]


def _frames(websocket: Any) -> Iterator[tuple[int, bytes]]:
    """Channel and content of each frame of a WebSocket, until it is closed."""
    from websocket import ABNF

    while True:
        kind, frame = websocket.recv_data_frame(True)
        if kind == ABNF.OPCODE_CLOSE:
            return
        if kind in (ABNF.OPCODE_BINARY, ABNF.OPCODE_TEXT) and frame.data:
            yield frame.data[0], frame.data[1:]


def _feed(websocket: Any, feed: Callable[[IO[bytes]], None]) -> None:
    """Write the input of a command. If it ends early and closes its input, its output and status tell why."""
    with suppress(BrokenPipeError, ConnectionResetError):
        stream: Any = _Input(websocket)
        feed(stream)


class _Input:
    """Standard input of a command. It cannot be closed: the protocol has no message for that before version 5."""

    def __init__(self, websocket: Any) -> None:
        self._websocket = websocket

    def write(self, data: bytes) -> int:
        for start in range(0, len(data), _CHUNK):
            self._websocket.send_binary(_STDIN + bytes(data[start : start + _CHUNK]))
        return len(data)


def _check(status: Object, errors: bytes) -> None:
    if status["status"] != "Success":
        last = errors.decode(errors="replace").strip().rpartition("\n")[2]
        raise CommandFailed(_exit_code(status), last or status.get("message", "it failed"))


def _exit_code(status: Object) -> int:
    causes = status.get("details", {}).get("causes", [])
    return next((int(cause["message"]) for cause in causes if cause.get("reason") == "ExitCode"), 1)
