"""The wire to a Kubernetes cluster: its objects as plain values, logs as they grow, commands and ports in pods.

The official client reads the kubeconfig (contexts, certificates, `aws eks get-token`) and connects; what it leaves open
is here: it repeats what failed without a word, waits for ever on a link that is cut, and stops reading a command's
output while TLS still holds some.
"""

from __future__ import annotations

import json
import re
import socket
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from typing import IO, Any, cast

from runner.compose.schema import Kubernetes
from runner.errors import RecipeError
from runner.targets.transport.base import CommandFailed, ConnectionLost

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
    """There is no such object."""


class Refused(RecipeError):
    """The API server will not do it; the text is its reason."""


class Cluster:
    """The cluster and namespace that the settings choose, connected to when first needed."""

    def __init__(self, settings: Kubernetes) -> None:
        self._settings = settings
        self._apis: dict[str, Any] = {}

    @property
    def namespace(self) -> str:
        return self._settings.namespace or self._connection()["namespace"]

    def forget(self) -> None:
        """Give the connection up; the next question makes a new one, with new credentials."""
        self._apis = {}

    def create(self, made: Object, dry_run: bool = False) -> Object:
        """Make an object, or only ask whether it could be made; returns it as the server has it."""
        return self.ask(_CREATE[made["kind"]], self.namespace, made, **({"dry_run": "All"} if dry_run else {}))

    def ask(self, call: str, *words: Any, **options: Any) -> Any:
        """What a method of the client answers, as plain values; `call` is api.method, such as core.list_node.

        Raises Missing, Refused, ClusterLost.
        """
        api, _, method = call.partition(".")
        apis = self._connection()
        with _in_words():
            answer = getattr(apis[api], method)(*words, _request_timeout=(_CONNECT, _ANSWER), **options)
            return apis["client"].sanitize_for_serialization(answer)

    def log(self, pod: str, container: str) -> Iterator[bytes]:
        """What a container printed so far and prints until it ends, line by line. Raises as `ask` does."""
        core = self._connection()["core"]
        with _in_words():
            answer = core.read_namespaced_pod_log(
                pod, self.namespace, container=container, follow=True,
                _preload_content=False, _request_timeout=(_CONNECT, None),
            )  # fmt: skip
            try:
                yield from _lines(answer.stream(_CHUNK))
            finally:
                answer.close()

    def call(self, pod: str, container: str, command: Sequence[str], feed: Callable[[IO[bytes]], None] | None) -> bytes:
        """What a command in a pod prints; `feed` writes its standard input. Raises CommandFailed, and as `ask` does."""
        return b"".join(self._output(pod, container, command, feed))

    def lines(self, pod: str, container: str, command: Sequence[str]) -> Iterator[bytes]:
        """What a command in a pod prints, line by line as it comes. Raises as `call` does."""
        return _lines(self._output(pod, container, command, None))

    def port(self, pod: str, port: int) -> socket.socket:
        """A connection to a port of a pod."""
        connect = self._connection()["core"].connect_get_namespaced_pod_portforward
        from kubernetes.stream import portforward

        with _in_words():
            forward: Any = portforward(connect, pod, self.namespace, ports=str(port))
            return forward.socket(port)

    def _output(
        self, pod: str, container: str, command: Sequence[str], feed: Callable[[IO[bytes]], None] | None
    ) -> Iterator[bytes]:
        """Standard output of a command, in pieces."""
        connect, said = self._connection()["core"].connect_get_namespaced_pod_exec, b""
        from kubernetes.stream import stream

        with _in_words():
            opened: Any = stream(
                connect, pod, self.namespace, container=container, command=list(command), stdin=feed is not None,
                stdout=True, stderr=True, tty=False, binary=True, _preload_content=False,
            )  # fmt: skip
            wire = opened.sock
            wire.settimeout(_SILENCE)
            try:
                if feed:
                    _feed(wire, feed)
                for channel, data in _frames(wire):
                    if channel == _STDOUT:
                        yield data
                    elif channel == _STDERR:
                        said += data
                    elif channel == _STATUS:
                        _check(json.loads(data), said)
                        return
            finally:
                wire.close()
        raise ClusterLost("the connection was closed")

    def _connection(self) -> dict[str, Any]:
        if not self._apis:
            self._apis = _connect(self._settings.context)
        return self._apis


