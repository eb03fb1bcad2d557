"""A Kubernetes cluster, such as EKS: a run is a Job, what it writes lies on a volume, its log is the event stream.

The run belongs to the cluster; a lost link, or nobody who follows, does not hurt it. Everything that it made goes with
its Job. The objects are in `runner.targets.kubernetes.manifests`.
"""

from __future__ import annotations

import io
import itertools
import json
import subprocess
import tarfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any

import yaml

from runner.compose.schema import Recipe
from runner.compose.schema import Target as Settings
from runner.errors import RecipeError
from runner.execute import bootstrap, run_folder
from runner.plan.command import Place
from runner.plan.model import Plan
from runner.record.runs import Run
from runner.targets import bundle
from runner.targets.finding import Finding
from runner.targets.kubernetes import images, manifests, pods, preflight
from runner.targets.kubernetes.access import access_pod, beside, call, pods_of
from runner.targets.kubernetes.cluster import Cluster, ClusterLost, Missing, Object
from runner.targets.kubernetes.job_log import ENDS, JobLog, condition, gone, job_of
from runner.targets.kubernetes.manifests import ACCESS, RUN, SERVER, Load
from runner.targets.mirror import Mirror
from runner.targets.mirrored import MirroredTarget, check_room, log_flags

_LOOK_EVERY = 1.0  # seconds
_ARCHIVE = 700_000  # bytes that a ConfigMap's 1 MiB holds as base64, beside the rest


