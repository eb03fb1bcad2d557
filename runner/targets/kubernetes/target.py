"""A Kubernetes cluster, such as EKS: a run is a Job that writes to a shared volume; its log is the event stream.

The run does not depend on the connection or on the runner. Its objects, which `runner.targets.kubernetes.manifests`
defines, are deleted with its Job.
"""

from __future__ import annotations

import dataclasses
import io
import json
import subprocess
import sys
import tarfile
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any

import yaml

from runner.compose.schema import Recipe
from runner.compose.schema import Target as Settings
from runner.errors import RecipeError
from runner.execute import bootstrap, run_folder
from runner.execute.run_folder import ENDED, FINAL
from runner.plan.command import Place
from runner.plan.model import Plan
from runner.record.runs import Run
from runner.targets import bundle
from runner.targets.finding import Finding
from runner.targets.kubernetes import images, manifests, pod_patch, pods, preflight
from runner.targets.kubernetes.access import Access, access_pod, call, container_with_volume, job_of, pods_of
from runner.targets.kubernetes.cluster import Cluster, ClusterLost, Missing, Object
from runner.targets.kubernetes.job_log import JobLog, condition, stopped
from runner.targets.kubernetes.manifests import ACCESS, RUN, SERVER, JobSpec
from runner.targets.log import Log
from runner.targets.mirror import Mirror
from runner.targets.mirrored import MirroredTarget, check_room, remember_end, show_gc
from runner.targets.transport.base import CommandFailed

