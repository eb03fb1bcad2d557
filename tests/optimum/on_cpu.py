"""Run scripts/train_optimum.py, unchanged, on CPU ranks: the real optimum-neuron, trl, peft and neuronx-distributed.

torch_xla and the Neuron packages are stood in for by `nxd_stubs`, a module that makes them importable and gives the
collectives to gloo. ZeRO-1 is torch_xla's own file. Not possible this way: flash attention, and speed.

    pip install torch transformers==4.57.6 trl==0.24.0 peft==0.17.0 accelerate==1.8.1 optimum==2.0.0 boto3 tenacity
    pip install --no-deps optimum-neuron==0.4.5
    unzip torch_xla-2.8.0-*.whl torch_xla/distributed/zero_redundancy_optimizer.py
    ZERO=torch_xla/distributed/zero_redundancy_optimizer.py PYTHONPATH=FOLDER_OF_nxd_stubs:NXD_SRC/src \
        torchrun --nproc-per-node 4 tests/optimum/on_cpu.py --model MODEL --data TOKENS --output OUT --tp-size 2 ...
"""

# ruff: noqa: E402, I001  (what stands in comes before what imports it)
from __future__ import annotations

import contextlib
import os
import runpy
import sys
from pathlib import Path

import nxd_stubs  # noqa: F401  first: it makes torch_xla importable
import torch
import torch.distributed as dist
import torch_xla
import torch_xla.core.xla_model as xm
import torch_xla.distributed.zero_redundancy_optimizer as zero
import torch_xla.runtime as xr

PROGRAM = Path(__file__).parents[2] / "scripts" / "train_optimum.py"
new_group, scatter, gather = dist.new_group, xm.reduce_scatter, xm.all_gather


def group(ranks=None, *unused, pg_options=None, **more):
    """NxD makes each group on its members alone, as XLA allows."""
    return new_group(ranks, use_local_synchronization=ranks is not None)


def reduce_scatter(op, tensor, scale=1.0, bucket_cap_mb=0, **more):
    return scatter(op, tensor, scale, **more) * scale


def mesh_reduce(tag, data, reduce):
    found = [None] * dist.get_world_size()
    dist.all_gather_object(found, data)
    return reduce(found)


dist.new_group = group
xr.global_device_count, xr.global_ordinal, xm.get_local_ordinal = dist.get_world_size, dist.get_rank, dist.get_rank
xm.unlazy = torch_xla.sync = lambda *unused, **more: None
xm.reduce_scatter, xm.mesh_reduce, xm.set_rng_state = reduce_scatter, mesh_reduce, torch.manual_seed
xm.reduce_scatter_bucketized = lambda op, tensors, **more: [reduce_scatter(op, each, **more) for each in tensors]
xm.all_gather_bucketized = lambda tensors, bucket_cap_mb=0, **more: [gather(each, **more) for each in tensors]
xm.add_step_closure = lambda closure, args=(), **more: closure(*args)
source = Path(os.environ["ZERO"]).read_text().replace("assert self.device.type == 'xla'", "pass")
exec(compile(source, os.environ["ZERO"], "exec"), zero.__dict__)

import neuronx_distributed.parallel_layers.comm as comm
import optimum.neuron.models.training.config as config
import optimum.neuron.trainers.transformers as trainers

comm._get_group_mesh = lambda members: members
config.init_process_group = lambda: dist.init_process_group("gloo")
trainers.hub_neuronx_cache = trainers.patch_neuron_cc_wrapper = lambda *unused, **more: contextlib.nullcontext()
trainers.NeuronTrainer.synchronize_hub_cache = lambda self: None

sys.path.insert(0, str(PROGRAM.parent))
sys.argv[0] = str(PROGRAM)
runpy.run_path(str(PROGRAM), run_name="__main__")
