import pytest
import torch
from torch_geometric.data import HeteroData

from alignrec_pyg.transforms import EncodeItems, remove_rows, unused_rows
from tests.transforms.test_encoding_run import Encoder, catalogue, encode


@pytest.fixture
def data(tmp_path):
    folder = tmp_path / "photos"
    folder.mkdir()
    return catalogue(folder)


class Watched(Encoder):
    """Notes which texts it encodes."""

    def __init__(self):
        super().__init__()
        self.seen = []

    def __call__(self, items):
        self.seen += items.text
        return super().__call__(items)


def test_only_items_that_were_never_encoded_are_encoded(data, tmp_path):
    data["item"].text = [f"text {n}" for n in range(20)]
    expected, _ = encode(data, Watched(), tmp_path / "cache")
    order = [*range(19, -1, -1), 7, 20]  # reversed, one twice, one new
    other = HeteroData()
    other["item"].num_nodes = len(order)
    other["item"].text = [f"text {n}" for n in order]
    other["item"].image = [data["item"].image[n] if n < 20 else None for n in order]
    for batch_size, seen in ((4, ["text 20"]), (50, []), (1, [])):
        encoder = Watched()
        transform = EncodeItems(
            encoder, "mm", batch_size=batch_size, cache_dir=tmp_path / "cache", max_failures=0.2
        )
        table = transform(other)["item"].x_mm
        assert encoder.seen == seen
        assert transform.report.cached == 22 - len(seen)
        assert torch.equal(table[:21], expected[order[:21]])
        assert table[21].tolist() == pytest.approx([sum(map(ord, "text 20")) / 7, 0, 0])
        assert [f.item for f in transform.report.failures] == [order.index(3)]


def test_what_is_no_longer_needed_is_found_and_removed_alone(data, tmp_path):
    cache = tmp_path / "cache"
    _, report = encode(data, Encoder(), cache)
    assert unused_rows(cache, [report]).shards == ()
    own = cache / "encoded_notes.txt"
    own.write_text("mine")
    _, other = encode(data, Encoder("2"), cache)
    assert unused_rows(cache, [report, other]).shards == ()
    data["item"].text[19] = "another"
    _, changed = encode(data, Encoder(), cache)
    unused = unused_rows(cache, [changed])
    # of the first encoder all batches are read, for the items that stayed
    assert set(unused.shards) == other.shards
    sizes = [path.stat().st_size for name in other.shards for path in cache.glob(f"{name}*")]
    assert unused.num_bytes == sum(sizes) > 0
    remove_rows(cache, unused)
    assert own.read_text() == "mine"
    assert {path.stem for path in cache.glob("*.json")} == changed.shards
    assert len(list(cache.glob("*.safetensors"))) == len(changed.shards)
    encoder = Encoder()
    encode(data, encoder, cache)
    assert encoder.calls == 0