_POLL = 1.0  # seconds
_BOOTSTRAP = Path(bootstrap.__file__).read_text(encoding="utf-8")
_ARCHIVE = 700_000  # bytes that fit into a ConfigMap (1 MiB) as base64, with the rest of it


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
                raise RecipeError(f"target.kubernetes.{key}: not set; see configs/target/kubernetes.yaml")
        digests = Path(recipe.paths.runs).expanduser().absolute() / ".digests"
        code, inputs = Path(bundle.code_name()), Path("inputs")
        return Place(code, Path("store"), self._settings.python, inputs, digests, container=True)

    def problems(self, recipe: Recipe) -> Iterator[str]:
        yield from super().problems(recipe)
        yield from images.problems(recipe)
        for problem in pod_patch.problems(self._kubernetes.pod, (RUN, SERVER, ACCESS, manifests.UNPACK)):
            yield f"target.kubernetes.{problem}"

    def settings_of_step(self, stage: str, with_vllm: bool) -> Settings:
        image = manifests.image_of(self._kubernetes, with_vllm)
        kubernetes = dataclasses.replace(self._kubernetes, image=image)
        return dataclasses.replace(self._settings, kubernetes=kubernetes)

    def probe(self, program: Path, flags: Sequence[str]) -> None:
        """None: a node may not exist before the run. `findings` checks the cluster and the images instead."""

    def survey(self, program: str, paths: Sequence[str]) -> Iterator[bytes]:
        job_spec = self._job_spec(manifests.unique_name("survey", *paths), {"steps": []})
        with _errors_explained(), container_with_volume(self._cluster, job_spec) as container:
            yield from container.lines([container.python, "-c", program, job_spec.root, *paths])

    def manifests(self, plan: Plan) -> str:
        """YAML for kubectl. Comments at its start list what else the plan needs."""
        plain = json.loads(json.dumps(plan.as_json()))
        job_spec = self._job_spec(manifests.unique_name(plan.recipe, json.dumps(plain)), plain)

        def write_record(archive: tarfile.TarFile) -> None:
            bundle.add(archive, f"{job_spec.folder}/plan.json", json.dumps(plain).encode())
            bundle.add(archive, f"{job_spec.folder}/{run_folder.EVENTS}", b"")

        archive, too_large = _pack(job_spec, write_record)
        objects = [*manifests.owned(job_spec, archive), manifests.job(job_spec)]
        return _preamble(job_spec, too_large) + yaml.safe_dump_all(objects, sort_keys=False, width=120)

    def start(self, run: Run, attached: bool) -> None:
        token = None if self._kubernetes.secret else next(iter(bundle.secrets(run.plan).values()), None)
        job_spec = dataclasses.replace(self._job_spec(_name(run), run.plan, bool(token)), about=_about(run))
        archive, too_large = _pack(job_spec, lambda archive: bundle.write_record(archive, run, job_spec.folder))
        with _errors_explained():
            for finding in preflight.findings(self._cluster, job_spec, self._waits):
                if finding.level == "error":
                    todo = f"; {finding.todo}" if finding.todo else ""
                    raise RecipeError(f"target.kubernetes: {finding.about}: {finding.says}{todo}")
            if too_large:
                self._copy_to_volume(job_spec, too_large)
            secret = [manifests.secret(job_spec, token)] if token else []
            self._create(job_spec, [*secret, *manifests.owned(job_spec, archive)])

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
        return JobLog(self._cluster, self._job_spec_of(run), mirror, self._settings.forward).lines

    def log(self, run: Run, stage: str | None, live: bool) -> Iterator[bytes]:
        job_spec, log = self._job_spec_of(run), Log(stage, live)
        if live:
            self._await_pod(run)
        while True:
            with _errors_explained(), container_with_volume(self._cluster, job_spec) as container:
                try:
                    yield from log.new_lines(container.lines(container.agent_command(job_spec, "log", *log.flags)))
                    return
                except (RecipeError, ClusterLost, Missing):
                    if container.container == ACCESS:
                        raise  # otherwise the container has ended; the rest of the log is on the volume
            time.sleep(_POLL)

    def _await_pod(self, run: Run) -> None:
        """Wait until a pod of the run runs, or the run has ended; stderr says why it waits."""
        said = ""
        while (state := self.state(run)).startswith("waiting"):
            if state != said:
                print(f"runner: {run.name} is {state}", file=sys.stderr)
                said = state
            time.sleep(_POLL)

    def detach(self) -> None:
        self._cluster.forget()

    def state(self, run: Run) -> str:
        """As `runner.execute.agent.state`, or `waiting: WHY`; reads all events of a run that ended."""
        job_spec, reported = self._job_spec_of(run), run_folder.last_state(run.folder)
        if reported in FINAL or (reported == "stopped" and (run.folder / run_folder.CANCELLED).exists()):
            return reported
        with _errors_explained():
            job = job_of(self._cluster, job_spec.run)
            if job is None or _is_over(job, bool(job_spec.server)):
                reported = self._last_state(run)
                ended = "finished" if job and condition(job, "Complete") else "killed"
                return remember_end(run, reported if reported in ENDED else ended)
            component = SERVER if condition(job, "Complete") else RUN
            pod = pods.newest(pods_of(self._cluster, job_spec.run, component))
            if pod and pods.running(pod, component):
                return "running"
            reasons = [*(pods.pending_reasons(pod) if pod else ()), *pods.held_back(job), "no pod runs yet"]
            return f"waiting: {reasons[0]}"

    def cancel(self, run: Run) -> str:
        """Delete the Job and the objects that it owns; returns when they are gone."""
        job_spec = self._job_spec_of(run)
        with _errors_explained():
            job = job_of(self._cluster, job_spec.run)
            if job is None and (run.folder / run_folder.CANCELLED).exists():
                return run_folder.last_state(run.folder) or "stopped"
            if job and _is_over(job, bool(job_spec.server)):
                self._last_state(run)  # its log will be gone with it
            began = not job or not self._waits_for_its_first_pod(job)
            self._delete(job_spec.run)
            reported = self._last_state(run) if began else self._stopped(run)
        (run.folder / run_folder.CANCELLED).touch()
        return reported if reported in ENDED else "stopped"

    def _waits_for_its_first_pod(self, job: Object) -> bool:
        """Whether there is nothing on the volume to be read: a pod that reads it may find no node either."""
        run_pods = pods_of(self._cluster, job["metadata"]["name"], RUN)
        return bool(run_pods) and all(pods.is_first_and_waits(pod, job) for pod in run_pods)

    def _stopped(self, run: Run) -> str:
        with Mirror(run.folder / run_folder.EVENTS) as mirror:
            mirror.add(stopped())
        return "stopped"

    def _last_state(self, run: Run) -> str | None:
        """The last state that a run whose Job has ended reported, after all of its events were received."""
        with Mirror(run.folder / run_folder.EVENTS) as mirror:
            list(self.new_events(run, mirror)())
            return mirror.last_state

    def send(self, run: Run, flags: Sequence[str]) -> bytes:
        job_spec = self._job_spec_of(run)
        with _errors_explained():
            return call(self._cluster, job_spec, lambda container: container.agent_command(job_spec, "send", *flags))

    def gc(self, flags: Sequence[str], show: Callable[[str], None]) -> int:
        """As in the base class; a run whose Job has not ended keeps what it needs, also while it has no pod."""
        job_spec = self._job_spec(manifests.unique_name("gc"), {"steps": []})
        with _errors_explained(), container_with_volume(self._cluster, job_spec) as container:
            self._copy_code(job_spec, container)
            active = ["--active", *self._active()]
            command = container.agent_of(bundle.code_name(), job_spec, "gc", *flags, *active)
            try:
                return show_gc(self._cluster.lines(container.pod, container.container, command), show)
            except CommandFailed as error:
                raise RecipeError(f"target.kubernetes: {error}") from error

    def _active(self) -> list[str]:
        """The names of the runs in the namespace whose Job, or whose server, may start another pod."""
        jobs = self._cluster.ask(
            "batch.list_namespaced_job", self._cluster.namespace, label_selector=manifests.selector(None)
        )["items"]
        return [
            job["metadata"]["name"] for job in jobs if not _is_over(job, "ttlSecondsAfterFinished" not in job["spec"])
        ]

    def _copy_code(self, job_spec: JobSpec, container: Access) -> None:
        """Copy our code to the volume, if it is not there."""
        if bundle.code_name() not in self._look(job_spec, container, [bundle.code_name()])["there"]:
            self._receive(job_spec, container, bundle.write_code)

    def shell(self, run: Run) -> int:
        """Open a shell in a pod with the volume, using kubectl; the pod is deleted afterwards."""
        job_spec = self._job_spec_of(run)
        with _errors_explained(), access_pod(self._cluster, job_spec) as pod:
            context = ["--context", self._kubernetes.context] if self._kubernetes.context else []
            enter = 'cd "$1" && exec "$(command -v bash || command -v sh)"'
            command = ["--", "sh", "-c", enter, "sh", f"{job_spec.root}/{job_spec.folder}"]
            where = [*context, "--namespace", self._cluster.namespace, pod, "--container", ACCESS]
            try:
                return subprocess.run(["kubectl", "exec", "-it", *where, *command]).returncode
            except FileNotFoundError:
                raise RecipeError("shell: kubectl is missing; use `runner fetch` or `runner logs`") from None

    def findings(self, plan: Plan) -> list[Finding]:
        """Check that the cluster has what a plan needs. Raises RecipeError."""
        plain = json.loads(json.dumps(plan.as_json()))
        with _errors_explained():
            job_spec = self._job_spec(manifests.unique_name(plan.recipe), plain)
            found = list(preflight.findings(self._cluster, job_spec, self._waits))
            if any(finding.level == "error" for finding in found):
                return found
            return [*found, *preflight.image_findings(self._cluster, job_spec)]

    @property
    def _waits(self) -> bool:
        return self._settings.busy == "wait"

    def _job_spec(self, name: str, plan: Mapping[str, Any], has_token: bool = False) -> JobSpec:
        return JobSpec(name, plan, self._settings.python, self._kubernetes, has_token)

    def _job_spec_of(self, run: Run) -> JobSpec:
        return self._job_spec(_name(run), run.plan)

    def _create(self, job_spec: JobSpec, owned: list[Object]) -> None:
        """Create the Job first and then the objects that it owns, so that all are deleted with it.

        A pod that starts before they exist waits for them.
        """
        job = self._cluster.create(manifests.job(job_spec))
        try:
            for item in owned:
                item["metadata"]["ownerReferences"] = [{**manifests.owner(job), "blockOwnerDeletion": True}]
                self._cluster.create(item)
        except BaseException:
            self._delete(job_spec.run)
            raise

    def _delete(self, name: str) -> None:
        namespace = self._cluster.namespace
        if job_of(self._cluster, name):
            self._cluster.ask("batch.delete_namespaced_job", name, namespace, propagation_policy="Foreground")
        access = manifests.selector(name, ACCESS)
        self._cluster.ask("core.delete_collection_namespaced_pod", namespace, label_selector=access)
        while job_of(self._cluster, name) or any(pods_of(self._cluster, name, kind) for kind in (RUN, SERVER)):
            time.sleep(_POLL)

    def _copy_to_volume(self, job_spec: JobSpec, carried: Mapping[str, str]) -> None:
        """Copy the files that are missing to the volume."""
        with container_with_volume(self._cluster, job_spec) as container:
            report = self._look(job_spec, container, map(bundle.entry, carried))
            missing = {name: path for name, path in carried.items() if bundle.entry(name) not in report["there"]}
            check_room(missing, report["free"], f"volume {job_spec.settings.claim}", "target.kubernetes.claim")
            if missing:
                self._receive(job_spec, container, lambda archive: bundle.write_carried(archive, missing))

    def _look(self, job_spec: JobSpec, container: Access, names: Iterable[str]) -> dict[str, Any]:
        """What `runner.execute.bootstrap` reports of the volume."""
        return json.loads(container.call([container.python, "-c", _BOOTSTRAP, "look", job_spec.root, *names]))

    def _receive(self, job_spec: JobSpec, container: Access, fill: Callable[[tarfile.TarFile], None]) -> None:
        """Unpack a tar on the volume, which `fill` writes."""

        def write(stream: IO[bytes]) -> None:
            with bundle.archive(stream) as archive:
                fill(archive)

        container.call([container.python, "-c", _BOOTSTRAP, "receive", job_spec.root], write)


