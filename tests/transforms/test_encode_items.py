from __future__ import annotations

import io

import numpy as np
import pytest
import torch
from PIL import Image
from torch_geometric.data import HeteroData

from alignrec_pyg.encoders import ItemContent, TfidfEncoder
from alignrec_pyg.graph import INTERACTS
from alignrec_pyg.transforms import EncodeItems, KNNItemGraph


class Lengths:
    """Length of the text and mean of the image; notes what it is asked."""

    cache_key = "lengths"

    def __init__(self, modalities=("text", "image"), value=0.0):
        self.modalities = modalities
        self.out_dim = 2
        self.value = value
        self.batches = []

    def __call__(self, items):
        self.batches.append(len(items))
        rows = torch.full((len(items), self.out_dim), self.value)
        for row in range(len(items)):
            if items.text is not None and items.text[row]:
                rows[row, 0] += len(items.text[row])
            if items.image is not None and items.image[row] is not None:
                rows[row, 1] += items.image[row].float().mean()
        return rows


@pytest.fixture
def data():
    data = HeteroData()
    data["item"].num_nodes = 5
    data["item"].text = ["abc", None, "", "a", "ab"]
    data["item"].image = [None, torch.full((3, 2, 2), 7, dtype=torch.uint8), None, None, None]
    return data


def test_sets_rows_and_mask_in_batches(data):
    encoder = Lengths()
    result = EncodeItems(encoder, "mm", batch_size=3)(data)
    assert result["item"].x_mm.tolist() == [[3, 0], [0, 7], [0, 0], [1, 0], [2, 0]]
    assert result["item"].mask_mm.tolist() == [False, False, True, False, False]
    assert result["item"].x_mm.dtype == torch.float32
    assert encoder.batches == [3, 1]
    assert "x_mm" not in data["item"]


def test_features_come_to_the_device_of_the_links(data):
    data["user"].num_nodes = 1
    data[INTERACTS].edge_index = torch.zeros(2, 1, dtype=torch.int64, device="meta")
    encoded = EncodeItems(Lengths(), "mm")(data)
    assert encoded["item"].x_mm.is_meta
    assert encoded["item"].mask_mm.is_meta


def test_reads_only_what_the_encoder_asks_for(data):
    del data["item"].image
    result = EncodeItems(Lengths(("text",)), "text")(data)
    assert result["item"].mask_text.tolist() == [False, True, True, False, False]
    with pytest.raises(ValueError, match="'image' needs to be in"):
        EncodeItems(Lengths(), "mm")(data)


def test_fits_on_the_items_with_content():
    data = HeteroData()
    words = [f"word{n % 7} word{n % 5} word{n % 3}" for n in range(30)]
    data["item"].num_nodes = 32
    data["item"].text = [*words, None, " "]
    result = EncodeItems(TfidfEncoder(4), "text", batch_size=8)(data)
    expected = TfidfEncoder(4)
    expected.fit(ItemContent(text=words))
    torch.testing.assert_close(result["item"].x_text[:30], expected(ItemContent(text=words)))
    assert not result["item"].x_text[30:].any()
    assert result["item"].mask_text.tolist() == [False] * 30 + [True] * 2


def test_prints_nothing_without_a_terminal(data, capfd):
    EncodeItems(Lengths(), "mm", batch_size=1)(data)
    assert capfd.readouterr() == ("", "")


def test_content_that_does_not_fit(data):
    data["item"].text = ["too", "few"]
    with pytest.raises(ValueError, match="'text' needs one entry for each of the 5 items"):
        EncodeItems(Lengths(("text",)), "text")(data)
    data["item"].text = [None] * 5
    with pytest.raises(ValueError, match="needs items with text"):
        EncodeItems(Lengths(("text",)), "text")(data)


def test_a_text_that_is_none_is_named(data):
    data["item"].text[3] = ["a", "list"]
    with pytest.raises(ValueError, match="'text' of item 3: .*got list.*item_text"):
        EncodeItems(Lengths(("text",)), "text")(data)


