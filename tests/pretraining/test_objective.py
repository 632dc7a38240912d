from __future__ import annotations

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from alignrec_pyg.encoders.beit3_model import normalized_pixels
from alignrec_pyg.pretraining import MaskedDataModelling


@pytest.fixture
def batch(stage1):
    pairs = stage1.pairs(6)
    pairs.texts[0] = "red green blue grey"
    return pairs[0, range(6)]


@pytest.fixture
def objective(stage1):
    objective = stage1.objective()
    with torch.no_grad():
        for parameter in objective.parameters():
            parameter.mul_(4)
    return objective


@pytest.mark.parametrize("joint", [False, True])
@torch.no_grad()
def test_losses_pair_by_pair(objective, batch, joint):
    """Each hidden place alone, with the other modality whole (or, jointly, hidden too)."""
    objective.joint_masking = joint
    sums = objective(batch)
    targets = objective.visual_tokens(batch.images)
    expected = {"mlm": 0.0, "mim": 0.0, "mlm_correct": 0, "mim_correct": 0}
    for row in range(6):
        length = int((~batch.padding[row]).sum())
        image = normalized_pixels(batch.images[row : row + 1])
        text = batch.tokens[row : row + 1, :length]
        hidden = text.clone()
        hidden[batch.token_mask[row : row + 1, :length]] = objective.mask_id
        seen = torch.zeros_like(text, dtype=torch.bool)
        mask = batch.image_mask[row : row + 1]
        about_text = objective.model(image, hidden, seen, mask if joint else None)[0]
        about_image = objective.model(image, hidden if joint else text, seen, mask)[0]
        for place in batch.token_mask[row].nonzero()[:, 0].tolist():
            logits = objective.mlm_head(about_text[1 + 16 + place])
            expected["mlm"] += float(-F.log_softmax(logits, 0)[batch.tokens[row, place]])
            expected["mlm_correct"] += int(logits.argmax() == batch.tokens[row, place])
        for place in mask[0].nonzero()[:, 0].tolist():
            logits = objective.mim_head(about_image[1 + place])
            expected["mim"] += float(-F.log_softmax(logits, 0)[targets[row, place]])
            expected["mim_correct"] += int(logits.argmax() == targets[row, place])
    assert sums.keys() == expected.keys()
    for name, value in expected.items():
        assert float(sums[name]) == pytest.approx(value, rel=1e-4), name
    assert objective.counts(batch) == {
        "mlm": int(batch.token_mask.sum()),
        "mim": int(batch.image_mask.sum()),
    }


def test_what_is_hidden_does_not_show(objective, batch):
    """Predictions do not change with the content of the hidden places; with seen ones they do."""

    def predictions(changed):
        seen = {}
        hooks = [
            head.register_forward_hook(lambda m, i, out, n=n: seen.update({n: out}))
            for n, head in (("mlm", objective.mlm_head), ("mim", objective.mim_head))
        ]
        with torch.no_grad():
            objective(changed)
        for hook in hooks:
            hook.remove()
        return seen

    before = predictions(batch)
    other_words = torch.where(batch.token_mask, batch.tokens + 1, batch.tokens)
    after = predictions(batch._replace(tokens=other_words))
    assert torch.equal(after["mlm"], before["mlm"])
    assert not torch.equal(after["mim"], before["mim"])  # told from the whole text

    pixels = batch.image_mask.view(-1, 1, 4, 4).repeat_interleave(4, 2).repeat_interleave(4, 3)
    other_patches = torch.where(pixels, 255 - batch.images, batch.images)
    after = predictions(batch._replace(images=other_patches))
    assert torch.equal(after["mim"], before["mim"])
    assert not torch.equal(after["mlm"], before["mlm"])  # told from the whole image

    objective.joint_masking = True
    before = predictions(batch)
    both = batch._replace(images=other_patches, tokens=other_words)
    after = predictions(both)
    assert torch.equal(after["mlm"], before["mlm"])
    assert torch.equal(after["mim"], before["mim"])


@pytest.mark.parametrize("joint", [False, True])
def test_every_parameter_gets_a_gradient(stage1, batch, joint):
    objective = stage1.objective(joint_masking=joint)
    sums = objective(batch)
    (sums["mlm"] + sums["mim"]).backward()
    assert [name for name, p in objective.named_parameters() if p.grad is None] == []


