from __future__ import annotations

import pytest
from planned import arguments, command

from runner.plan.stages import export

NATIVE = ["hardware=trn2", "tp_size=2", "serve=vllm", "sdk.vllm=native", "sdk.vllm_lora=false"]


@pytest.mark.parametrize(
    ("overrides", "merges"),
    [([], False), (["export.merge=true"], True), (NATIVE, True)],
    ids=["alone", "on request", "for a server without LoRA"],
)
def test_the_adapter_is_gathered_and_merged_where_someone_needs_it(overrides: list[str], merges: bool) -> None:
    made = command(export.command, *overrides, after="fetch train")
    merge = ["--merge"] if merges else []
    assert arguments(made) == [
        "--model", "/store/objects/fetch-1", "--adapter", "/store/objects/train-1", *merge, "--output", "OUT"
    ]  # fmt: skip
    assert made.title.endswith("and merge it") == merges
