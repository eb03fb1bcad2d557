"""A real Kubernetes cluster on loopback: etcd, the control plane, and a node of kubelet and containerd. Needs root.

`make setup-kubernetes` builds what no package has. Containers see this machine's programs and the environment of the
tests, read-only, so their image is almost empty.
"""

from __future__ import annotations

import base64
import hashlib
import io
import json
import os
import re
import shutil
import ssl
import subprocess
import sys
import tarfile
import time
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path

import daemons
from ssh_host import free_ports

ROOT = Path(__file__).resolve().parents[2]
BUILT = ROOT / ".kubernetes"
SERVERS = ("kube-apiserver", "kube-controller-manager", "kube-scheduler", "kubelet")
PROGRAMS = ("etcd", "containerd", "ctr", "runc", "kubectl", "ip", "openssl", "setpriv")
PLUGINS = Path("/usr/lib/cni")
CONTEXT, CLAIM, IMAGE, NODE = "trn-test", "fsx-static-pvc", "runner.test/stages:1", "trn-node1"

_BRIDGE, _ADDRESS, _PODS = "br-runner-test", "10.232.0.1", "10.232.0.0/24"
_PAUSE = "runner.test/pause:1"
_CHANGED = ("vm.overcommit_memory", "kernel.panic", "kernel.panic_on_oops", "net.ipv4.ip_forward")
_CONTAINERD = """
version = 2
root = "{folder}/containerd"
state = "{folder}/state"
[grpc]
  address = "{folder}/containerd.sock"
[plugins."io.containerd.grpc.v1.cri"]
  restrict_oom_score_adj = true
  sandbox_image = "{pause}"
  [plugins."io.containerd.grpc.v1.cri".cni]
    bin_dir = "{plugins}"
    conf_dir = "{folder}/cni"
  [plugins."io.containerd.grpc.v1.cri".containerd.runtimes.runc]
    runtime_type = "io.containerd.runc.v2"
    base_runtime_spec = "{folder}/spec.json"
"""


def missing() -> str:
    """Why there can be no cluster here; empty if there can."""
    if not all((BUILT / name).exists() for name in SERVERS):
        return "no Kubernetes: make setup-kubernetes"
    absent = [name for name in PROGRAMS if not shutil.which(name)] + ([] if PLUGINS.is_dir() else [str(PLUGINS)])
    if absent:
        return f"no {', '.join(absent)}"
    return "" if os.getuid() == 0 else "not root"


@dataclass
class Cluster:
    """`config` is its kubeconfig; `volume` the folder behind the claim; `kubelet` the node's daemon."""

    folder: Path
    port: int
    kubelet_port: int
    stack: ExitStack
    kubelet: subprocess.Popen | None = None

    @property
    def config(self) -> Path:
        return self.folder / "kubeconfig"

    @property
    def volume(self) -> Path:
        return self.folder / "volume"

    def kubectl(self, *words: str, feed: str | None = None) -> str:
        command = ["kubectl", "--kubeconfig", str(self.config), *words]
        return subprocess.run(command, input=feed, check=True, capture_output=True, text=True).stdout

    def ctr(self, *words: str) -> str:
        command = ["ctr", "--address", f"{self.folder}/containerd.sock", "--namespace", "k8s.io", *words]
        return subprocess.run(command, check=True, capture_output=True, text=True).stdout

    def create_claim(self, name: str, folder: Path) -> None:
        """A volume that is a folder here, and the claim to it."""
        common = {"storageClassName": "", "accessModes": ["ReadWriteMany"]}
        volume = {"capacity": {"storage": "10Gi"}, "hostPath": {"path": str(folder)}}
        claim = {"resources": {"requests": {"storage": "10Gi"}}, "volumeName": name}
        for kind, spec in (("PersistentVolume", volume), ("PersistentVolumeClaim", claim)):
            manifest = {"apiVersion": "v1", "kind": kind, "metadata": {"name": name}, "spec": {**common, **spec}}
            self.kubectl("create", "-f", "-", feed=json.dumps(manifest))
        bound = f"pvc/{name}", "-o", "jsonpath={.status.phase}"
        _until(lambda: self.kubectl("get", *bound) == "Bound", f"{name} is bound")

    def start(self, program: str, *words: str) -> subprocess.Popen:
        """A daemon, which ends with the cluster, and also if the tests are killed."""
        path = BUILT / program if program in SERVERS else shutil.which(program)
        command = ["setpriv", "--pdeathsig", "TERM", str(path), *words]
        return daemons.started(self.stack, self.folder / f"{program}.log", command)

    def start_kubelet(self) -> None:
        """Start the node's daemon, and wait until the node is ready."""
        self.kubelet = self.start(
            "kubelet", f"--config={self.folder}/kubelet.json", f"--kubeconfig={self.config}",
            "--container-runtime=remote", f"--container-runtime-endpoint=unix://{self.folder}/containerd.sock",
            f"--hostname-override={NODE}", f"--node-ip={_ADDRESS}", f"--root-dir={self.folder}/kubelet",
            f"--cert-dir={self.folder}/kubelet/pki", "--register-with-taints=aws.amazon.com/neuron=true:NoSchedule",
        )  # fmt: skip
        ready = '{.items[*].status.conditions[?(@.type=="Ready")].status}'
        _until(lambda: self.kubectl("get", "nodes", "-o", f"jsonpath={ready}") == "True", "the node is ready")

    def kill_node(self) -> None:
        """As when the machine dies: the daemon and all containers."""
        assert self.kubelet
        self.kubelet.kill()
        self.kubelet.wait()
        self.end_containers()

    def end_containers(self) -> None:
        _until(self._no_container_is_left, "no container is left")

    def _no_container_is_left(self) -> bool:
        """After ending all; some may end meanwhile, which is an error of that command."""
        tasks = self.ctr("tasks", "list", "--quiet").split()
        for task in tasks:
            self.ctr("tasks", "rm", "--force", task)
        return not tasks


