"""BEiT v2's visual tokenizer (VQ-KD), from a file of released weights."""

from __future__ import annotations

from pathlib import Path

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from alignrec_pyg.encoders.cache_keys import weights_hash
from alignrec_pyg.encoders.weights import released_tensors
from alignrec_pyg.pretraining.visual_tokens import check_images
from alignrec_pyg.storage import CheckpointError

_USED = ("encoder.", "encode_task_layer.", "quantize.embedding.weight")
_UNUSED = ("decoder.", "decode_task_layer.", "teacher", "scaling", "loss", "quantize.")
_HEAD_DIM = 64
_EPS = 1e-6


class VQKDTokenizer(nn.Module):
    r"""The encoder of a released VQ-KD model: a patch's token is the nearest of 8,192 codes.

    From `"BEiT v2: Masked Image Modeling with Vector-Quantized Visual Tokenizers"
    <https://arxiv.org/abs/2208.06366>`_. With a patch's vector :math:`h_i` of a ViT and codes
    :math:`v_k`,

    .. math:: z_i = \arg\min_k \| \ell_2(h_i) - \ell_2(v_k) \|_2 \quad \text{(Eq. 2)}

    All sizes are read from the file. The AlignRec paper does not name its visual tokenizer, and the
    one that BEiT3 itself was trained with was never released.

    Args:
        path: A released file, such as ``vqkd_encoder_base_decoder_3x768x12_clip.pth``; nothing in
            it is executed.

    Raises:
        CheckpointError: If the file is missing, damaged or not a VQ-KD model.
    """

    def __init__(self, path: str | Path) -> None:
        super().__init__()
        found = released_tensors(Path(path))
        unknown = sorted(name for name in found if not name.startswith(_USED + _UNUSED))
        if unknown:
            raise CheckpointError(f"{path} is no VQ-KD tokenizer: {unknown[:5]} are unknown")
        tensors = {name: value for name, value in found.items() if name.startswith(_USED)}
        try:
            width, _, side, _ = tensors["encoder.patch_embed.proj.weight"].shape
            positions = tensors["encoder.pos_embed"].size(1) - 1
            code_dim = tensors["encode_task_layer.2.weight"].size(0)
            num_codes = tensors["quantize.embedding.weight"].size(0)
            hidden = tensors["encoder.blocks.0.mlp.fc1.weight"].size(0)
        except (KeyError, ValueError, IndexError) as error:
            raise CheckpointError(
                f"{path} holds no VQ-KD tokenizer ({error} is missing)"
            ) from error
        depth = 1 + max(int(n.split(".")[2]) for n in tensors if n.startswith("encoder.blocks."))
        self.grid = round(positions**0.5)
        self.image_size = self.grid * side
        self.vocab_size = num_codes
        with torch.device("meta"):
            self.encoder = _ViT(width, depth, hidden, side, positions)
            self.encode_task_layer = nn.Sequential(
                nn.Linear(width, width), nn.Tanh(), nn.Linear(width, code_dim)
            )
        self.codes = nn.Buffer(F.normalize(tensors.pop("quantize.embedding.weight"), dim=1))
        own = {name: value.shape for name, value in self.state_dict().items() if name != "codes"}
        differing = sorted(
            name
            for name in own.keys() | tensors.keys()
            if name not in own or name not in tensors or own[name] != tensors[name].shape
        )
        if differing:
            raise CheckpointError(
                f"{path} is no VQ-KD tokenizer of the released form: {len(differing)} tensors are "
                f"missing, unknown or of another shape, such as {differing[:5]}"
            )
        self.load_state_dict({**tensors, "codes": self.codes}, assign=True)
        self.requires_grad_(False).eval()

    @property
    def fingerprint(self) -> str:
        """Hash of the weights."""
        return f"vqkd {weights_hash(self.state_dict())}"

    @torch.no_grad()
    def forward(self, images: Tensor) -> Tensor:
        """Tokens int64 ``[B, grid * grid]`` of uint8 images ``[B, 3, H, H]``, in float32.

        Raises:
            ValueError: If the images have another shape or type.
        """
        check_images(images, self.image_size)
        self.to(images.device)
        with torch.autocast(images.device.type, enabled=False):
            patches = self.encoder(images.float() / 127.5 - 1)
            coded = F.normalize(self.encode_task_layer(patches), dim=-1)
            return (coded @ self.codes.T).argmax(dim=-1)


class _ViT(nn.Module):
    """A plain ViT with BEiT's parameter names: vectors of the patches, ``[B, P, width]``."""

    def __init__(self, width: int, depth: int, hidden: int, side: int, positions: int) -> None:
        super().__init__()
        self.cls_token = nn.Parameter(torch.zeros(1, 1, width))
        self.pos_embed = nn.Parameter(torch.zeros(1, positions + 1, width))
        self.patch_embed = nn.ModuleDict({"proj": nn.Conv2d(3, width, side, stride=side)})
        self.blocks = nn.ModuleList(_Block(width, hidden) for _ in range(depth))
        self.fc_norm = nn.LayerNorm(width, eps=_EPS)

    def forward(self, images: Tensor) -> Tensor:
        patches = self.patch_embed["proj"](images).flatten(2).transpose(1, 2)
        cls = self.cls_token.expand(len(images), -1, -1)
        x = torch.cat([cls, patches], dim=1) + self.pos_embed
        for block in self.blocks:
            x = block(x)
        return self.fc_norm(x[:, 1:])


class _Block(nn.Module):
    def __init__(self, width: int, hidden: int) -> None:
        super().__init__()
        self.norm1 = nn.LayerNorm(width, eps=_EPS)
        self.attn = _Attention(width)
        self.norm2 = nn.LayerNorm(width, eps=_EPS)
        self.mlp = nn.ModuleDict({"fc1": nn.Linear(width, hidden), "fc2": nn.Linear(hidden, width)})

    def forward(self, x: Tensor) -> Tensor:
        x = x + self.attn(self.norm1(x))
        return x + self.mlp["fc2"](F.gelu(self.mlp["fc1"](self.norm2(x))))


class _Attention(nn.Module):
    """Self-attention with a bias on queries and values only."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.num_heads = width // _HEAD_DIM
        self.qkv = nn.Linear(width, 3 * width, bias=False)
        self.q_bias = nn.Parameter(torch.zeros(width))
        self.v_bias = nn.Parameter(torch.zeros(width))
        self.proj = nn.Linear(width, width)

    def forward(self, x: Tensor) -> Tensor:
        bias = torch.cat([self.q_bias, torch.zeros_like(self.v_bias), self.v_bias])
        qkv = F.linear(x, self.qkv.weight, bias).unflatten(-1, (3, self.num_heads, -1))
        q, k, v = qkv.permute(2, 0, 3, 1, 4)  # [B, heads, tokens, width of a head] each
        return self.proj(F.scaled_dot_product_attention(q, k, v).transpose(1, 2).flatten(2))