def _is_over(job: Object, has_server: bool) -> bool:
    """Whether nothing of a run is left to run."""
    return condition(job, "Failed") or (condition(job, "Complete") and not has_server)


def _about(run: Run) -> dict[str, str]:
    """What people look for a run by."""
    sweep = {"sweep": run.folder.parent.name} if run.sweep else {}
    return {"recipe": run.plan["recipe"], "run": run.name, "user": run.manifest.get("user", ""), **sweep}


def _name(run: Run) -> str:
    """The name of a run's objects. The manifest makes it unique, also among the runs of other computers."""
    manifest = (run.folder / "manifest.json").read_text(encoding="utf-8")
    return manifests.unique_name(run.plan["recipe"], run.name, manifest)


def _pack(job_spec: JobSpec, write_record: Callable[[tarfile.TarFile], None]) -> tuple[bytes, dict[str, str]]:
    """The tar for the ConfigMap, and the carried files that do not fit into it. Raises RecipeError."""
    carried: dict[str, str] = job_spec.plan["carried"]
    if bundle.size(carried) < 16 * _ARCHIVE:  # text compresses well
        packed = _archive(job_spec, write_record, carried)
        if len(packed) <= _ARCHIVE:
            return packed, {}
    packed = _archive(job_spec, write_record, {})
    if len(packed) > _ARCHIVE:
        raise RecipeError("target.kubernetes: code and uncommitted changes do not fit into a ConfigMap; commit them")
    return packed, carried


