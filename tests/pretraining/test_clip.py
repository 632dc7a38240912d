from __future__ import annotations

import io
import math
import os
import signal

import pytest
import torch
import torch.nn.functional as F
from PIL import Image

from alignrec_pyg import CheckpointError
from alignrec_pyg.encoders import CLIPEncoder, ItemContent
from alignrec_pyg.pretraining import CLIPFinetuneConfig, clip, contrastive_loss, finetune_clip
from alignrec_pyg.pretraining.clip import _find_pairs
from alignrec_pyg.storage import read_manifest, write_tensors
from alignrec_pyg.training.run import TrainingDivergedError
from alignrec_pyg.training.sampling import seeded_generator


@pytest.fixture
def encoder(tiny_clip):
    torch.manual_seed(0)
    return CLIPEncoder(tiny_clip)


def catalogue(count=16):
    """Each item has a pattern of its own and a text with words of its own."""
    generator = torch.Generator().manual_seed(0)
    coarse = torch.randint(256, (count, 3, 4, 4), dtype=torch.uint8, generator=generator)
    images = coarse.repeat_interleave(8, dim=2).repeat_interleave(8, dim=3)
    words = ["red", "green", "blue", "grey"], ["car", "sofa", "cup", "lamp"]
    texts = [f"a {words[0][number % 4]} {words[1][number // 4]}" for number in range(count)]
    return ItemContent(texts, list(images))


def small(**changes):
    base = {"lr": 1e-3, "batch_size": 8, "epochs": 2, "val_share": 0.25, "seed": 3}
    return CLIPFinetuneConfig(**(base | changes))


def weights(encoder):
    return {name: value.clone() for name, value in encoder.model.state_dict().items()}


def same(a, b):
    return a.keys() == b.keys() and all(torch.equal(a[name], b[name]) for name in a)


def test_loss_against_loops_and_open_clip():
    generator = torch.Generator().manual_seed(0)
    image, text = (F.normalize(torch.randn(5, 3, generator=generator)) for _ in range(2))
    total = 0.0
    for b in range(5):
        row = [math.exp(7.0 * float(image[b] @ text[c])) for c in range(5)]
        column = [math.exp(7.0 * float(image[c] @ text[b])) for c in range(5)]
        total -= math.log(row[b] / sum(row)) + math.log(column[b] / sum(column))
    assert contrastive_loss(image, text, 7.0).item() == pytest.approx(total / 10, abs=1e-6)
    open_clip = pytest.importorskip("open_clip", exc_type=ImportError)
    scale = torch.tensor(7.0)
    expected = open_clip.ClipLoss()(image, text, scale)
    torch.testing.assert_close(contrastive_loss(image, text, scale), expected)


def test_learns_which_text_belongs_to_which_image(encoder):
    result = finetune_clip(encoder, catalogue(4), small(epochs=40, val_share=0.0))
    assert result.history[0]["loss"] > 1.3  # ln 4 = 1.4 by chance
    assert result.history[-1]["loss"] < 0.1
    rows = encoder(catalogue(4))
    assert (rows[:, :16] @ rows[:, 16:].T).argmax(dim=1).tolist() == list(range(4))
    assert (result.num_train, result.num_val, result.best_epoch) == (4, 0, 40)
    assert not encoder.model.training


def test_one_step_is_adamw_by_hand(encoder, tiny_clip, tmp_path):
    """All pairs in one batch; decay of 0.2 for matrices, none for norms, biases, temperature."""
    write_tensors(tmp_path / "w.safetensors", encoder.model.state_dict())
    plain = CLIPEncoder(tiny_clip, tmp_path / "w.safetensors")
    items = catalogue()
    image = plain.model.encode_image(plain.pixels(items.image), normalize=True)
    text = plain.model.encode_text(plain.tokens(items.text), normalize=True)
    scale = plain.model.logit_scale.exp()
    before = weights(plain)
    loss = contrastive_loss(image, text, scale)
    loss.backward()
    config = small(epochs=1, batch_size=16, val_share=0.0, warmup=1.0, weight_decay=0.2)
    result = finetune_clip(encoder, items, config)
    assert result.history[0]["loss"] == pytest.approx(loss.item(), abs=1e-5)
    decayed = 0
    for name, parameter in plain.model.named_parameters():
        keep = 1.0
        if parameter.dim() > 1:
            keep, decayed = 1 - 1e-3 * 0.2, decayed + 1
        gradient = parameter.grad
        step = 1e-3 * gradient / (gradient.abs() + 1e-6)  # Adam's first step
        expected = before[name] * keep - step
        found = dict(encoder.model.named_parameters())[name]
        sure = gradient.abs() > 1e-4  # where the gradient's rounding does not decide the step
        torch.testing.assert_close(found[sure], expected[sure], atol=2e-5, rtol=0)
    assert decayed > 10
    unused = plain.model.token_embedding.weight.grad.abs().sum(dim=1) == 0
    found = encoder.model.token_embedding.weight[unused]
    expected = before["token_embedding.weight"][unused] * (1 - 1e-3 * 0.2)
    torch.testing.assert_close(found, expected)


