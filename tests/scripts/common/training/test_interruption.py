"""A signal is noted, and handled at a place that all ranks choose."""

from __future__ import annotations

import os
import signal

import pytest

from common.program import Interrupted
from common.training.interruption import Interruption
from common.training.parallel import Ranks


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGUSR1, signal.SIGINT])
def test_a_signal_is_noted_within_the_context_and_not_after_it(number: signal.Signals) -> None:
    before = signal.getsignal(number)
    with Interruption(Ranks()) as interruption:
        assert not interruption.requested()
        os.kill(os.getpid(), number)
        assert interruption.requested()
    assert signal.getsignal(number) is before


def test_leaving_says_after_which_step() -> None:
    with pytest.raises(Interrupted, match="interrupted after step 3 of 7; the same command resumes there"):
        Interruption(Ranks()).leave(3, 7)