def _archive(job_spec: JobSpec, write_record: Callable[[tarfile.TarFile], None], carried: Mapping[str, str]) -> bytes:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w:gz", dereference=True) as archive:
        bundle.write_code(archive)
        write_record(archive)
        bundle.write_carried(archive, carried)
    return buffer.getvalue()


def _preamble(job_spec: JobSpec, too_large: Mapping[str, str]) -> str:
    """Comments that list what must exist: the token, and files that are too large for a ConfigMap."""
    lines = []
    if bundle.asks_hub(job_spec.plan) and not job_spec.settings.secret:
        create = (
            f'kubectl create secret generic {job_spec.run} --from-literal={job_spec.settings.secret_key}="$HF_TOKEN"'
        )
        lines.append(f"# for gated models: {create}")
    lines += [f"# copy {local} to {job_spec.root}/{remote}" for remote, local in too_large.items()]
    if job_spec.server:
        lines.append(f"# when the Job is complete: kubectl scale deployment {job_spec.run} --replicas=1")
    return "".join(f"{line}\n" for line in lines)


@contextmanager
def _errors_explained() -> Iterator[None]:
    """Convert errors of the cluster to RecipeError."""
    try:
        yield
    except ClusterLost as lost:
        problem = f"no answer from the cluster: {lost}; does `kubectl get pods` work?"
        raise RecipeError(f"target.kubernetes: {problem}") from lost
    except Missing as missing:
        raise RecipeError(f"target.kubernetes: {missing}") from missing
