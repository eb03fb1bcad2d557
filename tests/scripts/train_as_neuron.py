"""Train by the flags of train_torch.py with the programs of --device neuron, compiled for this computer's CPU."""

from __future__ import annotations

import sys

import train_torch
from common import program
from common.training.neuron import trainer
from common.training.neuron.llama import Device

CPU = Device("cpu", collectives="gloo", compiler="aot_eager")


def run(args) -> None:
    with program.report_from_rank_0():
        trainer.train(args, CPU)


if __name__ == "__main__":
    sys.exit(program.main(run, train_torch.flags()))