def test_training_equals_a_plain_loop(encoder, tiny_clip, tmp_path):
    """Two epochs of two batches each, in orders of their own: warm-up and half a cosine."""
    write_tensors(tmp_path / "w.safetensors", encoder.model.state_dict())
    plain, items = CLIPEncoder(tiny_clip, tmp_path / "w.safetensors"), catalogue()
    plain.model.train()
    config = small(val_share=0.0, warmup=0.5, betas=(0.8, 0.9), eps=1e-3)
    finetune_clip(encoder, items, config)
    matrices = [parameter for parameter in plain.model.parameters() if parameter.dim() > 1]
    others = [parameter for parameter in plain.model.parameters() if parameter.dim() < 2]
    optimizer = torch.optim.AdamW(
        [{"params": matrices}, {"params": others, "weight_decay": 0.0}],
        betas=(0.8, 0.9), eps=1e-3, weight_decay=0.2,
    )  # fmt: skip
    rates = iter([0.5, 1.0, 1.0, 0.5])
    for epoch in (0, 1):
        order = torch.randperm(16, generator=seeded_generator(3, clip._ORDER, epoch))
        for numbers in order.split(8):
            batch = items.select(numbers.tolist())
            image = plain.model.encode_image(plain.pixels(batch.image), normalize=True)
            text = plain.model.encode_text(plain.tokens(batch.text), normalize=True)
            optimizer.zero_grad()
            contrastive_loss(image, text, plain.model.logit_scale.exp()).backward()
            rate = 1e-3 * next(rates)
            for group in optimizer.param_groups:
                group["lr"] = rate
            optimizer.step()
    torch.testing.assert_close(weights(encoder), weights(plain), rtol=1e-4, atol=1e-5)


def test_the_temperature_is_clamped(encoder):
    with torch.no_grad():
        encoder.model.logit_scale.fill_(9.0)
    result = finetune_clip(encoder, catalogue(), small(epochs=1))
    assert encoder.model.logit_scale.item() <= math.log(100) + 1e-6
    assert result.history[0]["logit_scale"] <= 100.01


def test_the_best_weights_on_validation_are_the_result(encoder, monkeypatch):
    snapshots = []

    def val_loss(tuning):
        snapshots.append(weights(encoder))
        return [3.0, 1.0, 1.0, 2.0][len(snapshots) - 1]

    monkeypatch.setattr(clip._Finetuning, "_val_loss", val_loss)
    result = finetune_clip(encoder, catalogue(), small(epochs=4))
    assert result.best_epoch == 2
    assert same(weights(encoder), snapshots[1])
    assert not same(snapshots[1], snapshots[2])


def test_validation_is_the_loss_of_pairs_kept_aside(encoder, monkeypatch):
    texts = []
    real = CLIPEncoder.tokens
    monkeypatch.setattr(
        CLIPEncoder, "tokens", lambda self, given: (texts.append(given), real(self, given))[1]
    )
    items = catalogue()
    result = finetune_clip(encoder, items, small(lr=0.0, epochs=2))
    first, second = (texts[epoch * 3 : epoch * 3 + 2] for epoch in (0, 1))  # 6 + 6, then 4 aside
    assert [len(batch) for batch in texts] == [6, 6, 4] * 2
    assert texts[2] == texts[5]
    assert sorted(first[0] + first[1] + texts[2]) == sorted(items.text)
    assert sorted(first[0] + first[1]) == sorted(second[0] + second[1])
    assert first != second  # another order
    kept = [items.text.index(text) for text in texts[2]]
    rows = encoder(items.select(kept))
    expected = contrastive_loss(rows[:, :16], rows[:, 16:], encoder.model.logit_scale.exp())
    assert result.history[1]["val_loss"] == pytest.approx(expected.item(), abs=1e-5)
    assert (result.num_train, result.num_val) == (12, 4)


