"""What asks a training to end early: SIGTERM, SIGUSR1 (Slurm's warning of a time limit) or Ctrl-C. Needs torch."""

from __future__ import annotations

import signal
import threading
from typing import Any, NoReturn

from common import events
from common.program import Interrupted
from common.training.parallel import Ranks

_SIGNALS = (signal.SIGTERM, signal.SIGUSR1, signal.SIGINT)


class Interruption:
    """Notes a signal on any rank, within its context, instead of ending the process.

    torchrun and the executor may both send one, and not to all ranks at the same step: only `requested` tells.
    """

    def __init__(self, ranks: Ranks) -> None:
        self._ranks, self._signalled = ranks, False

    def __enter__(self) -> Interruption:
        on_main_thread = threading.current_thread() is threading.main_thread()
        self._previous = {number: signal.signal(number, self._note) for number in _SIGNALS if on_main_thread}
        return self

    def __exit__(self, *_: object) -> None:
        for number, handler in self._previous.items():
            signal.signal(number, handler)

    def requested(self) -> bool:
        """Whether a rank was signalled: the same answer on all ranks, which must ask at the same place."""
        return self._ranks.any(self._signalled)

    def leave(self, step: int, steps: int) -> NoReturn:
        """Report that the training ends after `step` of `steps`, and raise Interrupted."""
        if self._ranks.rank == 0:
            events.interrupted(step)
        raise Interrupted(f"interrupted after step {step} of {steps}; the same command resumes there")

    def _note(self, number: int, frame: Any) -> None:
        self._signalled = True
