"""BEiT3 on disk: the weights released by its authors, and the checkpoints of this package."""

from __future__ import annotations

import re
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from alignrec_pyg.atomic import folder_lock
from alignrec_pyg.encoders.beit3_model import BEiT3Config, BEiT3Model
from alignrec_pyg.encoders.sentencepiece_tokenizer import SentencePieceTokenizer
from alignrec_pyg.encoders.weights import released_tensors
from alignrec_pyg.storage import CheckpointError, read_with_files, write_with_files

_MANIFEST = "beit3.json"
_KEYS = {"config": dict, "max_tokens": int, "notes": dict}
_TENSORS = "beit3.safetensors"
_PREFIX = "beit3."
_HEADS = ("mlm_head.", "mim_head.", "language_head.", "vision_head.", "logit_scale")
_SERVING = (
    "the released pre-trained, captioning and retrieval files can be loaded (NLVR2 has another "
    "head, VQA and ImageNet lack the last norm)"
)
_TEXT_EMBEDDING = "beit3.text_embed.weight"
_IMAGE_POSITIONS = "beit3.encoder.embed_positions.A.weight"
_TEXT_POSITIONS = "beit3.encoder.embed_positions.B.weight"
_ROWS_BEFORE_GRID = 3  # of the image's positions: two unused ones and the CLS token's


@dataclass(frozen=True)
class OfficialBEiT3:
    """A released checkpoint, with notes on every tensor that was not loaded as it is stored.

    ``heads`` are the tensors beside the encoder, by their stored name: ``mlm_head`` belongs to the
    released vocabulary, ``mim_head`` predicts codes of a tokenizer that was not released.
    """

    model: BEiT3Model
    heads: dict[str, Tensor]
    notes: list[str]


def load_official(
    path: Path,
    config: BEiT3Config,
    *,
    new_vocabulary: bool = False,
    partial: bool = False,
    seed: int = 0,
) -> OfficialBEiT3:
    """Reads weights released by BEiT3's authors (``.pth``, or converted to safetensors).

    All tensors need to fit the model, with two exceptions: image positions of another image size
    are resized (bicubic), and surplus text positions are left out. ``new_vocabulary`` leaves out
    the text embedding, for another tokenizer than ``beit3.spm``. With ``partial`` the number of
    layers may differ: layers that are not stored keep their initial weights, stored layers beyond
    ``num_layers`` are left out. No code in the file is executed.

    Raises:
        CheckpointError: If the file is missing, damaged, contains code, or does not fit the model.
    """
    stored: dict[str, Tensor] = {}
    heads: dict[str, Tensor] = {}
    notes: list[str] = []
    for name, value in released_tensors(path).items():
        (stored if name.startswith(_PREFIX) else heads)[name] = value
    unknown = sorted(name for name in heads if not name.startswith(_HEADS))
    if not stored or unknown:
        raise CheckpointError(
            f"{path} needs to hold BEiT3: names that begin with {_PREFIX!r}, and heads among "
            f"{_HEADS} (got {unknown[:5] or 'none of them'}): {_SERVING}"
        )
    model = BEiT3Model(config, seed=seed)
    expected = model.state_dict()
    if heads:
        notes.append(f"heads are not part of the encoder: {sorted(heads)}")

    depth = 1 + max((_layer(name) for name in stored), default=0)
    fresh = set()
    if partial and depth != config.num_layers:
        stored = {name: value for name, value in stored.items() if _layer(name) < config.num_layers}
        fresh = {name for name in expected if _layer(name) >= depth}
        notes.append(f"{depth} layers are stored, {config.num_layers} are built")
    if new_vocabulary and stored.pop(_TEXT_EMBEDDING, None) is not None:
        fresh.add(_TEXT_EMBEDDING)
        notes.append(f"{_TEXT_EMBEDDING} is new, for another vocabulary")
    positions = stored.get(_TEXT_POSITIONS)
    if positions is not None and len(positions) > config.max_positions:
        stored[_TEXT_POSITIONS] = positions[: config.max_positions]
        notes.append(f"text positions: the first {config.max_positions} of {len(positions)}")
    positions = stored.get(_IMAGE_POSITIONS)
    if positions is not None and len(positions) != _ROWS_BEFORE_GRID + config.num_patches:
        stored[_IMAGE_POSITIONS] = resized_positions(positions, config.grid)
        notes.append(f"image positions: {len(positions)} rows resized to a grid of {config.grid}")

    _check_fit(path, stored, {n: v for n, v in expected.items() if n not in fresh})
    model.load_state_dict({**expected, **stored})
    return OfficialBEiT3(model, heads, notes)