def test_the_same_seed_gives_the_same_bits_with_any_number_of_workers(encoder):
    first = weights(encoder)
    torch.manual_seed(5)
    results, ends = [], []
    for seed, num_workers in ((3, 0), (3, 2), (4, 0)):
        encoder.model.load_state_dict(first)
        state = torch.get_rng_state()
        results.append(
            finetune_clip(encoder, catalogue(), small(seed=seed), num_workers=num_workers).history
        )
        assert torch.equal(torch.get_rng_state(), state)
        ends.append(weights(encoder))
        torch.rand(1)
    assert same(ends[0], ends[1])
    assert results[0] == results[1]
    assert not same(ends[0], ends[2])


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_interrupted_run_continues_to_the_same_bits(encoder, tmp_path, number, monkeypatch):
    first = weights(encoder)
    whole = finetune_clip(encoder, catalogue(), small())
    end = weights(encoder)
    encoder.model.load_state_dict(first)
    calls = []
    real = CLIPEncoder.tokens

    def interrupted(self, texts):
        calls.append(1)
        if len(calls) == 4:  # the first batch of the second epoch, after validation of the first
            os.kill(os.getpid(), number)
        return real(self, texts)

    with monkeypatch.context() as patch:
        patch.setattr(CLIPEncoder, "tokens", interrupted)
        with pytest.raises((KeyboardInterrupt, SystemExit)):
            finetune_clip(encoder, catalogue(), small(), checkpoint_dir=tmp_path)
    state = read_manifest(tmp_path / "state.json")["state"]
    assert (state["epoch"], state["step"]) == (1, 1)
    encoder.model.load_state_dict(first)
    resumed = finetune_clip(encoder, catalogue(), small(), checkpoint_dir=tmp_path)
    assert resumed == whole
    assert same(weights(encoder), end)
    encoder.model.load_state_dict(first)  # a finished run is only read
    assert finetune_clip(encoder, catalogue(), small(), checkpoint_dir=tmp_path) == whole
    assert same(weights(encoder), end)


def test_a_crash_costs_no_more_than_since_the_last_save(encoder, tmp_path, monkeypatch):
    first = weights(encoder)
    finetune_clip(encoder, catalogue(), small())
    end = weights(encoder)
    encoder.model.load_state_dict(first)
    calls = []
    real = CLIPEncoder.tokens

    def crashing(self, texts):
        calls.append(1)
        if len(calls) == 2:
            raise OSError("gone")
        return real(self, texts)

    with monkeypatch.context() as patch:
        patch.setattr(CLIPEncoder, "tokens", crashing)
        with pytest.raises(OSError, match="gone"):
            finetune_clip(
                encoder, catalogue(), small(), checkpoint_dir=tmp_path, checkpoint_seconds=0
            )
    state = read_manifest(tmp_path / "state.json")["state"]
    assert (state["epoch"], state["step"]) == (0, 1)
    encoder.model.load_state_dict(first)
    finetune_clip(encoder, catalogue(), small(), checkpoint_dir=tmp_path)
    assert same(weights(encoder), end)


def test_another_run_is_refused(encoder, tmp_path):
    first = weights(encoder)
    finetune_clip(encoder, catalogue(), small(epochs=1), checkpoint_dir=tmp_path)
    with pytest.raises(CheckpointError, match=r"another run: .*\n  encoder"):  # weights moved on
        finetune_clip(encoder, catalogue(), small(epochs=1), checkpoint_dir=tmp_path)
    encoder.model.load_state_dict(first)
    for items, config in ((catalogue(), small(epochs=2)), (catalogue(15), small(epochs=1))):
        with pytest.raises(CheckpointError, match=r"another run: .*\n  (config|content)"):
            finetune_clip(encoder, items, config, checkpoint_dir=tmp_path)


