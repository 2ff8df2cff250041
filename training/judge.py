"""Trains the classifier that reads digits, on real renderings alone.

    python -m training.judge

trains it anew and puts its weights into the package of the evaluation.

Shapes: B frames, P = 48 pixels of a patch around the digit.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import torch
from safetensors.torch import save_file
from torch import Tensor
from torch.nn import functional

from training import checkpoint, data, world
from video_infinity_evaluation.world.reading import (
    CLASSIFIER,
    build_classifier,
    read,
    read_digits,
)

__all__ = ["Judge", "read"]

CLASSIFIER_STEPS = 1500


def real_patches(
    generator: torch.Generator, count: int, glyphs: tuple[Tensor, Tensor]
) -> tuple[Tensor, Tensor]:
    """Patches of real renderings of random scenes, and their digits."""
    clips = data.draw_clips(generator, count, world.NUM_FRAMES, glyphs)
    moment_B = torch.randint(world.NUM_FRAMES, (count,), generator=generator)
    frames_B3HW = clips.frames(moment_B, torch.arange(count))
    digits = [world.DIGITS.index(data.SCENES[i].digit) for i in clips.scene.tolist()]
    return read(frames_B3HW).patch, torch.tensor(digits)


class Judge:
    """The classifier, trained on first use and kept in `path`."""

    def __init__(self, path: Path) -> None:
        self.classifier = build_classifier()
        state = checkpoint.load(path)
        if state is None:
            self._train()
            checkpoint.save(path, self.classifier.state_dict())
        else:
            self.classifier.load_state_dict(state)
        self.classifier.eval()

    def _train(self) -> None:
        torch.manual_seed(0)
        glyphs = data.split_glyphs(held_out=False)
        optimizer = torch.optim.AdamW(self.classifier.parameters(), 2e-3)
        schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, CLASSIFIER_STEPS)
        for step in range(CLASSIFIER_STEPS):
            generator = torch.Generator().manual_seed(step)
            patch_BPP, digit_B = real_patches(generator, 64, glyphs)
            loss = functional.cross_entropy(self.classifier(patch_BPP[:, None]), digit_B)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            schedule.step()

    def digits(self, patch_BPP: Tensor) -> Tensor:
        """The digit in each patch, 0 ... 9."""
        return read_digits(patch_BPP, self.classifier)

    def held_out_accuracy(self, count: int = 4000) -> float:
        """Share of real renderings of digits never trained on that are read right."""
        generator = torch.Generator().manual_seed(10**6)
        patch_BPP, digit_B = real_patches(generator, count, data.split_glyphs(held_out=True))
        return float((self.digits(patch_BPP) == digit_B).float().mean())


def main() -> None:
    """The command's entry."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, default=Path("out/training"))
    parser.add_argument("--to", type=Path, default=CLASSIFIER)
    arguments = parser.parse_args()
    judge = Judge(arguments.out / "judge.pt")
    state = judge.classifier.state_dict()
    judge.classifier.load_state_dict({name: x.half().float() for name, x in state.items()})
    print(f"{judge.held_out_accuracy():.2%} of real renderings of held-out digits are read right")
    save_file({name: x.half().contiguous() for name, x in state.items()}, arguments.to)


if __name__ == "__main__":
    main()