class KubernetesTarget(MirroredTarget):
    """Runs as a Job in the namespace that `target.kubernetes` names."""

    has_queue = True
    many_nodes = True

    def __init__(self, settings: Settings) -> None:
        super().__init__(settings)
        self._kubernetes = settings.kubernetes
        self._cluster = Cluster(settings.kubernetes)

    def place(self, recipe: Recipe) -> Place:
        for key in ("access_image", "claim"):
            if not getattr(self._kubernetes, key):
                raise RecipeError(f"target.kubernetes.{key}: must be named; see configs/target/kubernetes.yaml")
        memory = Path(recipe.paths.runs).expanduser().absolute() / ".digests"
        code, inputs = Path(bundle.code_name()), Path("inputs")
        return Place(code, Path("store"), self._settings.python, inputs, memory, container=True)

    def problems(self, recipe: Recipe) -> Iterator[str]:
        yield from super().problems(recipe)
        yield from images.problems(recipe)

    def probe(self, program: Path, flags: Sequence[str]) -> None:
        """A node may not exist before the run: its image and `findings` count instead."""

    def manifests(self, plan: Plan) -> str:
        """YAML for kubectl; its first lines say what else the plan needs."""
        plain = json.loads(json.dumps(plan.as_json()))
        load = self._load(manifests.unique_name(plan.recipe, json.dumps(plain)), plain)

        def write_record(archive: tarfile.TarFile) -> None:
            bundle.add(archive, f"{load.folder}/plan.json", json.dumps(plain).encode())
            bundle.add(archive, f"{load.folder}/{run_folder.EVENTS}", b"")

        archive, left = _pack(load, write_record)
        made = [*manifests.owned(load, archive), manifests.job(load)]
        return _preamble(load, left) + yaml.safe_dump_all(made, sort_keys=False, width=120)

    def start(self, run: Run, attached: bool) -> None:
        token = None if self._kubernetes.secret else next(iter(bundle.secrets(run.plan).values()), None)
        load = self._load(_name(run), run.plan, has_token=bool(token))
        archive, left = _pack(load, lambda archive: bundle.write_record(archive, run, load.folder))
        with _told():
            for finding in preflight.findings(self._cluster, load, self._waits):
                if finding.level == "error":
                    todo = f"; {finding.todo}" if finding.todo else ""
                    raise RecipeError(f"target.kubernetes: {finding.about}: {finding.says}{todo}")
            if left:
                self._bring(load, left)
            secret = [manifests.secret(load, token)] if token else []
            self._create(load, [*secret, *manifests.owned(load, archive)])

    def start_all(self, runs: Sequence[Run]) -> None:
        started: list[Run] = []
        try:
            for run in runs:
                self.start(run, attached=False)
                started.append(run)
        except RecipeError:
            for run in started:
                self.cancel(run)
            raise

    def new_events(self, run: Run, mirror: Mirror) -> Callable[[], Iterator[bytes]]:
        return JobLog(self._cluster, self._load_of(run), mirror, self._settings.forward).lines

    def log(self, run: Run, stage: str | None, live: bool) -> Iterator[bytes]:
        load, flags = self._load_of(run), log_flags(stage, live)
        heard = 0
        while True:
            with _told(), beside(self._cluster, load) as there:
                lines = (line for line in there.lines(there.host(load, "log", *flags)) if line)
                try:
                    for line in itertools.islice(lines, heard, None):
                        heard += 1
                        yield line[1:]
                    return
                except (RecipeError, ClusterLost, Missing):
                    if there.container == ACCESS:
                        raise  # else the container has ended, and with it this command: the rest lies on the volume
            time.sleep(_LOOK_EVERY)

    def detach(self) -> None:
        self._cluster.forget()

    def state(self, run: Run) -> str:
        """As `runner.execute.agent.state`, or that no pod of it runs yet."""
        load, said = self._load_of(run), run_folder.last_state(run.folder)
        with _told():
            job = job_of(self._cluster, load.run)
            if job is None or condition(job, "Failed"):
                return said if said in ENDS else "killed"
            if condition(job, "Complete") and not load.server:
                return "finished"
            component = SERVER if condition(job, "Complete") else RUN
            pod = pods.newest(pods_of(self._cluster, load.run, component))
            return "running" if pod and pods.running(pod, component) else "waiting: no pod runs yet"

    def cancel(self, run: Run) -> str:
        """Delete the Job with all that goes with it; returns when nothing of that is left."""
        load = self._load_of(run)
        with _told():
            job = job_of(self._cluster, load.run)
            if job and (condition(job, "Failed") or (condition(job, "Complete") and not load.server)):
                list(self.follow(run))  # its last words are heard, before its log goes
            self._delete(load.run)
        with Mirror(run.folder / run_folder.EVENTS) as mirror:
            list(gone(mirror))
        said = run_folder.last_state(run.folder)
        return said if said in ENDS else "stopped"  # one who follows writes it

    def send(self, run: Run, flags: Sequence[str]) -> bytes:
        load = self._load_of(run)
        with _told():
            return call(self._cluster, load, lambda there: there.host(load, "send", *flags))

    def shell(self, run: Run) -> int:
        """A shell in a pod beside the run's files, with kubectl; the pod goes with the shell."""
        load = self._load_of(run)
        with _told(), access_pod(self._cluster, load) as pod:
            context = ["--context", self._kubernetes.context] if self._kubernetes.context else []
            enter = 'cd "$1" && exec "$(command -v bash || command -v sh)"'
            command = ["--", "sh", "-c", enter, "sh", f"{load.root}/{load.folder}"]
            where = [*context, "--namespace", self._cluster.namespace, pod, "--container", ACCESS]
            try:
                return subprocess.run(["kubectl", "exec", "-it", *where, *command]).returncode
            except FileNotFoundError:
                raise RecipeError("shell: kubectl is missing; `runner fetch` and `runner logs` do without") from None

    def findings(self, plan: Plan) -> list[Finding]:
        """What of the cluster is, or is not, in the way of a plan."""
        plain = json.loads(json.dumps(plan.as_json()))
        with _told():
            load = self._load(manifests.unique_name(plan.recipe), plain)
            return list(preflight.findings(self._cluster, load, self._waits))

    @property
    def _waits(self) -> bool:
        return self._settings.busy == "wait"

    def _load(self, name: str, plan: Mapping[str, Any], has_token: bool = False) -> Load:
        return Load(name, plan, self._settings.python, self._kubernetes, has_token)

    def _load_of(self, run: Run) -> Load:
        return self._load(_name(run), run.plan)

    def _create(self, load: Load, owned: list[Object]) -> None:
        """The Job, then what it owns, so that nothing is ever left without it; a pod that starts sooner waits."""
        job = self._cluster.create(manifests.job(load))
        owner = {"apiVersion": "batch/v1", "kind": "Job", "name": load.run, "uid": job["metadata"]["uid"]}
        try:
            for made in owned:
                made["metadata"]["ownerReferences"] = [{**owner, "blockOwnerDeletion": True}]
                self._cluster.create(made)
        except BaseException:
            self._delete(load.run)
            raise

    def _delete(self, name: str) -> None:
        space = self._cluster.namespace
        if job_of(self._cluster, name):
            self._cluster.ask("batch.delete_namespaced_job", name, space, propagation_policy="Foreground")
        of_access = manifests.selector(name, ACCESS)
        self._cluster.ask("core.delete_collection_namespaced_pod", space, label_selector=of_access)
        while job_of(self._cluster, name) or any(pods_of(self._cluster, name, one) for one in (RUN, SERVER)):
            time.sleep(_LOOK_EVERY)

    def _bring(self, load: Load, carried: Mapping[str, str]) -> None:
        """Put files onto the volume, as far as they are not there."""
        with beside(self._cluster, load) as there:
            land = [there.python, "-c", Path(bootstrap.__file__).read_text(encoding="utf-8")]
            found = json.loads(there.call([*land, "look", load.root, *map(bundle.entry, carried)]))
            missing = {name: here for name, here in carried.items() if bundle.entry(name) not in found["there"]}
            check_room(missing, found["free"], f"volume {load.settings.claim}", "target.kubernetes.claim")

            def write(stream: IO[bytes]) -> None:
                with bundle.archive(stream) as archive:
                    bundle.write_carried(archive, missing)

            if missing:
                there.call([*land, "receive", load.root], write)


