"""Between the two stages: make the text encoder tell the directions apart.

Single frames show no motion, so the text encoder of stage 1 learns to drop the direction's word:
swapping it moves the encoder's output by 0.2 to 1.0 where other words move it by 10. What stage 2
then has to learn would start from almost no signal. Here the encoder alone learns to add a vector
of its own to the output at each direction's word, and to leave all other outputs as they were.

Shapes: P prompts, T tokens, D channels.
"""

from __future__ import annotations

import copy

import torch
from torch import Tensor
from transformers import CLIPTextModel

from training import data, world

DIRECTION_TOKEN = 5  # its place in every prompt, after the token of the beginning
LENGTH = 6.0  # of a direction's vector; whole outputs have a length of 8 to 9
STEPS = 700
BATCH_SIZE = 96
LEARNING_RATE = 2e-3


def imprint_directions(text_encoder: CLIPTextModel, tokens_PT: Tensor) -> float:
    """Train `text_encoder` in place.

    tokens_PT   tokens of data.SCENES in order, then of the empty prompt
    Returns the mean squared error that is left.
    """
    generator = torch.Generator().manual_seed(3)
    former = copy.deepcopy(text_encoder).eval()
    vectors_4D = torch.randn(4, text_encoder.config.hidden_size, generator=generator)
    vectors_4D = torch.linalg.qr(vectors_4D.T).Q.T * LENGTH
    names = list(world.DIRECTIONS)
    added_PD = torch.stack(
        [vectors_4D[names.index(scene.direction)] for scene in data.SCENES]
        + [torch.zeros_like(vectors_4D[0])]
    )
    optimizer = torch.optim.Adam(text_encoder.parameters())
    error = 0.0
    for step in range(STEPS):
        prompt_B = torch.randint(len(tokens_PT), (BATCH_SIZE,), generator=generator)
        prompt_B[0] = len(tokens_PT) - 1
        with torch.no_grad():
            target_BTD = former(tokens_PT[prompt_B]).last_hidden_state
            target_BTD[:, DIRECTION_TOKEN] += added_PD[prompt_B]
        output_BTD = text_encoder(tokens_PT[prompt_B]).last_hidden_state
        loss = (output_BTD - target_BTD).square().mean()
        for group in optimizer.param_groups:
            group["lr"] = LEARNING_RATE * (1 - step / STEPS)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        error = loss.item()
    return error
