"""The embedded model's parts before training keep what training and export rely on."""

import pytest
import torch

from training import world
from training.autoencoder import Settings, build_autoencoder, encode_mean, fit, whiten
from training.denoiser import LENGTHS
from training.positions import PositionHeads, end_distances
from training.sampling import build_scheduler
from training.text import MAX_TOKENS, build_tokenizer, tokens_of
from training.unet import build_unet, temporal_layers_bypassed
from training.wan.autoencoder import ConvMuon, lay_out_for_cpu


@pytest.fixture(scope="module")
def tokenizer():
    return build_tokenizer()


def test_each_word_of_the_world_is_one_token(tokenizer):
    assert [len(tokenizer.tokenize(word)) for word in world.VOCABULARY] == [1] * 29
    numbers = {tokenizer.tokenize(word)[0] for word in world.VOCABULARY}
    assert len(numbers) == 29


def test_unknown_words_fall_into_pieces_and_keep_their_letters(tokenizer):
    pieces = tokenizer.tokenize("dragon")
    assert len(pieces) > 1
    assert "".join(pieces) == "dragon</w>"


def test_every_prompt_is_padded_to_one_length_with_its_end_token(tokenizer):
    numbers_PT = tokens_of(tokenizer, ["a red seven moving left on a navy background", ""])
    assert numbers_PT.shape == (2, MAX_TOKENS)
    assert (numbers_PT[:, 0] == tokenizer.bos_token_id).all()
    assert (numbers_PT[0] == tokenizer.eos_token_id).sum() == MAX_TOKENS - 10
    assert (numbers_PT[1] == tokenizer.eos_token_id).sum() == MAX_TOKENS - 1


def test_whitening_leaves_the_reconstruction_and_makes_unit_channels():
    torch.manual_seed(0)
    model = build_autoencoder().eval()
    x_B3HW = torch.rand(16, 3, 64, 64) * 2 - 1
    with torch.no_grad():
        before = model.decode(model.encode(x_B3HW).latent_dist.mode()).sample
        whiten(model.quant_conv, model.post_quant_conv, encode_mean(model, x_B3HW))
        z_BChw = model.encode(x_B3HW).latent_dist.mode()
        after = model.decode(z_BChw).sample
    torch.testing.assert_close(after, before, atol=1e-4, rtol=0)
    z_CK = z_BChw.transpose(0, 1).flatten(1)
    assert z_CK.mean(1).abs().max() < 1e-3
    covariance_CC = torch.cov(z_CK)
    assert covariance_CC.diagonal().max() == pytest.approx(1, abs=1e-3)
    assert (covariance_CC - torch.diag(covariance_CC.diagonal())).abs().max() < 1e-3


def test_temporal_layers_add_nothing_before_training_and_something_after():
    torch.manual_seed(0)
    unet = build_unet().eval()
    noisy = torch.randn(1, 8, 3, 8, 8)
    text = torch.randn(1, MAX_TOKENS, 96)

    def both() -> tuple[torch.Tensor, torch.Tensor]:
        with torch.no_grad():
            whole = unet(noisy, 500, text).sample
            with temporal_layers_bypassed(unet):
                return whole, unet(noisy, 500, text).sample

    whole, bypassed = both()
    torch.testing.assert_close(whole, bypassed)
    torch.nn.init.normal_(unet.mid_block.temp_convs[0].conv4[-1].weight)
    whole, bypassed = both()
    assert (whole - bypassed).abs().max() > 1e-3


def test_position_heads_learn_from_the_last_pass_only():
    torch.manual_seed(0)
    unet = build_unet()
    heads = PositionHeads(unet)
    for num_frames in (3, 5):
        unet(torch.randn(1, 8, num_frames, 8, 8), 500, torch.randn(1, MAX_TOKENS, 96))
        heads.loss(num_frames).backward()
    assert all(head.weight.grad.abs().max() > 0 for head in heads.heads)


def test_end_distances_are_one_at_their_end_and_mirror_each_other():
    near_F2 = end_distances(9)
    assert near_F2[0, 0] == near_F2[-1, 1] == 1
    torch.testing.assert_close(near_F2[:, 0], near_F2[:, 1].flip(0))
    assert (near_F2[:, 0].diff() < 0).all()


def test_clips_of_all_lengths_fill_a_step_alike():
    frames = world.NUM_FRAMES * LENGTHS.num_clips
    assert [frames // length * length for length in LENGTHS.lengths] == [frames] * 3
    assert max(LENGTHS.lengths) == world.LONGEST


def test_noise_schedule_ends_in_noise():
    signal = build_scheduler().alphas_cumprod
    assert signal[0] > 0.999
    assert signal[-1] < 1e-3


class CutError(Exception):
    """What ends a run in its middle."""


@pytest.mark.parametrize("muon", [False, True])
def test_an_interrupted_fit_goes_on_as_if_it_had_not_been(tmp_path, muon):
    settings = Settings(steps=6, learning_rate=1e-2, steps_per_save=1)

    def run(out, stop=None):
        torch.manual_seed(0)
        model = torch.nn.Conv2d(4, 4, 3, padding=1)
        lay_out_for_cpu(torch.nn.ModuleList([model]))
        rest = [model.bias] if muon else list(model.parameters())
        optimizers = [torch.optim.AdamW(rest, 1e-2)]
        optimizers += [ConvMuon([model.weight], 1e-2)] if muon else []

        def loss_at(step, generator):
            if step == stop:
                raise CutError
            x = torch.randn(2, 4, 8, 8, generator=generator)
            return (model(x) - x).square().mean()

        fit(model, settings, out, optimizers, loss_at, lambda: 0.0)
        return model

    whole = run(tmp_path / "whole")
    with pytest.raises(CutError):
        run(tmp_path / "cut", stop=3)
    resumed = run(tmp_path / "cut")
    assert torch.equal(resumed.weight, whole.weight)
    assert torch.equal(resumed.bias, whole.bias)
    (tmp_path / "cut" / "autoencoder.pt").unlink()
    with pytest.raises(CutError):
        run(tmp_path / "cut", stop=3)
    state = torch.load(tmp_path / "cut" / "autoencoder.pt", weights_only=True)
    torch.save(state | {"step": 4}, tmp_path / "cut" / "autoencoder.pt")
    assert not torch.equal(run(tmp_path / "cut").weight, whole.weight), "a step left out shows"