def resized_positions(positions: Tensor, grid: int) -> Tensor:
    """Image positions for another grid: the first three rows unchanged, the others resized.

    Shapes:
        - **input:** float :math:`(3 + g^2, d)`
        - **output:** float32 :math:`(3 + grid^2, d)`
    """
    first, cells = positions[:_ROWS_BEFORE_GRID].float(), positions[_ROWS_BEFORE_GRID:].float()
    side = round(len(cells) ** 0.5)
    if side < 1 or side**2 != len(cells):
        raise CheckpointError(
            f"{_IMAGE_POSITIONS} needs 3 rows and those of a square grid (got {len(positions)})"
        )
    picture = cells.T.reshape(1, -1, side, side)
    resized = F.interpolate(picture, size=(grid, grid), mode="bicubic", align_corners=False)
    return torch.cat([first, resized.flatten(2)[0].T])


def write_beit3(
    folder: Path,
    model: BEiT3Model,
    tokenizer: SentencePieceTokenizer,
    max_tokens: int,
    notes: dict[str, Any],
) -> None:
    """Writes a checkpoint; one that is there stays complete until the last step."""
    spm = torch.frombuffer(bytearray(tokenizer.model), dtype=torch.uint8)
    manifest = {
        "config": asdict(model.config),
        "max_tokens": max_tokens,
        "tokenizer_sha256": tokenizer.fingerprint,
        "notes": notes,
    }
    with folder_lock(folder, _MANIFEST):
        contents = {_TENSORS: {**model.state_dict(), "tokenizer": spm}}
        write_with_files(folder / _MANIFEST, manifest, contents)


def read_beit3(folder: Path) -> tuple[BEiT3Model, SentencePieceTokenizer, int]:
    """Reads model, tokenizer and ``max_tokens`` that :func:`write_beit3` wrote."""
    manifest, files = read_with_files(folder / _MANIFEST, _KEYS, [_TENSORS])
    tensors = files[_TENSORS]
    try:
        model = BEiT3Model(BEiT3Config(**manifest["config"]), seed=None)
        tokenizer = SentencePieceTokenizer(tensors.pop("tokenizer").numpy().tobytes())
    except (KeyError, TypeError, ValueError) as error:
        raise CheckpointError(f"{folder} is not a BEiT3 checkpoint ({error})") from error
    _check_fit(folder, tensors, model.state_dict())
    model.load_state_dict(tensors, assign=True)
    return model, tokenizer, manifest["max_tokens"]


def _layer(name: str) -> int:
    found = re.match(r"beit3\.encoder\.layers\.(\d+)\.", name)
    return int(found.group(1)) if found else -1


def _check_fit(path: Path, found: dict[str, Tensor], expected: dict[str, Tensor]) -> None:
    differing = {}
    for name in sorted(found.keys() | expected.keys()):
        shapes = tuple(
            tuple(part[name].shape) if name in part else None for part in (found, expected)
        )
        if shapes[0] != shapes[1]:
            differing[name] = shapes
    if differing:
        examples = dict(list(differing.items())[:5])
        raise CheckpointError(
            f"{path} does not fit the model: {len(differing)} tensors are missing, unknown or of "
            f"another shape (stored, expected), such as {examples}; for another vocabulary or "
            f"number of layers see 'new_vocabulary' and 'partial' of load_official; {_SERVING}"
        )