@contextmanager
def kubernetes_cluster(folder: Path) -> Iterator[Cluster]:
    """Start it, with a volume claim and an image of the stages, and end it."""
    with ExitStack() as stack:
        stack.enter_context(_kernel_as_before())
        etcd, peers, port, kubelet_port, *others = free_ports(6)
        cluster = Cluster(folder, port, kubelet_port, stack)
        _write_configuration(cluster)
        stack.callback(_unmount, folder)
        _start_control_plane(cluster, etcd, peers, others)
        stack.enter_context(_bridge())
        stack.enter_context(_network_namespaces_as_before())
        cluster.start("containerd", "--config", f"{folder}/containerd.toml")
        _until(lambda: bool(cluster.ctr("version")), "containerd answers")
        stack.callback(cluster.end_containers)
        _import_images(cluster)
        cluster.start_kubelet()
        cluster.create_claim(CLAIM, cluster.volume)
        try:
            yield cluster
        finally:  # while the kubelet lives, which a test may have started again
            _delete_pods(cluster)


def _write_configuration(cluster: Cluster) -> None:
    folder = cluster.folder
    for name in ("cni", "volume", "keys"):
        (folder / name).mkdir()
    _make_keys(folder / "keys")
    keys = {name: _read_base64(folder / "keys" / name) for name in ("ca.crt", "admin.crt", "admin.key")}
    server = {"server": f"https://127.0.0.1:{cluster.port}", "certificate-authority-data": keys["ca.crt"]}
    admin = {"client-certificate-data": keys["admin.crt"], "client-key-data": keys["admin.key"]}
    _write(cluster.config, {
        "apiVersion": "v1", "kind": "Config", "current-context": CONTEXT,
        "clusters": [{"name": "test", "cluster": server}], "users": [{"name": "admin", "user": admin}],
        "contexts": [{"name": CONTEXT, "context": {"cluster": "test", "user": "admin"}}],
    })  # fmt: skip
    _write(folder / "kubelet.json", {
        "apiVersion": "kubelet.config.k8s.io/v1beta1", "kind": "KubeletConfiguration",
        "address": _ADDRESS, "port": cluster.kubelet_port, "healthzPort": 0, "readOnlyPort": 0,
        "authentication": {
            "anonymous": {"enabled": False}, "webhook": {"enabled": False},
            "x509": {"clientCAFile": f"{folder}/keys/ca.crt"},
        },
        "authorization": {"mode": "AlwaysAllow"}, "cgroupDriver": "cgroupfs", "enforceNodeAllocatable": [],
        "failSwapOn": False, "evictionHard": {"memory.available": "100Mi"}, "makeIPTablesUtilChains": False,
        "nodeStatusUpdateFrequency": "5s",
        "imageGCHighThresholdPercent": 100,  # no collection: the images are nowhere else, and the disk may be full
    })  # fmt: skip
    addresses = {"type": "host-local", "dataDir": f"{folder}/addresses", "ranges": [[{"subnet": _PODS}]]}
    bridge = {"type": "bridge", "bridge": _BRIDGE, "isGateway": True, "ipam": addresses}
    _write(folder / "cni" / "test.conflist", {"cniVersion": "0.3.1", "name": "test", "plugins": [bridge]})
    _write(folder / "spec.json", _container_spec())
    text = _CONTAINERD.format(folder=folder, pause=_PAUSE, plugins=PLUGINS)
    (folder / "containerd.toml").write_text(text, encoding="utf-8")