def test_rows_that_do_not_fit(data):
    with pytest.raises(ValueError, match=r"finite rows.*items \[0, 1, 3, 4\]"):
        EncodeItems(Lengths(value=float("nan")), "mm")(data)
    encoder = Lengths()
    encoder.out_dim = 3
    encoder.__class__ = type("Narrow", (Lengths,), {"__call__": lambda self, items: torch.ones(1)})
    with pytest.raises(ValueError, match=r"rows of shape \(4, 3\) \(got \(1,\)\)"):
        EncodeItems(encoder, "mm")(data)


def png(size, form="PNG"):
    buffer = io.BytesIO()
    Image.fromarray(np.full((*size, 3), 7, dtype=np.uint8)).save(buffer, form)
    return buffer.getvalue()


def photos(folder):
    """Images of every kind, by row: path or source, and why it cannot be read."""
    (folder / "cut.jpg").write_bytes(png((64, 64), "JPEG")[:-200])
    (folder / "empty.jpg").touch()
    (folder / "text.jpg").write_text("not found")
    (folder / "good.png").write_bytes(png((3, 5)))
    return [
        (folder / "good.png", None),
        (str(folder / "good.png"), None),
        (png((1, 1)), None),
        (Image.new("CMYK", (2, 2)), None),
        (np.full((4, 6, 4), 7, dtype=np.uint8), None),
        (torch.full((3, 2, 2), 7, dtype=torch.uint8), None),
        (folder / "cut.jpg", "truncated"),
        (folder / "empty.jpg", "an empty file"),
        (folder / "text.jpg", "no JPEG, PNG, WEBP, GIF, BMP or TIFF image"),
        (folder / "gone.jpg", "no such file"),
        ("https://example.org/404.jpg", "a URL, not a file: download it first"),
        (7, "neither path, bytes, image, array, tensor nor function (int)"),
    ]


def test_every_kind_of_image_is_read_or_missing_with_its_reason(tmp_path):
    given = photos(tmp_path)
    data = HeteroData()
    data["item"].num_nodes = len(given) + 1
    data["item"].image = [image for image, _ in given] + [None]
    encode = EncodeItems(Lengths(("image",)), "image", batch_size=5, max_failures=0.5)
    result = encode(data)
    missing = [reason is not None for _, reason in given] + [True]
    assert result["item"].mask_image.tolist() == missing
    assert not result["item"].x_image[missing].any()
    report = encode.report
    assert [(failure.item, failure.reason) for failure in report.failures] == [
        (row, reason) for row, (_, reason) in enumerate(given) if reason is not None
    ]
    assert (report.items, report.encoded, report.present) == (13, 6, {"image": 12})
    assert "1 truncated (items 6)" in str(report)


def test_encoders_get_pixels_and_clean_texts(tmp_path):
    seen = []

    class Watching(Lengths):
        def __call__(self, items):
            seen.append(items)
            return super().__call__(items)

    data = HeteroData()
    data["item"].num_nodes = 3
    data["item"].image_path = [tmp_path / "good.png", None, None]
    (tmp_path / "good.png").write_bytes(png((3, 5)))
    data["item"].text = np.array(["a<br>b", float("nan"), "x" * 30_000], dtype=object)
    encode = EncodeItems(Watching(), "mm")
    encode(data)
    (items,) = seen
    assert items.text == ["a b", "x" * 20_000]
    assert items.image[0].shape == (3, 3, 5)
    assert items.image[0].dtype == torch.uint8
    assert items.image[1] is None
    assert encode.report.repairs == {"HTML removed": 1, "cut to the length limit": 1}


def test_an_item_keeps_what_can_be_read_of_it(tmp_path):
    data = HeteroData()
    data["item"].num_nodes = 2
    data["item"].image = [tmp_path / "gone.png", tmp_path / "gone.png"]
    data["item"].text = ["abc", None]
    result = EncodeItems(Lengths(), "mm", max_failures=1.0)(data)
    assert result["item"].x_mm.tolist() == [[3, 0], [0, 0]]
    assert result["item"].mask_mm.tolist() == [False, True]