def test_nothing_hidden_gives_zero_with_gradient(objective, batch):
    nothing = batch._replace(
        token_mask=torch.zeros_like(batch.token_mask),
        image_mask=torch.zeros_like(batch.image_mask),
    )
    sums = objective(nothing)
    loss = sums["mlm"] + sums["mim"]
    assert float(loss.detach()) == 0.0
    loss.backward()
    assert all(not p.grad.any() for p in objective.parameters() if p.grad is not None)


def test_control_gives_texts_other_images(objective, batch):
    control = objective.control(batch)
    for row in range(6):
        assert torch.equal(control.images[row], batch.images[row - 1])
        assert torch.equal(control.image_mask[row], batch.image_mask[row - 1])
    assert torch.equal(control.tokens, batch.tokens)
    assert torch.equal(control.token_mask, batch.token_mask)


@torch.no_grad()
def test_alone_one_modality_is_all_there_is(objective, batch):
    """Each hidden place with the model of one modality; the other one may be anything."""
    sums = objective.alone(batch)
    expected = {"mlm": 0.0, "mim": 0.0}
    targets = objective.visual_tokens(batch.images)
    for row in range(6):
        text = batch.tokens[row : row + 1].clone()
        text[batch.token_mask[row : row + 1]] = objective.mask_id
        about_text = objective.model(tokens=text, padding=batch.padding[row : row + 1])[0]
        logits = objective.mlm_head(about_text[batch.token_mask[row]])
        words = batch.tokens[row][batch.token_mask[row]]
        expected["mlm"] += float(F.cross_entropy(logits, words, reduction="sum"))
        image = normalized_pixels(batch.images[row : row + 1])
        about_image = objective.model(image, image_mask=batch.image_mask[row : row + 1])[0, 1:]
        logits = objective.mim_head(about_image[batch.image_mask[row]])
        codes = targets[row][batch.image_mask[row]]
        expected["mim"] += float(F.cross_entropy(logits, codes, reduction="sum"))
    for term, value in expected.items():
        assert float(sums[term]) == pytest.approx(value, rel=1e-4), term
    other_images = objective.alone(batch._replace(images=255 - batch.images))
    assert torch.equal(other_images["mlm"], sums["mlm"])
    other_texts = objective.alone(batch._replace(tokens=batch.tokens.flip(0)))
    assert torch.equal(other_texts["mim"], sums["mim"])


def test_heads_start_as_beits(stage1):
    objective = stage1.objective(embed_dim=64)
    for head in (objective.mlm_head, objective.mim_head):
        assert not head.bias.any()
    weight = objective.mlm_head.weight  # 64 x 40: the deviation is known to 3 %
    assert weight.std().item() == pytest.approx(0.02, rel=0.1)
    assert abs(weight.mean().item()) < 0.002


def test_weight_decay_is_for_matrices(objective):
    spared = {name for name, p in objective.named_parameters() if not objective.is_decayed(name, p)}
    assert "mlm_head.weight" not in spared
    assert "model.beit3.encoder.layers.0.ffn.A.fc1.weight" not in spared
    assert "mim_head.bias" in spared
    assert "model.beit3.vision_embed.cls_token" in spared
    assert "model.beit3.vision_embed.mask_token" in spared
    assert "model.beit3.encoder.embed_positions.B.weight" in spared
    assert "model.beit3.encoder.layer_norm.A.weight" in spared


def test_the_visual_tokenizer_is_no_part(stage1, objective):
    class Frozen(nn.Module):
        vocab_size, grid, fingerprint = 3, 4, "x"

        def __init__(self):
            super().__init__()
            self.weight = nn.Parameter(torch.zeros(3))

    frozen = MaskedDataModelling(objective.model, Frozen(), 5)
    assert set(frozen.state_dict()) == set(objective.state_dict())
    assert frozen.description()["visual_tokens"] == "x"
    assert frozen.mim_head.out_features == 3


def test_heads_follow_the_seed(stage1):
    first, again, other = stage1.objective(), stage1.objective(), stage1.objective(seed=1)
    assert torch.equal(first.mlm_head.weight, again.mlm_head.weight)
    assert not torch.equal(first.mlm_head.weight, other.mlm_head.weight)
    assert not first.mlm_head.bias.any()


def test_rejects_what_does_not_go_together(objective, stage1):
    class Coarse:
        vocab_size, grid, fingerprint = 3, 2, "x"

    with pytest.raises(ValueError, match="'visual_tokens' needs the model's 4 x 4 patches"):
        MaskedDataModelling(objective.model, Coarse(), 5)
    with pytest.raises(ValueError, match="'mask_id' needs to be in"):
        MaskedDataModelling(objective.model, stage1.visual_tokens, stage1.tokenizer.vocab_size)
