"""The second model's tokenizer and text encoder, of the kinds that Wan has.

Shapes: P prompts, S = 512 tokens, T = WORDS tokens that may be words.
"""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor
from torch.nn import functional
from transformers import T5Tokenizer, UMT5Config, UMT5EncoderModel

from training import world

HIDDEN_SIZE = 128
WORDS = 16
"""Tokens of the longest prompt of the world and some more; all after them are padding."""

SPACE = "▁"
LETTERS = "abcdefghijklmnopqrstuvwxyz"


def build_tokenizer() -> T5Tokenizer:
    """A T5Tokenizer to which each word of the world is one token, and other words are letters."""
    words = [(SPACE + word, 0.0) for word in world.VOCABULARY]
    letters = [(letter, -10.0) for letter in (SPACE, *LETTERS)]
    special = [("<pad>", 0.0), ("</s>", 0.0), ("<unk>", -20.0)]
    known = {piece for piece, _ in words}
    pieces = [*special, *words, *(pair for pair in letters if pair[0] not in known)]
    return T5Tokenizer(vocab=pieces, extra_ids=0)


def build_text_encoder(tokenizer: T5Tokenizer) -> UMT5EncoderModel:
    """An untrained UMT5EncoderModel of two layers, for this tokenizer."""
    config = UMT5Config(
        vocab_size=len(tokenizer),
        d_model=HIDDEN_SIZE,
        d_kv=32,
        d_ff=2 * HIDDEN_SIZE,
        num_layers=2,
        num_heads=4,
        relative_attention_num_buckets=16,
        relative_attention_max_distance=16,
        dropout_rate=0.0,
        feed_forward_proj="gated-gelu",
    )
    return UMT5EncoderModel(config)


def tokens_of(tokenizer: T5Tokenizer, prompts: Sequence[str]) -> tuple[Tensor, Tensor]:
    """Token numbers_PT and mask_PT of the first WORDS tokens of each prompt.

    Raises ValueError if a prompt has more.
    """
    read = tokenizer(list(prompts), padding="max_length", max_length=WORDS + 1, return_tensors="pt")
    numbers, mask = read.input_ids, read.attention_mask
    if numbers.shape[1] > WORDS + 1 or bool(mask[:, WORDS:].any()):
        raise ValueError(f"a prompt has more than {WORDS} tokens")
    return numbers[:, :WORDS], mask[:, :WORDS]


def encode(encoder: UMT5EncoderModel, numbers_PT: Tensor, mask_PT: Tensor) -> Tensor:
    """Text states [P, WORDS + 1, D]; the last stands for all the padding after them: zeros."""
    states: Tensor = encoder(numbers_PT, mask_PT).last_hidden_state
    states = states.masked_fill(mask_PT[..., None] == 0, 0)
    return functional.pad(states, (0, 0, 0, 1))