def _connect(context: str | None) -> dict[str, Any]:
    try:
        from kubernetes import client, config
    except ImportError:
        raise RecipeError(
            "target=kubernetes: its client is missing; install it: pip install 'trainium-recipes[kubernetes]'"
        ) from None
    try:
        contexts, current = cast(Any, config.list_kube_config_contexts())
        configuration: Any = client.Configuration()
        configuration.client_side_validation = False  # a server may be older than the client
        configuration.retries = False
        configuration.socket_options = _keepalive()
        connected = config.new_client_from_config(context=context, client_configuration=configuration)
    except (config.ConfigException, OSError, TypeError) as error:
        reason = _first_line(str(error)).removeprefix("Invalid kube-config file. ")
        raise RecipeError(
            f"target.kubernetes.context: {context or 'the current one'}: {reason}; "
            "`kubectl config get-contexts` lists them, `aws eks update-kubeconfig --name CLUSTER` adds one"
        ) from None
    chosen = next((one for one in contexts if one["name"] == context), current)
    return {
        "client": connected,
        "namespace": chosen["context"].get("namespace", "default"),
        "core": client.CoreV1Api(connected),
        "batch": client.BatchV1Api(connected),
        "apps": client.AppsV1Api(connected),
        "storage": client.StorageV1Api(connected),
        "access": client.AuthorizationV1Api(connected),
    }


def _keepalive() -> list[tuple[int, int, int]]:
    """Have the kernel find a cut link in about half a minute, also where nothing is said for hours."""
    wanted = {"TCP_NODELAY": 1, "TCP_KEEPIDLE": 15, "TCP_KEEPINTVL": 5, "TCP_KEEPCNT": 3}
    known = {getattr(socket, name): value for name, value in wanted.items() if hasattr(socket, name)}
    return [(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1), *((socket.IPPROTO_TCP, *one) for one in known.items())]


@contextmanager
def _in_words() -> Iterator[None]:
    """The client's exceptions as ours."""
    from kubernetes.client import ApiException
    from urllib3.exceptions import HTTPError
    from websocket import WebSocketException

    try:
        yield
    except ApiException as error:
        raise _ours(error) from error
    except AttributeError as error:
        if not isinstance(error.__context__, ApiException):
            raise
        raise _ours(error.__context__) from error  # the client stumbles over a WebSocket's error, which has no body
    except (HTTPError, WebSocketException, OSError) as error:
        raise ClusterLost(_first_line(str(error)) or type(error).__name__) from error


def _ours(error: Any) -> Exception:
    """Which of our exceptions tells what the API answered."""
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


def _lines(pieces: Iterator[bytes]) -> Iterator[bytes]:
    rest = b""
    for piece in pieces:
        *lines, rest = (rest + piece).split(b"\n")
        yield from lines


def _frames(wire: Any) -> Iterator[tuple[int, bytes]]:
    """Channel and content of what comes over a WebSocket, until it is closed."""
    from websocket import ABNF

    while True:
        kind, frame = wire.recv_data_frame(True)
        if kind == ABNF.OPCODE_CLOSE:
            return
        if kind in (ABNF.OPCODE_BINARY, ABNF.OPCODE_TEXT) and frame.data:
            yield frame.data[0], frame.data[1:]


def _feed(wire: Any, feed: Callable[[IO[bytes]], None]) -> None:
    """A command that ends early closes its input: what it says and its status tell more than that."""
    with suppress(BrokenPipeError, ConnectionResetError):
        stream: Any = _Input(wire)
        feed(stream)


class _Input:
    """Standard input of a command. It is never at its end: the protocol has no word for that before version 5."""

    def __init__(self, wire: Any) -> None:
        self._wire = wire

    def write(self, data: bytes) -> int:
        for start in range(0, len(data), _CHUNK):
            self._wire.send_binary(_STDIN + bytes(data[start : start + _CHUNK]))
        return len(data)


def _check(status: Object, said: bytes) -> None:
    if status["status"] != "Success":
        last = said.decode(errors="replace").strip().rpartition("\n")[2]
        raise CommandFailed(1, last or status.get("message", "it failed"))
