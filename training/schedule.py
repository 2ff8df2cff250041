"""Learning rates and averaged weights, as both denoisers are trained."""

from __future__ import annotations

import math
from typing import Protocol

import torch
from torch import nn

WARMUP_STEPS = 100


class Stage(Protocol):
    """What a stage of training says of its learning rate and its average."""

    @property
    def steps(self) -> int: ...

    @property
    def learning_rate(self) -> float: ...

    @property
    def final_rate(self) -> float: ...

    @property
    def average_decay(self) -> float: ...


def rate_at(stage: Stage, step: int) -> float:
    """Learning rate: linear warm-up, then a half cosine to `final_rate`."""
    warm = min(1.0, (step + 1) / WARMUP_STEPS)
    fall = 0.5 + 0.5 * math.cos(math.pi * step / stage.steps)
    return warm * (stage.final_rate + (stage.learning_rate - stage.final_rate) * fall)


@torch.no_grad()
def follow(average: nn.Module, model: nn.Module, stage: Stage, step: int) -> None:
    """Move the averaged weights towards the model's, faster in the first steps of a stage."""
    decay = min(stage.average_decay, (1 + step) / (10 + step))
    torch._foreach_lerp_(list(average.parameters()), list(model.parameters()), 1 - decay)
