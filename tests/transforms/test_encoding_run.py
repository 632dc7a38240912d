from __future__ import annotations

import os
import random
import signal
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torch_geometric.data import HeteroData

from alignrec_pyg.encoders import PatchPCAEncoder, Precomputed, TfidfEncoder
from alignrec_pyg.storage import single_files
from alignrec_pyg.transforms import EncodeItems, content_reader, encoding_run

WORDS = [f"word{n % 7} word{n % 5} word{n % 3}" for n in range(30)]


class Encoder:
    """Rows that depend on every character and pixel; counts its calls."""

    modalities = ("text", "image")
    out_dim = 3

    def __init__(self, cache_key="1"):
        self.cache_key = cache_key
        self.calls = 0

    def __call__(self, items):
        self.calls += 1
        rows = torch.zeros(len(items), 3)
        for row, (text, image) in enumerate(zip(items.text, items.image, strict=True)):
            rows[row, 0] = sum(map(ord, text or "")) / 7
            if image is not None:
                rows[row, 1:] = torch.stack([image.float().mean(), image.float().std()])
        return rows


def catalogue(folder, count=20):
    """Items with a photo of a size of its own each, some without, one of them damaged."""
    rng = np.random.default_rng(0)
    data = HeteroData()
    data["item"].num_nodes = count
    data["item"].text = [None if n % 5 == 4 else f"text {n}" for n in range(count)]
    paths = []
    for n in range(count):
        path = Path(folder) / f"photo {n} ü.png"
        pixels = rng.integers(0, 256, size=(8 + n, 30 - n, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(path)
        paths.append(None if n % 7 == 6 else path)
    paths[3].write_bytes(paths[3].read_bytes()[:-50])
    data["item"].image = paths
    return data


@pytest.fixture
def data(tmp_path):
    folder = tmp_path / "photos"
    folder.mkdir()
    return catalogue(folder)


def encode(data, encoder, cache_dir, **options):
    transform = EncodeItems(
        encoder, "mm", batch_size=6, cache_dir=cache_dir, max_failures=0.1, **options
    )
    return transform(data)["item"].x_mm, transform.report


def test_a_finished_run_is_only_read(data, tmp_path):
    encoder = Encoder()
    first, report = encode(data, encoder, tmp_path / "cache")
    assert (encoder.calls, report.cached) == (4, 0)
    second, report = encode(data, encoder, tmp_path / "cache")
    assert (encoder.calls, report.cached) == (4, report.encoded)
    assert torch.equal(first, second)
    assert torch.equal(first, encode(data, Encoder(), None)[0])
    # the reasons are told again, though nothing was decoded
    assert [(f.item, f.reason) for f in report.failures] == [(3, "truncated")]


def test_a_key_that_hashes_all_weights_is_asked_for_once(data, tmp_path):
    asked = []

    class Heavy(Encoder):
        @property
        def cache_key(self):
            asked.append(1)
            return "heavy"

        @cache_key.setter
        def cache_key(self, value):
            pass

    encode(data, Heavy(), None)
    assert asked == []
    encode(data, Heavy(), tmp_path / "cache")
    assert asked == [1]


@pytest.mark.parametrize("num_workers", [0, 1, 4])
@pytest.mark.parametrize("cached", [False, True])
def test_the_number_of_workers_changes_nothing(data, tmp_path, num_workers, cached):
    table, report = encode(
        data, Encoder(), tmp_path / "cache" if cached else None, num_workers=num_workers
    )
    expected, expected_report = encode(data, Encoder(), None)
    assert torch.equal(table, expected)
    assert report == expected_report


@pytest.mark.parametrize("cached", [False, True])
def test_a_batch_of_large_images_is_encoded_in_blocks(data, tmp_path, monkeypatch, cached):
    cache_dir = tmp_path / "cache" if cached else None
    whole, blocks = Encoder(), Encoder()
    expected, _ = encode(data, whole, tmp_path / "whole")
    monkeypatch.setattr(content_reader, "MOST_BYTES", 6000)
    found, report = encode(data, blocks, cache_dir)
    assert torch.equal(found, expected)
    assert [failure.item for failure in report.failures] == [3]
    assert blocks.calls > whole.calls


def test_the_key_follows_content_encoder_and_code_not_names(data, tmp_path, monkeypatch):
    cache = tmp_path / "cache"

    def calls(encoder=None, data=data):
        encoder = encoder or Encoder()
        encode(data, encoder, cache)
        return encoder.calls

    assert calls() == 4
    assert calls() == 0
    assert calls(Encoder("2")) == 4
    moved = data["item"].image[0].rename(tmp_path / "moved.jpg")
    os.utime(moved, (1, 1))
    data["item"].image[0] = str(moved)
    assert calls() == 0
    data["item"].text[19] = "another"  # in the last batch only
    assert calls() == 1
    Image.new("RGB", (3, 3)).save(moved, "PNG")
    assert calls() == 1
    monkeypatch.setattr(encoding_run.PIL, "__version__", "0")
    assert calls() == 4
    monkeypatch.setattr(encoding_run, "_VERSION", "another")
    assert calls() == 4


def test_texts_are_keyed_as_the_encoder_sees_them(data, tmp_path):
    encoder = Encoder()
    encode(data, encoder, tmp_path / "cache")
    data["item"].text[0] = "  <b>text</b> 0\n"
    _, report = encode(data, encoder, tmp_path / "cache")
    assert encoder.calls == 4
    assert report.repairs == {"HTML removed": 1}


@pytest.mark.parametrize("share", [0.0, 0.5, 0.99])
def test_a_damaged_batch_is_encoded_again(data, tmp_path, share):
    encoder = Encoder()
    first, _ = encode(data, encoder, tmp_path / "cache")
    path = sorted((tmp_path / "cache").glob("*.safetensors"))[1]
    good = path.read_bytes()
    path.write_bytes(good[: int(len(good) * share)])
    with pytest.warns(UserWarning, match=r"rebuilding encoded items: .*is damaged"):
        second, _ = encode(data, encoder, tmp_path / "cache")
    assert torch.equal(first, second)
    assert encoder.calls == 5
    assert path.read_bytes() == good


def test_a_failed_batch_leaves_the_ones_before(data, tmp_path):
    class Failing(Encoder):
        def __call__(self, items):
            if self.calls == 2:
                raise OSError("the machine is gone")
            return super().__call__(items)

    with pytest.raises(OSError, match="gone"):
        encode(data, Failing(), tmp_path / "cache")
    encoder = Encoder()
    table, _ = encode(data, encoder, tmp_path / "cache")
    assert encoder.calls == 2
    assert torch.equal(table, encode(data, Encoder(), None)[0])


@pytest.mark.parametrize(
    ("number", "error"), [(signal.SIGINT, KeyboardInterrupt), (signal.SIGTERM, SystemExit)]
)
def test_a_signal_finishes_the_batch_first(data, tmp_path, number, error):
    class Interrupted(Encoder):
        def __call__(self, items):
            if self.calls == 1:
                os.kill(os.getpid(), number)
            return super().__call__(items)

    encoder = Interrupted()
    with pytest.raises(error):
        encode(data, encoder, tmp_path / "cache")
    assert encoder.calls == 2
    assert len(list((tmp_path / "cache").glob("*.json"))) == 2
    _, report = encode(data, Encoder(), tmp_path / "cache")
    assert report.cached > 0


def test_a_full_disk_is_told_and_leaves_whole_batches(data, tmp_path, monkeypatch):
    cache = tmp_path / "cache"
    encoder = Encoder()
    real = os.fsync

    def full(handle):
        if encoder.calls == 3:
            raise OSError(28, "No space left on device")
        real(handle)

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OSError, match="No space left"):
        encode(data, encoder, cache)
    assert len(list(cache.glob("*.json"))) == 2
    assert not list(cache.glob("*.part"))


def test_fitted_encoders_are_keyed_before_fitting(tmp_path, monkeypatch):
    data = HeteroData()
    data["item"].num_nodes = 30
    data["item"].text = list(WORDS)

    def run(encoder):
        transform = EncodeItems(encoder, "text", batch_size=8, cache_dir=tmp_path)
        return transform(data)["item"].x_text, transform.report

    fitted = TfidfEncoder(4)
    first, report = run(fitted)
    assert report.cached == 0
    fits = []
    real = TfidfEncoder.fit
    monkeypatch.setattr(TfidfEncoder, "fit", lambda *args: (fits.append(1), real(*args)))
    for encoder in (fitted, TfidfEncoder(4)):  # fitted or not
        again, report = run(encoder)
        assert torch.equal(first, again)
        assert report.cached == 30
    assert not fits
    run(TfidfEncoder(5))
    assert len(fits) == 1
    data["item"].text[29] += " other"  # all rows follow from all texts
    _, report = run(TfidfEncoder(4))
    assert report.cached == 0
    assert len(fits) == 2


def test_fitting_sees_what_can_be_read_and_reads_one_by_one(data, tmp_path):
    seen = []

    class Fitted(PatchPCAEncoder):
        def fit(self, items):
            seen.append(items.image)
            super().fit(items)

    encoder = Fitted(3, patch_size=4, patch_dim=4, image_size=8)
    table, _ = encode(data, encoder, tmp_path / "cache")
    (images,) = seen
    assert all(isinstance(image, Path) for image in images)  # nothing was decoded for it in advance
    assert data["item"].image[3] not in images
    missing = [n for n in range(20) if n % 7 == 6 or n == 3]
    assert (~table.any(dim=1)).nonzero()[:, 0].tolist() == missing
    again, _ = encode(data, Fitted(3, patch_size=4, patch_dim=4, image_size=8), tmp_path / "cache")
    assert torch.equal(table, again)
    assert len(seen) == 1


def test_precomputed_rows_by_id(tmp_path):
    data = HeteroData()
    data["item"].num_nodes = 3
    data["item"].id = np.array(["a", "b", "c"], dtype=object)
    encoder = Precomputed([[1.0], [2.0], [9.0]], ids=["c", "a", "zz"])
    transform = EncodeItems(encoder, "audio", batch_size=2, cache_dir=tmp_path)
    result = transform(data)
    assert result["item"].x_audio.tolist() == [[2.0], [0.0], [1.0]]
    assert result["item"].mask_audio.tolist() == [False, True, False]
    assert transform.report.zero_rows == 1
    assert transform(data)["item"].x_audio.tolist() == [[2.0], [0.0], [1.0]]
    assert transform.report.cached == 2
    del data["item"].id
    loud = EncodeItems(Precomputed([[1.0], [2.0], [3.0]]), "audio")
    assert loud(data)["item"].x_audio.tolist() == [[1.0], [2.0], [3.0]]
    assert "ATTENTION: features came without ids" in str(loud.report)


class Moments:
    """Counts the moments before and after calls; a process may kill itself at one of them."""

    def __init__(self):
        self.passed, self.kill_at = 0, None

    def around(self, function):
        def watched(*args, **kwargs):
            self._pass()
            result = function(*args, **kwargs)
            self._pass()
            return result

        return watched

    def _pass(self):
        self.passed += 1
        if self.passed == self.kill_at:
            os.kill(os.getpid(), signal.SIGKILL)


def test_killed_at_ten_moments_continues_to_the_same_bytes(data, tmp_path, fork, monkeypatch):
    """Moments around each reading of an image, call of the encoder, write, flush and rename."""
    moments = Moments()
    for owner, name in (
        (os, "fsync"), (Path, "replace"), (single_files, "save_file"),
        (content_reader, "read_image"), (Encoder, "__call__"),
    ):  # fmt: skip
        monkeypatch.setattr(owner, name, moments.around(getattr(owner, name)))
    whole, report = encode(data, Encoder(), tmp_path / "whole")
    numbers_of_batches = set()
    for moment in random.Random(0).sample(range(1, moments.passed + 1), 10):
        folder = tmp_path / str(moment)
        moments.passed, moments.kill_at = 0, moment
        killed = fork(lambda folder=folder: encode(data, Encoder(), folder))
        assert killed == [-signal.SIGKILL]
        moments.kill_at = None
        num_batches = len(list(folder.glob("*.json")))
        numbers_of_batches.add(num_batches)
        encoder = Encoder()
        resumed, resumed_report = encode(data, encoder, folder)
        assert encoder.calls == 4 - num_batches  # the next batch, not the first
        assert torch.equal(resumed, whole)
        assert resumed_report.failures == report.failures
    assert len(numbers_of_batches) >= 3


def test_several_processes_at_once(data, tmp_path, fork):
    folder = tmp_path / "several"
    assert fork(*3 * [lambda: encode(data, Encoder(), folder)]) == [0, 0, 0]
    encoder = Encoder()
    table, _ = encode(data, encoder, folder)
    assert encoder.calls == 0
    assert torch.equal(table, encode(data, Encoder(), None)[0])
    assert not list(folder.glob("*.part"))
