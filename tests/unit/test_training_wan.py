"""How the second embedded model is trained: its parts against diffusers' own."""

from __future__ import annotations

import pytest
import torch
from diffusers.models.transformers.transformer_wan import WanAttnProcessor
from torch.nn import functional

from training import data, world
from training.autoencoder import build_autoencoder as build_frame_autoencoder
from training.autoencoder import whiten
from training.known import draw_known, frame_timesteps
from training.latents import CLIP_FRAMES as UNET_CLIP_FRAMES
from training.latents import LatentPool as UnetPool
from training.unet import build_unet
from training.wan import text
from training.wan.autoencoder import (
    ConvMuon,
    build_autoencoder,
    decode,
    draw_videos,
    encode_mean,
    is_kernel,
    lay_out_for_cpu,
)
from training.wan.denoiser import PADDING, Denoiser, noise_levels
from training.wan.latents import CLIP_FRAMES, LatentPool


@pytest.fixture(scope="module")
def vae():
    torch.manual_seed(0)
    return build_autoencoder().eval()


@pytest.fixture(scope="module")
def denoiser():
    torch.manual_seed(0)
    model = Denoiser().eval()
    torch.nn.init.normal_(model.transformer.proj_out.weight, std=0.02)
    return model


def test_each_word_of_the_world_is_one_token():
    tokenizer = text.build_tokenizer()
    for scene in data.SCENES:
        assert len(tokenizer(scene.prompt()).input_ids) == len(scene.prompt().split()) + 1
    assert tokenizer.unk_token_id not in tokenizer("a zebra").input_ids
    assert tokenizer.decode(tokenizer("a zebra").input_ids[:-1]) == "a zebra"


def test_a_prompt_of_too_many_tokens_is_refused():
    with pytest.raises(ValueError, match="more than 16"):
        text.tokens_of(text.build_tokenizer(), ["a red seven " * 6])


@torch.no_grad()
def test_one_token_stands_for_all_of_the_padding(denoiser):
    states_BSD = text.encode(denoiser.text_encoder, denoiser.numbers_PT[:2], denoiser.mask_PT[:2])
    assert (states_BSD[:, -1] == 0).all()
    whole_BSD = functional.pad(states_BSD, (0, 0, 0, PADDING - states_BSD.shape[1]))
    noisy, timestep = torch.randn(2, 16, 3, 8, 8), torch.tensor([300.0, 900.0])
    ours = denoiser.transformer(noisy, timestep, states_BSD).sample
    processors = [block.attn2.processor for block in denoiser.transformer.blocks]
    for block in denoiser.transformer.blocks:
        block.attn2.set_processor(WanAttnProcessor())
    own = denoiser.transformer(noisy, timestep, whole_BSD).sample
    unweighted = denoiser.transformer(noisy, timestep, states_BSD).sample
    for block, processor in zip(denoiser.transformer.blocks, processors, strict=True):
        block.attn2.set_processor(processor)
    torch.testing.assert_close(ours, own, atol=1e-5, rtol=0)
    assert (unweighted - own).abs().max() > 1e-3, "the weight of the padding does not show"


@torch.no_grad()
def test_all_latents_at_once_decode_as_diffusers_decodes_them_one_by_one(vae):
    z_BCFhw = torch.randn(2, 16, 4, 8, 8)
    own = vae.decode(z_BCFhw).sample
    assert own.shape == (2, 3, 13, 64, 64)
    torch.testing.assert_close(decode(vae, z_BCFhw).clamp(-1, 1), own, atol=1e-5, rtol=0)


@torch.no_grad()
def test_whitening_leaves_the_videos_as_they_were():
    torch.manual_seed(1)
    model = build_autoencoder().eval()
    x_B3PHW, _ = draw_videos(torch.Generator().manual_seed(0), 4, 9, data.exemplar_glyphs())
    before_BCFhw = encode_mean(model, x_B3PHW)
    before = decode(model, before_BCFhw)
    whiten(model.quant_conv, model.post_quant_conv, before_BCFhw)
    z_BCFhw = encode_mean(model, x_B3PHW)
    torch.testing.assert_close(decode(model, z_BCFhw), before, atol=1e-4, rtol=0)
    z_CK = z_BCFhw.double().transpose(0, 1).flatten(1)
    assert z_CK.mean(1).abs().max() < 1e-3
    covariance_CC = torch.cov(z_CK)
    assert covariance_CC.diagonal().max() == pytest.approx(1, abs=1e-3)
    assert (covariance_CC - torch.diag(covariance_CC.diagonal())).abs().max() < 1e-3


def test_a_kernel_goes_as_its_matrix_goes_by_torchs_muon():
    torch.manual_seed(0)
    conv = torch.nn.Conv3d(4, 6, 3)
    lay_out_for_cpu(torch.nn.ModuleList([conv]))
    plain = torch.nn.Parameter(conv.weight.detach().clone().contiguous().flatten(1))
    own = torch.optim.Muon([plain], 0.01, weight_decay=0.0, adjust_lr_fn="match_rms_adamw")
    ours = ConvMuon([conv.weight], 0.01)
    for _ in range(3):
        grad = torch.randn(conv.weight.shape)
        conv.weight.grad, plain.grad = grad, grad.flatten(1)
        own.step()
        ours.step()
    torch.testing.assert_close(conv.weight.flatten(1), plain, atol=1e-3, rtol=0)
    adam = torch.nn.Parameter(plain.detach().clone())
    adam.grad = plain.grad
    torch.optim.AdamW([adam], 0.01).step()
    assert (adam - plain).abs().max() > 9e-3, "another rule shows"