def _make_keys(folder: Path) -> None:
    """An authority, and the keys of the API server, of its administrator and of service accounts."""
    new = ["openssl", "req", "-newkey", "rsa:2048", "-nodes"]
    authority = ["-x509", "-days", "2", "-subj", "/CN=test", "-keyout", "ca.key", "-out", "ca.crt"]
    _run([*new, *authority], folder)
    names = {"server": "IP:127.0.0.1,DNS:kubernetes.default.svc", "admin": "DNS:admin"}
    for name, alternatives in names.items():
        usage = f"subjectAltName={alternatives}\nextendedKeyUsage=serverAuth,clientAuth\n"
        (folder / f"{name}.ext").write_text(usage, encoding="utf-8")
        _run([*new, "-subj", f"/O=system:masters/CN={name}", "-keyout", f"{name}.key", "-out", f"{name}.csr"], folder)
        signed = ["-CA", "ca.crt", "-CAkey", "ca.key", "-CAcreateserial", "-days", "2", "-extfile", f"{name}.ext"]
        _run(["openssl", "x509", "-req", "-in", f"{name}.csr", *signed, "-out", f"{name}.crt"], folder)
    _run(["openssl", "genrsa", "-out", "accounts.key", "2048"], folder)
    _run(["openssl", "rsa", "-in", "accounts.key", "-pubout", "-out", "accounts.pub"], folder)


def _container_spec() -> dict:
    """That of containerd, with this machine's programs and the environment of the tests as read-only mounts."""
    spec = json.loads(subprocess.run(["ctr", "oci", "spec"], check=True, capture_output=True).stdout)
    packages = (path for path in sys.path if path.endswith("site-packages"))
    for path in sorted({"/usr", "/etc/alternatives", sys.prefix, sys.base_prefix, *packages}):
        mount = {"destination": path, "source": path, "type": "bind", "options": ["rbind", "ro"]}
        spec["mounts"].append(mount)
    return spec


def _start_control_plane(cluster: Cluster, etcd: int, peers: int, others: list[int]) -> None:
    keys, here = cluster.folder / "keys", f"http://127.0.0.1:{etcd}"
    cluster.start(
        "etcd", f"--data-dir={cluster.folder}/etcd", f"--listen-client-urls={here}", f"--advertise-client-urls={here}",
        f"--listen-peer-urls=http://127.0.0.1:{peers}", "--unsafe-no-fsync",
    )  # fmt: skip
    features = "--feature-gates=TTLAfterFinished=true"
    cluster.start(
        "kube-apiserver", f"--etcd-servers={here}", "--bind-address=127.0.0.1", "--advertise-address=127.0.0.1",
        f"--secure-port={cluster.port}", "--insecure-port=0", f"--client-ca-file={keys}/ca.crt",
        f"--tls-cert-file={keys}/server.crt", f"--tls-private-key-file={keys}/server.key",
        f"--service-account-key-file={keys}/accounts.pub", f"--service-account-signing-key-file={keys}/accounts.key",
        "--service-account-issuer=https://kubernetes.default.svc", "--service-cluster-ip-range=10.96.0.0/16",
        "--authorization-mode=RBAC", "--disable-admission-plugins=ServiceAccount", features,
        f"--kubelet-client-certificate={keys}/admin.crt", f"--kubelet-client-key={keys}/admin.key",
        "--kubelet-preferred-address-types=InternalIP",
        "--default-not-ready-toleration-seconds=1", "--default-unreachable-toleration-seconds=1",
    )  # fmt: skip
    trusted = ssl.create_default_context(cafile=str(keys / "ca.crt"))
    trusted.load_cert_chain(keys / "admin.crt", keys / "admin.key")
    ready = f"https://127.0.0.1:{cluster.port}/readyz"
    _until(lambda: urllib.request.urlopen(ready, timeout=10, context=trusted).read() == b"ok", "the API server answers")
    client = [f"--kubeconfig={cluster.config}", "--bind-address=127.0.0.1", "--port=0", "--leader-elect=false"]
    patience = "--node-monitor-grace-period=20s"  # until a node counts as lost
    cluster.start("kube-controller-manager", *client, f"--secure-port={others[0]}", features, patience)
    cluster.start("kube-scheduler", *client, f"--secure-port={others[1]}")


