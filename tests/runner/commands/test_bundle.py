"""`runner doctor --bundle` as a user types it."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import records

CANARIES = {name: f"canary-{name.lower()}" for name in ("HF_TOKEN", "WANDB_API_KEY", "AWS_SECRET_ACCESS_KEY", "OURS")}
# What a careless program prints before it fails.
LEAKS = """
import sys
print(*(f"line {number}" for number in range(300)), sep="\\n")
print("the token is canary-hf_token")
print("Authorization: Bearer canary-of-somebody-else")
print("DB_PASSWORD=canary-of-a-database", "https://me:canary-in-a-url@host/x")
sys.exit("NRT_RESOURCE: out of memory")
"""


def bundle(folder: Path, *words: str) -> tuple[subprocess.CompletedProcess[str], list[str]]:
    """What the command printed, and the texts of the bundles that are there then."""
    environment = {**os.environ, **CANARIES, "OUR_TOKEN": CANARIES["OURS"]}
    command = [sys.executable, "-m", "runner", "doctor", "--bundle", *words]
    done = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, timeout=120)
    assert "canary" not in done.stdout + done.stderr
    return done, [path.read_text(encoding="utf-8") for path in folder.glob("runner-bundle-*.txt")]


def sections(text: str) -> dict[str, str]:
    parts = re.split(r"^== (.*) ==\n", text, flags=re.M)
    return dict(zip(parts[1::2], parts[2::2], strict=True))


def test_a_bundle_explains_a_failed_run_and_has_no_secrets(tmp_path: Path) -> None:
    run = records.ended(tmp_path, LEAKS)
    assert "canary" in (run.folder / "logs" / "train.log").read_text()
    done, (text,) = bundle(tmp_path)
    assert "canary" not in text
    found = sections(text)
    assert done.returncode == ("\nerror " in found["findings"])  # its port may be in use
    assert list(found)[:4] == ["version", "findings", "machine", "run"]
    assert {"manifest.json", "recipe.yaml", "plan.json", "logs/fetch.log", "logs/train.log"} <= found.keys()
    assert '"state": "failed"' in found["run"]
    assert "NRT_RESOURCE: out of memory" in found["logs/train.log"]
    assert "line 299" in found["logs/train.log"] and "line 50\n" not in found["logs/train.log"]
    assert '"hydra-core"' in found["machine"]
    assert (next(tmp_path.glob("runner-bundle-*")).stat().st_mode & 0o777) == 0o600


def test_a_machine_without_runs(tmp_path: Path) -> None:
    _, (text,) = bundle(tmp_path)
    assert sections(text)["run"].strip() == "none"


def test_a_machine_that_cannot_be_reached_is_a_finding(tmp_path: Path) -> None:
    done, (text,) = bundle(tmp_path, "quickstart", "target=ssh", "target.host=nobody.invalid")
    assert done.returncode == 1
    assert "nobody.invalid" in sections(text)["findings"]


def test_a_damaged_record_is_described(tmp_path: Path) -> None:
    run = records.ended(tmp_path, "pass")
    for name in ("plan.json", "recipe.yaml", "manifest.json"):
        (run.folder / name).write_text("{")
    done, (text,) = bundle(tmp_path, "--run", run.name)
    assert done.returncode == 1
    assert "the record is damaged" in sections(text)["findings"]
    assert "the record is damaged" in sections(text)["run"]
    assert sections(text)["plan.json"].strip() == "{"


def test_a_run_that_is_not_there_is_bad_input(tmp_path: Path) -> None:
    done, texts = bundle(tmp_path, "--run", "nothing")
    assert (done.returncode, done.stderr.count("\n"), texts) == (2, 1, [])
    command = [sys.executable, "-m", "runner", "doctor", "--run", "nothing"]
    alone = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True)
    assert (alone.returncode, alone.stderr.count("\n")) == (2, 1)