def test_a_kernel_that_is_no_matrix_in_memory_is_refused():
    with pytest.raises(ValueError, match="channels do not lie last"):
        ConvMuon([torch.nn.Conv3d(4, 6, 3).weight], 0.01)


def test_gains_are_no_kernels(vae):
    gains = {name for name, p in vae.named_parameters() if p.ndim > 1 and not is_kernel(p)}
    assert gains
    assert all(name.endswith("gamma") for name in gains)


def test_known_frames_are_a_beginning_and_leave_some_to_ask_for():
    known_BF = draw_known(torch.Generator().manual_seed(0), 400, 16, 0.5)
    length_B = known_BF.sum(1)
    assert (known_BF == (torch.arange(16) < length_B[:, None])).all()
    assert 0.4 < (length_B > 0).float().mean() < 0.6
    assert sorted(length_B.unique().tolist()) == [*range(13)]


def test_without_a_share_no_frame_is_known():
    assert not draw_known(torch.Generator().manual_seed(0), 50, 16, 0.0).any()


@torch.no_grad()
def test_a_timestep_of_its_own_for_each_frame_of_the_unet():
    torch.manual_seed(0)
    unet = build_unet().eval()
    noisy, states = torch.randn(2, 8, 4, 8, 8), torch.randn(2, 5, 96)
    timestep_B = torch.tensor([200, 700])
    own = unet(noisy, timestep_B, states).sample
    with frame_timesteps(unet, timestep_B.repeat_interleave(4)):
        equal = unet(noisy, timestep_B, states).sample
    times_K = timestep_B.repeat_interleave(4)
    times_K[1] = 0
    with frame_timesteps(unet, times_K):
        other = unet(noisy, timestep_B, states).sample
    torch.testing.assert_close(equal, own, atol=1e-5, rtol=0)
    moved_BF = (other - own).abs().amax((1, 3, 4))  # untrained temporal layers mix nothing
    assert moved_BF[0, 1] > 1e-3
    moved_BF[0, 1] = 0
    assert moved_BF.max() < 1e-5
    assert torch.equal(unet(noisy, timestep_B, states).sample, own), "put back"


def test_what_is_known_is_not_asked_for(denoiser):
    x_BCFhw = torch.randn(2, 16, 4, 8, 8)
    known_BF = torch.tensor([[True, True, False, False], [False] * 4])
    predicted = []
    hook = denoiser.transformer.register_forward_hook(
        lambda *args: predicted.append(args[2].sample)
    )
    loss = denoiser.loss(torch.Generator().manual_seed(0), x_BCFhw, torch.tensor([0, 1]), known_BF)
    hook.remove()
    (velocity,) = predicted
    grad = torch.autograd.grad(loss, velocity)[0]
    touched_BF = grad.abs().amax((1, 3, 4)) > 0
    assert torch.equal(touched_BF, ~known_BF)


def test_noise_levels_are_shifted_to_the_noisy_end():
    sigma_B = noise_levels(torch.Generator().manual_seed(0), 4000)
    assert 0 < sigma_B.min() < 0.1
    assert sigma_B.max() < 1
    assert 0.7 < sigma_B.median() < 0.8, "0.75 is the shifted middle"


def test_windows_of_the_pool_begin_with_the_clip_unless_they_may_not(vae):
    pool = LatentPool(vae, data.exemplar_glyphs(), 4, seed=1)
    pool.add(4)
    generator = torch.Generator().manual_seed(0)
    later_N = torch.tensor([False] * 20 + [True] * 20)
    x_BCFhw, scene_B = pool.draw(generator, 40, 13, later_N)
    again = torch.Generator().manual_seed(1 * 1_000_003)
    videos, scene_N = draw_videos(again, 4, 4 * (CLIP_FRAMES - 1) + 1, data.exemplar_glyphs())
    with torch.no_grad(), torch.autocast("cpu", torch.bfloat16):
        whole_NCFhw = encode_mean(vae, videos).half().float()
    starts = []
    for x_CFhw, scene in zip(x_BCFhw, scene_B, strict=True):
        found = [
            (clip, start)
            for clip in range(4)
            for start in range(CLIP_FRAMES - 12)
            if torch.equal(whole_NCFhw[clip, :, start : start + 13], x_CFhw)
        ]
        assert len(found) == 1
        assert scene_N[found[0][0]] == scene
        starts.append(found[0][1])
    assert set(starts[:20]) == {0}
    assert len(set(starts[20:])) > 2


def test_windows_of_the_first_models_pool():
    pool = UnetPool(build_frame_autoencoder().eval(), data.exemplar_glyphs(), 3, seed=1)
    pool.add(3)
    generator = torch.Generator().manual_seed(0)
    later_N = torch.tensor([False] * 20 + [True] * 20)
    x_BCFhw, _ = pool.draw_clips(generator, 40, 24, later_N)
    assert x_BCFhw.shape == (40, 8, 24, 8, 8)
    firsts = pool._latents_NFChw[:, 0].float()
    begins_B = [any(torch.equal(x[:, 0], first) for first in firsts) for x in x_BCFhw]
    assert all(begins_B[:20])
    assert not all(begins_B[20:])
    assert UNET_CLIP_FRAMES > world.LONGEST, "the longest windows can begin later, too"
