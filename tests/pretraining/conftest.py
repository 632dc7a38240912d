"""Small pairs whose text can be told only from the image, and the parts of a run on them."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pytest
import torch
from tqdm import tqdm

from alignrec_pyg.encoders import BEiT3Config, BEiT3Model, SentencePieceTokenizer
from alignrec_pyg.pretraining import (
    MaskedDataModelling,
    PairConfig,
    PairDataset,
    PatchCodebook,
)

tqdm.monitor_interval = 0  # no thread beside us: some tests fork

WORDS = ("red", "green", "blue", "grey")
COLOURS = np.array([[200, 40, 40], [40, 200, 40], [40, 40, 200], [120, 120, 120]])


@dataclass
class Stage1:
    """Makes pairs and objectives that are small enough to train in a test."""

    tokenizer: SentencePieceTokenizer
    visual_tokens: PatchCodebook

    def pairs(self, count, *, seed=0, shuffled=False, size=16, **config):
        """One word, always hidden, and an image of its colour (or, shuffled, of any)."""
        rng = np.random.default_rng(seed)
        word = rng.integers(4, size=count)
        shown = rng.integers(4, size=count) if shuffled else word
        pixels = COLOURS[shown][:, :, None, None] + rng.normal(0, 25, size=(count, 3, size, size))
        images = torch.from_numpy(pixels.clip(0, 255).astype(np.uint8))
        settings = {"image_size": 16, "patch_size": 4, "max_tokens": 8} | config
        return PairDataset(
            [WORDS[w] for w in word], list(images), self.tokenizer, PairConfig(**settings), seed=1
        )

    def objective(self, *, seed=0, embed_dim=16, num_layers=1, **arguments):
        model = BEiT3Model(
            BEiT3Config.tiny(
                embed_dim=embed_dim,
                num_heads=2,
                ffn_dim=2 * embed_dim,
                num_layers=num_layers,
                image_size=16,
                patch_size=4,
                vocab_size=self.tokenizer.vocab_size,
                max_positions=12,
            ),
            seed=seed,
        )
        return MaskedDataModelling(
            model, self.visual_tokens, self.tokenizer.mask_id, seed=seed, **arguments
        )


@pytest.fixture(scope="session")
def stage1():
    pytest.importorskip("torchscale", exc_type=ImportError)
    pytest.importorskip("sentencepiece")
    # every word often enough to be a piece of its own
    tokenizer = SentencePieceTokenizer.train([f"{a} {b}" for a in WORDS for b in WORDS] * 20, 40)
    rng = np.random.default_rng(5)
    images = COLOURS[rng.integers(4, size=60)][:, :, None, None] + rng.normal(
        0, 25, size=(60, 3, 16, 16)
    )
    images = torch.from_numpy(images.clip(0, 255).astype(np.uint8))
    return Stage1(tokenizer, PatchCodebook.fit(images, 4, vocab_size=4)[0])


def _vqkd_weights(seed=0):
    """Tensors in the released layout, of a small model: 4 x 4 patches of 8 pixels."""
    width = 128
    generator = torch.Generator().manual_seed(seed)

    def draw(*shape):
        return torch.randn(shape, generator=generator) * 0.2

    tensors = {
        "encoder.cls_token": draw(1, 1, width),
        "encoder.pos_embed": draw(1, 17, width),
        "encoder.patch_embed.proj.weight": draw(width, 3, 8, 8),
        "encoder.patch_embed.proj.bias": draw(width),
        "encoder.fc_norm.weight": 1 + draw(width),
        "encoder.fc_norm.bias": draw(width),
        "encode_task_layer.0.weight": draw(width, width),
        "encode_task_layer.0.bias": draw(width),
        "encode_task_layer.2.weight": draw(6, width),
        "encode_task_layer.2.bias": draw(6),
        "quantize.embedding.weight": draw(40, 6),
        "quantize.cluster_size": draw(40),
        "decoder.cls_token": draw(1, 1, 4),
        "decode_task_layer.0.weight": draw(2, 2),
    }
    for block in range(2):
        name = f"encoder.blocks.{block}."
        tensors |= {
            name + "norm1.weight": 1 + draw(width),
            name + "norm1.bias": draw(width),
            name + "attn.q_bias": draw(width),
            name + "attn.v_bias": draw(width),
            name + "attn.qkv.weight": draw(3 * width, width),
            name + "attn.proj.weight": draw(width, width),
            name + "attn.proj.bias": draw(width),
            name + "norm2.weight": 1 + draw(width),
            name + "norm2.bias": draw(width),
            name + "mlp.fc1.weight": draw(4 * width, width),
            name + "mlp.fc1.bias": draw(4 * width),
            name + "mlp.fc2.weight": draw(width, 4 * width),
            name + "mlp.fc2.bias": draw(width),
        }
    return tensors


@pytest.fixture(scope="session")
def vqkd_weights():
    return _vqkd_weights
