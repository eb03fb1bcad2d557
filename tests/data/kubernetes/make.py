"""Write the manifests of recipes as they are reviewed: one file each, the contents of ConfigMaps left out.

    make golden

llama3_8b_sql_trn1 stands beside the EKS guide's Job. Fingerprints are left out: they change with every edit.
"""

from __future__ import annotations

import re
from pathlib import Path

from runner import targets
from runner.compose.recipe import compose
from runner.paths import ROOT


def image(tag: str, sdk: str, trainer: str) -> list[str]:
    """An image built from a Dockerfile of recipes/images, and what its labels say."""
    key = "target.kubernetes.image"
    return [f"{key}=registry/trainium-recipes:{tag}", f"{key}_sdk={sdk}", f"{key}_trains=[{trainer}]"]


OPTIMUM = image("optimum-2.26", "neuron_2_26", "optimum")
NXD = [*image("nxd-2.29", "neuron_2_29", "nxd"), "serve=none"]
CPU = image("cpu", "cpu", "torch")
RECIPES = {
    "llama3_8b_sql_trn1": ["llama3_8b_sql_trn1", *OPTIMUM],
    "two_nodes": ["llama3_8b_dolly_trn2", *NXD, "parallel.nodes=2", "target.kubernetes.secret=huggingface-secret"],
    "vllm": ["llama3_8b_dolly_trn2", *NXD, "serve=vllm", "serve.mode=foreground", "serve.port=8000",
             "target.kubernetes.serve_image=registry/trainium-recipes:vllm-2.29"],
    "server": ["quickstart", *CPU, "serve.mode=foreground", "serve.port=8000", "target.kubernetes.cpu='4'",
               "target.kubernetes.service_account=trainer", "target.kubernetes.shm=8Gi",
               "target.kubernetes.labels={kueue.x-k8s.io/queue-name: team-a}",
               "target.kubernetes.pod.metadata.annotations={example.com/cost-center: '4711'}",
               "target.kubernetes.pod.spec.imagePullSecrets=[{name: registry}]",
               "target.kubernetes.pod.spec.containers=[{name: server, env: [{name: WORKERS, value: '1'}]}]"],
}  # fmt: skip


def manifests(words: list[str]) -> str:
    """What `runner plan ... --manifests` prints."""
    recipe = compose(words[0], ["target=kubernetes", *words[1:]]).recipe
    target = targets.of(recipe.target)
    return target.manifests(target.plan(recipe))


def text(words: list[str]) -> str:
    """The same, without what differs from machine to machine and from edit to edit."""
    made = manifests(words).replace(str(ROOT), "ROOT")
    made = re.sub(r"(?m)^(  bundle.tar.gz:).*(\n    .*)*", r"\1 TAR", made)
    made = re.sub(r"(?ms)^(  bootstrap.py:).*?(?=^\S)", r"\1 PROGRAM\n", made)
    made = re.sub(r"\b(code|inputs)/[0-9a-f]{16}", r"\1/DIGEST", made)
    return re.sub(r"-[0-9a-f]{12}\b", "-DIGEST", made)


if __name__ == "__main__":
    for name, words in RECIPES.items():
        (Path(__file__).parent / f"{name}.yaml").write_text(text(words))
