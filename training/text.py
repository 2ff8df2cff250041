"""The embedded model's tokenizer and text encoder.

Shapes: P prompts, T = MAX_TOKENS tokens.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence

from tokenizers.pre_tokenizers import ByteLevel
from torch import Tensor
from transformers import CLIPTextConfig, CLIPTextModel, CLIPTokenizer

from training import world

MAX_TOKENS = 16
HIDDEN_SIZE = 96
END_OF_WORD = "</w>"
SPECIAL_TOKENS = ("<|startoftext|>", "<|endoftext|>")


def split(word: str, merges: Sequence[tuple[str, str]]) -> list[str]:
    """Byte-pair encoding of one word: join the pair of lowest rank until none is left."""
    rank = {pair: i for i, pair in enumerate(merges)}
    pieces = [*word[:-1], word[-1] + END_OF_WORD]
    while True:
        pairs = list(itertools.pairwise(pieces))
        known = [pair for pair in pairs if pair in rank]
        if not known:
            return pieces
        at = pairs.index(min(known, key=rank.__getitem__))
        pieces[at : at + 2] = ["".join(pieces[at : at + 2])]


def build_merges(words: Sequence[str]) -> list[tuple[str, str]]:
    """Merges that make each word one token.

    A word is finished with merges of higher rank than all before it, so that no later word's
    merges can come in between an earlier word's.
    """
    merges: list[tuple[str, str]] = []
    for word in words:
        while len(pieces := split(word, merges)) > 1:
            merges.append((pieces[0], pieces[1]))
    return merges


def build_tokenizer() -> CLIPTokenizer:
    """A CLIPTokenizer to which each word of the world is one token, and other words are pieces."""
    merges = build_merges(world.VOCABULARY)
    letters = sorted(ByteLevel.alphabet())
    tokens = [*letters, *(letter + END_OF_WORD for letter in letters)]
    tokens += ["".join(pair) for pair in merges]
    vocabulary = {token: i for i, token in enumerate([*tokens, *SPECIAL_TOKENS])}
    return CLIPTokenizer(vocab=vocabulary, merges=merges, model_max_length=MAX_TOKENS)


def build_text_encoder(tokenizer: CLIPTokenizer) -> CLIPTextModel:
    """An untrained CLIPTextModel of two layers, for this tokenizer."""
    config = CLIPTextConfig(
        vocab_size=len(tokenizer),
        hidden_size=HIDDEN_SIZE,
        intermediate_size=2 * HIDDEN_SIZE,
        num_hidden_layers=2,
        num_attention_heads=4,
        max_position_embeddings=MAX_TOKENS,
        projection_dim=HIDDEN_SIZE,
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
    )
    return CLIPTextModel(config)


def tokens_of(tokenizer: CLIPTokenizer, prompts: Sequence[str]) -> Tensor:
    """Token numbers_PT, padded as diffusers' pipelines pad them."""
    numbers_PT: Tensor = tokenizer(
        list(prompts), padding="max_length", max_length=MAX_TOKENS, truncation=True,
        return_tensors="pt",
    ).input_ids  # fmt: skip
    return numbers_PT
