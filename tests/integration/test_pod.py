"""The pod of a run, as its manifests describe it, is evicted and replaced: without a cluster.

The test does what the kubelet does: it runs the commands of the containers, with pid 1 in a process namespace of its
own, on a folder as the volume, sends SIGTERM to pid 1, and waits for as long as the pod's grace period. Needs root.
"""

from __future__ import annotations

import base64
import os
import re
import shutil
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml
from cluster_runs import command_here
from far_runs import done
from interrupted_training import (
    TRAINING,
    adapter_digest,
    events_of,
    lost_steps,
    random_steps,
    until_started,
    until_steps,
)

from runner.record.runs import every

pytestmark = pytest.mark.skipif(os.getuid() != 0 or not shutil.which("unshare"), reason="needs root, and unshare")
EVICTIONS = 2


def made_manifests(work: Path) -> tuple[dict[str, Any], dict[str, Any]]:
    """The ConfigMap and the pod of a training, once the files that the comments of the manifests name are copied."""
    keys = {"image": "none", "access_image": "none", "claim": "none", "mount": work.parent / "volume"}
    words = [*TRAINING, "target=kubernetes", f"target.python={sys.executable}"]
    words += [f"target.kubernetes.{key}={value}" for key, value in keys.items()]
    text = done(command_here(work, "plan", *words, "--manifests"))
    for local, remote in re.findall("^# copy (.*) to (.*)$", text, re.MULTILINE):
        Path(remote).parent.mkdir(parents=True, exist_ok=True)
        (shutil.copytree if Path(local).is_dir() else shutil.copy)(local, remote)
    config_map, job = yaml.safe_load_all(text)
    return config_map, job["spec"]["template"]["spec"]


def unpack(config_map: dict[str, Any], pod: dict[str, Any], bundle: Path) -> None:
    """Run the init container, which finds the files of the ConfigMap in the folder `bundle`."""
    bundle.mkdir()
    for name, content in config_map["binaryData"].items():
        (bundle / name).write_bytes(base64.b64decode(content))
    for name, content in config_map["data"].items():
        (bundle / name).write_text(content)
    [container] = pod["initContainers"]
    subprocess.run([re.sub("^/bundle/", f"{bundle}/", word) for word in container["command"]], check=True)


def started(pod: dict[str, Any]) -> subprocess.Popen[bytes]:
    """The container's command as pid 1 of a namespace; the process is its parent."""
    [container] = pod["containers"]
    environment = {"PATH": os.environ["PATH"], **{item["name"]: item["value"] for item in container["env"]}}
    return subprocess.Popen(
        ["unshare", "--pid", "--fork", "--mount-proc", "--kill-child", *container["command"]],
        cwd=container["workingDir"], env=environment, stdout=subprocess.DEVNULL,
    )  # fmt: skip


def evict(process: subprocess.Popen[bytes], grace: float) -> int:
    """Ask pid 1 to end; its exit status. Raises TimeoutExpired where the kubelet would kill it."""
    [pid] = Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text().split()
    os.kill(int(pid), signal.SIGTERM)
    return process.wait(grace)


def test_a_training_whose_pod_is_evicted_at_random_steps_ends_with_the_same_bits(work: Path) -> None:
    done(command_here(work, "run", *TRAINING))
    [undisturbed] = every(work / "runs")
    config_map, pod = made_manifests(work)
    unpack(config_map, pod, work.parent / "bundle")
    [folder] = (work.parent / "volume" / "trainium-recipes" / "runs").iterdir()
    events, steps = events_of(folder), random_steps()
    for _ in range(EVICTIONS):
        process = started(pod)
        until_started(events)
        until_steps(events, next(steps))
        assert evict(process, pod["terminationGracePeriodSeconds"]) not in (0, 1, 2), "an exit status that is final"
    assert started(pod).wait(300) == 0
    lost = lost_steps(folder)
    assert len(lost) == EVICTIONS and set(lost) <= {0, 1}, lost
    assert adapter_digest(folder) == adapter_digest(undisturbed.folder)