def test_items_without_a_pair_and_broken_images_are_left_out(encoder, tmp_path):
    items = catalogue()
    (tmp_path / "cut.png").write_bytes(b"\x89PNG")
    items.image[2] = tmp_path / "cut.png"
    items.image[5] = None
    items.text[7] = "<br>"
    result = finetune_clip(encoder, items, small(epochs=1, val_share=0.0, max_failures=0.1))
    assert result.num_train == 13
    assert list(result.unreadable) == [2]
    with pytest.raises(ValueError, match="'max_failures' needs to be larger than 5.00%"):
        finetune_clip(encoder, items, small(epochs=1))
    with pytest.raises(ValueError, match=r"at least 4 items .*val_share=0.25 .got 3"):
        finetune_clip(encoder, catalogue(3), small(epochs=1))


def test_a_loss_that_is_not_finite_stops_the_run(encoder, tmp_path):
    with torch.no_grad():
        encoder.model.visual.proj.fill_(math.nan)
    with pytest.raises(TrainingDivergedError, match="the loss is not finite in epoch 1, after 0 "):
        finetune_clip(encoder, catalogue(), small(), checkpoint_dir=tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == [".alignrec.lock"]


def test_weights_that_are_not_finite_are_not_saved(encoder, tmp_path, monkeypatch):
    """The last batch's step may spoil them, which no loss tells any more."""

    def spoil(self):
        self.param_groups[0]["params"][0].data.fill_(math.nan)

    monkeypatch.setattr(torch.optim.AdamW, "step", spoil)
    config = small(epochs=1, val_share=0.0)
    with pytest.raises(TrainingDivergedError, match="is not finite in epoch 1, after 1"):
        finetune_clip(encoder, catalogue(2), config, checkpoint_dir=tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == [".alignrec.lock"]


def test_tuned_weights_load_as_any_others(encoder, tiny_clip, tmp_path):
    finetune_clip(encoder, catalogue(), small(epochs=1))
    write_tensors(tmp_path / "tuned.safetensors", encoder.model.state_dict())
    loaded = CLIPEncoder(tiny_clip, tmp_path / "tuned.safetensors")
    assert loaded.cache_key == encoder.cache_key
    assert torch.equal(loaded(catalogue()), encoder(catalogue()))


IMAGE = torch.zeros(3, 2, 2, dtype=torch.uint8)


def png(path, colour):
    Image.new("RGB", (2, 2), colour).save(path)
    return path


def test_items_with_both_and_why_not_the_others(tmp_path):
    red = png(tmp_path / "red.png", "red")
    images = [str(red), None, tmp_path / "gone.png", IMAGE, red.read_bytes(), red]
    texts = ["<b>red</b>", "no image", "gone", "zero", None, " "]
    pairs = _find_pairs(ItemContent(texts, images), map, max_failures=0.5)
    assert pairs.texts == ["red", "zero"]
    assert pairs.images[0] == red
    assert pairs.images[1] is IMAGE
    assert pairs.unreadable == {2: f"{tmp_path / 'gone.png'}: no such file"}
    with pytest.raises(ValueError, match="20.00%.*1 of 3 cannot be read .such as item 2: "):
        _find_pairs(ItemContent(texts, images), map, max_failures=0.2)


def test_content_follows_pixels_and_texts_not_files(tmp_path):
    def content(images, texts=("a", "b")):
        return _find_pairs(ItemContent(list(texts), images), map, max_failures=0).content

    red, again = png(tmp_path / "1.png", "red"), png(tmp_path / "2.bmp", "red")
    same = content([red, IMAGE])
    assert same == content([again, IMAGE])
    buffer = io.BytesIO(red.read_bytes())
    assert same == content([Image.open(buffer), IMAGE])
    assert same != content([IMAGE, red])
    assert same != content([red, IMAGE], ("a", "c"))
    assert same != content([red, IMAGE + 1])


def test_too_few():
    with pytest.raises(ValueError, match=r"at least two items with image and text .got 1"):
        _find_pairs(ItemContent(["a", None], [IMAGE, IMAGE]), map, max_failures=0)
    for items in (ItemContent(text=["a"]), ItemContent(image=[IMAGE])):
        with pytest.raises(ValueError, match="'items' needs texts and images"):
            _find_pairs(items, map, max_failures=0)