def _import_images(cluster: Cluster) -> None:
    """That of the stages has mount points only; in that of a pod's first process, nothing is mounted."""
    with _image(cluster, IMAGE, None) as layer:
        for link in ("bin", "lib", "lib64", "sbin"):
            _add(layer, tarfile.TarInfo(link), linkname=f"usr/{link}", type=tarfile.SYMTYPE)
        _add(layer, tarfile.TarInfo("tmp"), mode=0o1777, type=tarfile.DIRTYPE)
        _add(layer, tarfile.TarInfo("etc/passwd"), b"root:x:0:0:root:/root:/bin/bash\n")
    with _image(cluster, _PAUSE, ["/bin/sleep", "infinity"]) as layer:
        libraries = subprocess.run(["ldd", "/bin/sleep"], check=True, capture_output=True, text=True).stdout
        for path in ("/bin/sleep", *re.findall(r"/\S+", libraries)):
            _add(layer, tarfile.TarInfo(path.lstrip("/")), Path(path).read_bytes(), mode=0o755)


@contextmanager
def _image(cluster: Cluster, name: str, entrypoint: list[str] | None) -> Iterator[tarfile.TarFile]:
    """An image of one layer, which the caller fills."""
    layer = io.BytesIO()
    with tarfile.open(fileobj=layer, mode="w") as archive:
        yield archive
    digest = hashlib.sha256(layer.getvalue()).hexdigest()
    path = f"PATH={sys.prefix}/bin:/usr/local/bin:/usr/bin:/usr/sbin"
    config = {
        "architecture": "amd64", "os": "linux", "config": {"Entrypoint": entrypoint, "Env": [path]},
        "rootfs": {"type": "layers", "diff_ids": [f"sha256:{digest}"]},
    }  # fmt: skip
    contents = [{"Config": "config.json", "RepoTags": [name], "Layers": ["layer.tar"]}]
    file = cluster.folder / "image.tar"
    with tarfile.open(file, "w") as archive:
        _add(archive, tarfile.TarInfo("config.json"), json.dumps(config).encode())
        _add(archive, tarfile.TarInfo("layer.tar"), layer.getvalue())
        _add(archive, tarfile.TarInfo("manifest.json"), json.dumps(contents).encode())
    cluster.ctr("images", "import", str(file))


def _add(archive: tarfile.TarFile, entry: tarfile.TarInfo, content: bytes = b"", **attributes: object) -> None:
    entry.size = len(content)
    for name, value in attributes.items():
        setattr(entry, name, value)
    archive.addfile(entry, io.BytesIO(content))


def _delete_pods(cluster: Cluster) -> None:
    """With what starts new ones; the kubelet then takes their networks away."""
    everything = ["jobs,deployments,replicasets,pods", "--all", "--all-namespaces"]
    cluster.kubectl("delete", *everything, "--grace-period=1", "--wait=false")
    _until(lambda: not cluster.ctr("tasks", "list", "--quiet"), "no container is left")


@contextmanager
def _bridge() -> Iterator[None]:
    """The network of the pods, and the address of the node in it."""
    _run(["ip", "link", "add", _BRIDGE, "type", "bridge"])
    try:
        _run(["ip", "address", "add", f"{_ADDRESS}/24", "dev", _BRIDGE])
        _run(["ip", "link", "set", _BRIDGE, "up"])
        yield
    finally:
        _run(["ip", "link", "delete", _BRIDGE])


@contextmanager
def _network_namespaces_as_before() -> Iterator[None]:
    before = _network_namespaces()
    try:
        yield
    finally:
        for name in _network_namespaces() - before:
            _run(["ip", "netns", "delete", name])


def _network_namespaces() -> set[str]:
    return {path.name for path in Path("/run/netns").glob("cni-*")}


@contextmanager
def _kernel_as_before() -> Iterator[None]:
    """The kubelet and the bridge change settings of the machine."""
    files = [Path("/proc/sys", *name.split(".")) for name in _CHANGED]
    before = [file.read_text(encoding="ascii") for file in files]
    try:
        yield
    finally:
        for file, value in zip(files, before, strict=True):
            file.write_text(value, encoding="ascii")


def _unmount(folder: Path) -> None:
    """What containers and pods that were killed left mounted."""
    mounts = [line.split()[1] for line in Path("/proc/mounts").read_text(encoding="utf-8").splitlines()]
    for mount in sorted((one for one in mounts if one.startswith(f"{folder}/")), reverse=True):
        _run(["umount", "--lazy", mount])


def _until(holds: Callable[[], bool], what: str) -> None:
    for _ in range(600):
        try:
            if holds():
                return
        except (OSError, subprocess.CalledProcessError):
            pass  # it does not answer yet
        time.sleep(0.2)
    raise TimeoutError(what)


def _run(command: list[str], folder: Path | None = None) -> None:
    subprocess.run(command, cwd=folder, check=True, capture_output=True)


def _write(file: Path, value: object) -> None:
    file.write_text(json.dumps(value), encoding="utf-8")


def _read_base64(file: Path) -> str:
    return base64.b64encode(file.read_bytes()).decode()
