"""Train by the flags of train_torch.py, then save OUTPUT/logits.pt: the trained ranks' own logits of the eval split."""

from __future__ import annotations

import numpy as np
import torch
import torch.distributed as dist

import train_torch
from common.training.cpu.trainer import Trainer
from common.training.parallel import Ranks

args = train_torch.flags().parse_args()
with Ranks.from_environment().join() as ranks:
    trainer = Trainer(args, ranks)
    trainer.run()
    batch = trainer.eval_set.batch(np.arange(len(trainer.eval_set)))
    with torch.no_grad():
        own = trainer.model.hidden_states(batch, torch.arange(len(batch.input_ids))) @ trainer.model.head.T
    columns = [torch.empty_like(own) for _ in range(ranks.size)]
    if ranks.size > 1:
        dist.all_gather(columns, own)
    if ranks.rank == 0:
        torch.save(torch.cat(columns if ranks.size > 1 else [own], dim=1), args.output / "logits.pt")
