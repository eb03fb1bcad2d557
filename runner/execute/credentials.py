"""Which credentials of the environment a program gets: only those that it needs. Standard library alone."""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import Any

from runner.execute.run_folder import HUB_TOKENS

# Read by trackers, in the process of the runner.
_OF_TRACKERS = ("WANDB_API_KEY", "MLFLOW_TRACKING_PASSWORD", "MLFLOW_TRACKING_TOKEN", "DATABRICKS_TOKEN")
# Read by the Neuron compiler, for programs that it keeps on S3.
_OF_AWS = ("AWS_SECRET_ACCESS_KEY", "AWS_SESSION_TOKEN")
_COMPILE_CACHE = "NEURON_COMPILE_CACHE_URL"


def of_executor() -> dict[str, str]:
    """This environment without what only the runner needs."""
    return {name: value for name, value in os.environ.items() if name not in _OF_TRACKERS}


def of_step(step: Mapping[str, Any]) -> dict[str, str]:
    """This environment without the credentials that a step (as in plan.json) does not need."""
    values = [*step["argv"], *step["env"].values(), os.environ.get(_COMPILE_CACHE, "")]
    on_s3 = any("s3://" in value for value in values)
    withheld = {*(() if "--hub" in step["argv"] else HUB_TOKENS), *(() if on_s3 else _OF_AWS)}
    return {name: value for name, value in of_executor().items() if name not in withheld}