def test_too_many_failures_stop_the_run_early(tmp_path):
    data = HeteroData()
    data["item"].num_nodes = 100
    data["item"].image = [png((2, 2))] * 20 + [tmp_path / "gone.png"] * 80
    encoder = Lengths(("image",))
    message = (
        r"larger than 50.00% for these 100 images: 55 or more .*55 no such file \(items 20, 21"
    )
    with pytest.raises(ValueError, match=message):
        EncodeItems(encoder, "image", batch_size=5, max_failures=0.5)(data)
    assert encoder.batches == [5, 5, 5, 5]
    EncodeItems(encoder, "image", max_failures=0.8)(data)
    data["item"].image = [png((2, 2))] * 95 + [tmp_path / "gone.png"] * 5
    assert int(EncodeItems(encoder, "image")(data)["item"].mask_image.sum()) == 5
    data["item"].image[0] = tmp_path / "gone.png"
    with pytest.raises(ValueError, match=r"larger than 5.00%"):
        EncodeItems(encoder, "image")(data)


def test_rows_of_zeros_are_missing(data):
    encode = EncodeItems(TfidfEncoder(1), "text")
    data["item"].text = ["red car", "blue car", "the of", "red boat", None]
    assert encode(data)["item"].mask_text.tolist() == [False, False, True, False, True]
    assert encode.report.zero_rows == 1


def test_one_and_many_at_a_time_rank_alike():
    generator = torch.Generator().manual_seed(0)
    words = [f"word{n}" for n in range(60)]
    data = HeteroData()
    data["item"].num_nodes = 200
    data["item"].text = [
        " ".join(words[n] for n in torch.randint(60, (8,), generator=generator)) for _ in range(200)
    ]
    one, many = (EncodeItems(TfidfEncoder(16), "text", batch_size=size)(data) for size in (1, 64))
    torch.testing.assert_close(one["item"].x_text, many["item"].x_text)
    edges = [
        {
            *map(
                tuple,
                KNNItemGraph("text", k=5)(table)["item", "knn_text", "item"].edge_index.T.tolist(),
            )
        }
        for table in (one, many)
    ]
    assert len(edges[0] & edges[1]) >= 0.99 * len(edges[0])


def test_rejects_arguments():
    with pytest.raises(ValueError, match="'batch_size'"):
        EncodeItems(Lengths(), "mm", batch_size=0)
    with pytest.raises(ValueError, match="'num_workers' needs to be 0 or more"):
        EncodeItems(Lengths(), "mm", num_workers=-1)
    with pytest.raises(ValueError, match=r"'max_failures' needs to be in .0, 1. .got 5"):
        EncodeItems(Lengths(), "mm", max_failures=5)
    with pytest.raises(ValueError, match="'name'"):
        EncodeItems(Lengths(), "")
    for modalities in (("sound",), ()):
        with pytest.raises(ValueError, match="modalities among"):
            EncodeItems(Lengths(modalities), "mm")


def test_repr():
    assert repr(EncodeItems(TfidfEncoder(4), "text")) == (
        "EncodeItems(TfidfEncoder(out_dim=4), name='text')"
    )


def test_later_items_are_encoded_by_what_was_learned_before(data, tmp_path):
    encoder = TfidfEncoder(2)
    data["item"].text = ["red boat", "blue boat", "red car", "blue car", "red boat"]
    rows = EncodeItems(encoder, "text")(data)["item"].x_text
    later = HeteroData()
    later["item"].num_nodes = 4
    later["item"].text = ["blue car", "red boat", "red car", "old boat"]
    learned = encoder.cache_key
    for _ in range(2):  # encoded, then read
        encode = EncodeItems(encoder, "text", fit=False, cache_dir=tmp_path)
        torch.testing.assert_close(encode(later)["item"].x_text[:2], rows[[3, 0]])
    assert encode.report.cached == 4
    assert encoder.cache_key == learned
    EncodeItems(encoder, "text", cache_dir=tmp_path)(later)
    assert encoder.cache_key != learned  # fitted anew


def test_later_items_may_all_lack_what_the_encoder_reads():
    encoder = TfidfEncoder(2)
    encoder.fit(ItemContent(text=["red boat", "blue boat", "red car", "blue car"]))
    later = HeteroData()
    later["item"].num_nodes = 2
    later["item"].text = [None, "unheard words"]
    encode = EncodeItems(encoder, "text", fit=False)
    encoded = encode(later)
    assert encoded["item"].mask_text.tolist() == [True, True]
    assert not encoded["item"].x_text.any()
    assert (encode.report.encoded, encode.report.zero_rows) == (0, 1)
