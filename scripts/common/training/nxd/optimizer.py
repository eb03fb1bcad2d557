"""AdamW for a device that compiles: all trainings of a sweep share one program. Needs torch."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch

from common.training.optimizer import adamw


class DeviceAdamW(torch.optim.Optimizer):
    """AdamW by each group's `values`, a tensor of `step_values` on the device of the parameters.

    The moments exist from the start, so that the first step is the same program as the later ones. ZeRO-1 can wrap it.
    """

    def __init__(self, params: Any, **defaults: Any) -> None:
        super().__init__(params, defaults)
        for parameter in self._parameters():
            self.state[parameter] = {
                name: torch.zeros(parameter.shape).to(parameter.device) for name in ("first_moment", "second_moment")
            }

    @torch.no_grad()
    def step(self, closure: Callable[[], float] | None = None) -> None:
        """Update the parameters that have a gradient."""
        for group in self.param_groups:
            for parameter in group["params"]:
                if parameter.grad is not None:
                    self._update(parameter, parameter.grad, group["values"])

    def _update(self, parameter: torch.Tensor, gradient: torch.Tensor, values: torch.Tensor) -> None:
        state = self.state[parameter]
        first, second = state["first_moment"], state["second_moment"]
        updated = adamw(parameter, gradient, first, second, values)
        for tensor, value in zip((parameter, first, second), updated, strict=True):
            tensor.copy_(value)

    def _parameters(self) -> list[torch.Tensor]:
        return [parameter for group in self.param_groups for parameter in group["params"]]