def _name(run: Run) -> str:
    """Of a run's objects: the manifest tells it from all others, those of other computers too."""
    manifest = (run.folder / "manifest.json").read_text(encoding="utf-8")
    return manifests.unique_name(run.plan["recipe"], run.name, manifest)


def _pack(load: Load, write_record: Callable[[tarfile.TarFile], None]) -> tuple[bytes, dict[str, str]]:
    """What the ConfigMap holds, as a tar; and the carried files that are left because they do not fit."""
    carried: dict[str, str] = load.plan["carried"]
    if bundle.size(carried) < 16 * _ARCHIVE:  # text packs well
        whole = _archive(load, write_record, carried)
        if len(whole) <= _ARCHIVE:
            return whole, {}
    packed = _archive(load, write_record, {})
    if len(packed) > _ARCHIVE:
        raise RecipeError("target.kubernetes: code and uncommitted changes do not fit into a ConfigMap; commit them")
    return packed, carried


def _archive(load: Load, write_record: Callable[[tarfile.TarFile], None], carried: Mapping[str, str]) -> bytes:
    packed = io.BytesIO()
    with tarfile.open(fileobj=packed, mode="w:gz", dereference=True) as archive:
        bundle.write_code(archive)
        write_record(archive)
        for name, content in load.parts():
            bundle.add(archive, f"{load.folder}/{name}", content)
        bundle.write_carried(archive, carried)
    return packed.getvalue()


def _preamble(load: Load, left: Mapping[str, str]) -> str:
    """Comments that say what kubectl must find: the token, files that are too large for a ConfigMap."""
    lines = []
    if bundle.asks_hub(load.plan) and not load.settings.secret:
        made = f'kubectl create secret generic {load.run} --from-literal={load.settings.secret_key}="$HF_TOKEN"'
        lines.append(f"# for gated models: {made}")
    lines += [f"# must be at {load.root}/{there}: {here}" for there, here in left.items()]
    if load.server:
        lines.append(f"# when the Job is complete: kubectl scale deployment {load.run} --replicas=1")
    return "".join(f"{line}\n" for line in lines)


@contextmanager
def _told() -> Iterator[None]:
    """What cannot be done now, as a line for a person."""
    try:
        yield
    except ClusterLost as lost:
        said = f"no answer from the cluster: {lost}; does `kubectl get pods` work?"
        raise RecipeError(f"target.kubernetes: {said}") from lost
    except Missing as missing:
        raise RecipeError(f"target.kubernetes: {missing}") from missing
