"""Runs train_nxd.py with the real neuronx_distributed (NxD) over the real torch-xla, compiled for this machine's CPU.

    PJRT_DEVICE=CPU NXD_STUB_PLATFORM=trn2 PYTHONPATH=neuronx-distributed/src python on_xla.py OUT train_nxd.py FLAGS

What the device would compile and transfer happens here too, for one rank. Writes the graphs to OUT/graphs.0 and the
counts to OUT/counts.json. Only torch_neuronx and the compilers are stood in for.
"""

from __future__ import annotations

import json
import os
import runpy
import sys
from pathlib import Path

out = Path(sys.argv[1])
os.environ |= {"XLA_SAVE_TENSORS_FILE": str(out / "graphs"), "XLA_SAVE_TENSORS_FMT": "hlo", "HOST_WORLD_SIZE": "1"}

# All of torch_xla that NxD uses, before the stand-ins: it looks whether libneuronxla can be imported.
import torch_xla.core.xla_env_vars  # noqa: E402
import torch_xla.core.xla_model  # noqa: E402
import torch_xla.debug.metrics as metrics  # noqa: E402
import torch_xla.distributed.xla_backend  # noqa: E402
import torch_xla.distributed.zero_redundancy_optimizer  # noqa: E402
import torch_xla.runtime  # noqa: E402
import torch_xla.utils.checkpoint  # noqa: E402

from tests.nxd.on_cpu import PACKAGES, stand_in  # noqa: E402

torch_xla.core.xla_env_vars.HOST_WORLD_SIZE = "HOST_WORLD_SIZE"  # NxD asks for it; this release has it no more
stand_in([name for name in PACKAGES if name != "torch_xla"])


def counts() -> dict[str, int]:
    """How many programs have been compiled, and how many transfers from the device there were."""
    transfers = metrics.metric_data("TransferFromDeviceTime")
    return {"programs": metrics.counter_value("UncachedCompile") or 0, "reads": transfers[0] if transfers else 0}


if __name__ == "__main__":
    sys.argv = sys.argv[2:]
    sys.path[0] = str(Path(sys.argv[0]).resolve().parent)
    out.mkdir(parents=True)
    try:
        runpy.run_path(sys.argv[0], run_name="__main__")
    finally:
        (out / "counts.json").write_text(json.dumps(counts()))
