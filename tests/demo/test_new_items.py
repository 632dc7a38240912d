import io

import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn

from alignrec_pyg import BPR
from alignrec_pyg.demo import new_items as adding
from alignrec_pyg.demo.new_items import NewItemAdder, rank_for_users, upload
from alignrec_pyg.demo.page_data import CannotShowError
from alignrec_pyg.encoders import PatchPCAEncoder, read_image
from alignrec_pyg.evaluation.ranking import embeddings, rank
from alignrec_pyg.graph import INTERACTS, feature_table, known_pairs
from alignrec_pyg.serving import add_items, new_items
from alignrec_pyg.transforms import ConcatFeatures, EncodeItems, KNNItemGraph


@pytest.fixture
def adder(served):
    return NewItemAdder(served.model, served.data, served.encode, served.item_graphs)


def test_an_item_comes_in_as_add_items_takes_it(served, adder):
    image, text = served.data["item"].image[5], served.data["item"].text[5]
    new = adder.add(image, text)
    assert (new.used, new.notes, new.text, new.id) == (("image", "text"), (), text, 80)
    features = {"mm": feature_table(served.data, "mm")[5:6]}
    model, data = add_items(
        served.model,
        served.data,
        new_items([80], features=features),
        item_graphs=served.item_graphs,
    )
    pairs = zip(embeddings(new.model, new.data), embeddings(model, data), strict=True)
    for ours, expected in pairs:
        torch.testing.assert_close(ours, expected, atol=1e-5, rtol=1e-4)
    assert new.model.num_items == 81
    assert served.model.num_items == 80  # stays as it was


@pytest.mark.parametrize(("part", "zero"), [("image", slice(8, 16)), ("text", slice(0, 8))])
def test_image_alone_and_text_alone(served, adder, part, zero):
    content = {"image": None, "text": None, part: served.data["item"][part][5]}
    new = adder.add(**content)
    assert (new.used, new.notes) == ((part,), ())
    row = feature_table(new.data, "mm")[80]
    assert not row[zero].any()
    assert row.any()
    assert (new.poster is None) == (part == "text")


def test_what_tells_nothing_is_said(served, adder):
    image = served.data["item"].image[5]
    new = adder.add(image, "qqq www")
    assert new.used == ("image",)
    assert new.notes == ("The text was not used: the encoder knows none of its words.",)
    for image, text, reason in (
        (None, None, "Give an image or a text."),
        (None, "  <br> ", "Give an image or a text."),
        (None, "qqq www", "knows none of its words. The item therefore"),
        (b"nothing", "words", "The image cannot be read: no JPEG"),
        (b"\x89PNG\r\n\x1a\n broken", None, "The image cannot be read: "),
        ("no/such/file.png", None, "The image cannot be read: no such file."),
    ):
        with pytest.raises(CannotShowError, match=reason):
            adder.add(image, text)


def test_images_of_any_size_but_huge(adder):
    assert adder.add(Image.new("L", (1, 700)), None).used == ("image",)
    huge = np.broadcast_to(np.zeros(1, dtype=np.uint8), (9_000, 9_000))
    with pytest.raises(CannotShowError, match="cannot be read: 9,000 x 9,000 pixels, more than"):
        adder.add(huge, None)


def test_encoders_of_texts_only(served):
    encode = [served.encode[0]]
    data, graph = served.data, KNNItemGraph("text", k=5)
    data = graph(data)
    model = type(served.model)(data, features=["text"], item_graph="text")
    adder = NewItemAdder(model, data, encode, [graph])
    assert adder.reads == ("text",)
    text, image = data["item"].text[0], data["item"].image[0]
    new = adder.add(image, text)
    assert new.used == ("text",)
    assert new.notes == ("The image was not used: this model does not use images.",)
    with pytest.raises(CannotShowError, match=r"Give a text\."):
        adder.add(None, None)


@pytest.mark.parametrize(
    ("ids", "expected"),
    [(None, 80), (range(10, 90), 90), ([f"m{n}" for n in range(79)] + ["new"], "new item")],
)
def test_a_new_item_has_an_id_that_no_other_has(served, ids, expected):
    data = served.data.clone()
    del data["item"]["id"]
    if ids is not None:
        data["item"].id = np.array(list(ids), dtype=None if expected == 90 else object)
    model = type(served.model)(data, features=["mm"], item_graph="mm")
    adder = NewItemAdder(model, data, served.encode, served.item_graphs)
    assert adder.add(None, data["item"].text[0]).id == expected


def test_models_of_ids_join_by_their_neighbours(served):
    model = BPR(served.data, embedding_dim=4)
    adder = NewItemAdder(model, served.data, served.encode, served.item_graphs, "neighbors")
    new = adder.add(served.data["item"].image[0], None)
    assert embeddings(new.model, new.data)[1][80].any()


def test_arguments_that_do_not_fit_are_told_before_the_page_is_there(served):
    model, data, encode, graphs = served.model, served.data, served.encode, served.item_graphs
    learning = EncodeItems(encode[0].encoder, "text")
    for given, item_graphs, reason in (
        ([learning, *encode[1:]], graphs, "'encode' needs fit=False: EncodeItems"),
        ([ConcatFeatures(["image", "text"])], graphs, "'encode' needs an EncodeItems"),
        (
            [EncodeItems(encode[0].encoder, "plot", fit=False)],
            graphs,
            r"also computes \[.plot",
        ),
        (encode, [], "'item_graphs' needs the KNNItemGraph"),
        (encode, [KNNItemGraph("mm", k=7)], "'graph' needs the arguments"),
    ):
        with pytest.raises(ValueError, match=reason):
            NewItemAdder(model, data, given, item_graphs)
    with pytest.raises(ValueError, match="BPR scores items by their ID vectors only"):
        NewItemAdder(BPR(data), data, encode, graphs)


@pytest.mark.parametrize("block", [1, 1 << 22])
def test_ranks_are_those_of_the_rankings(served, monkeypatch, block):
    monkeypatch.setattr(adding, "_BLOCK_SCORES", block)  # a user at a time, or all at once
    model, data = served.model, served.data
    known = torch.cat([data[INTERACTS].edge_index, known_pairs(data)], dim=1)
    item = 7
    rank_of, blank, left = rank_for_users(embeddings(model, data), data, item)
    user_x, item_x = embeddings(model, data)
    scores = user_x @ item_x.T
    users = torch.arange(model.num_users)
    ranking = rank(model, data, model.num_items, users, exclude_known_pairs=True).item
    checked = 0
    for user in range(model.num_users):
        mine = known[1, known[0] == user]
        assert int(left[user]) == model.num_items - mine.numel()
        others = [n for n in range(model.num_items) if n != item and n not in mine]
        assert int(blank[user]) == 1 + int((scores[user, others] > 0).sum())
        if item not in mine:
            assert int(ranking[user, int(rank_of[user]) - 1]) == item
            checked += 1
    assert 10 < checked < model.num_users


def test_a_known_link_twice_counts_once(toy):
    edges = toy[INTERACTS].edge_index  # user 0 knows items 0 and 1
    toy[INTERACTS].edge_index = torch.cat([edges, edges[:, :1]], dim=1)
    model = BPR(toy, embedding_dim=1)
    model.user_embedding.weight = nn.Parameter(torch.ones(3, 1))
    model.item_embedding.weight = nn.Parameter(torch.tensor([[4.0], [3.0], [2.0], [1.0]]))
    rank_of, blank, left = rank_for_users(embeddings(model, toy), toy, 3)
    assert rank_of.tolist() == [2, 2, 4]  # of user 1 among 0 and 3; user 2 knows it
    assert left.tolist() == [2, 2, 3]
    assert blank.tolist() == [2, 2, 4]  # behind all others, which have positive scores


def jpeg(pixels, **options):
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, "JPEG", **options)
    return file.getvalue()


def test_large_pictures_are_scaled_down_first():
    y, x = np.mgrid[0:220, 0:2200]
    pixels = np.stack([x * 255 // 2200, y * 255 // 220, 0 * x], axis=2).astype(np.uint8)
    turned = Image.Exif()
    turned[0x0112] = 6  # its right side is the top
    expected = np.asarray(Image.fromarray(pixels).resize((1024, 102))).astype(float)
    for given in (pixels, jpeg(pixels), Image.fromarray(pixels)):
        found = upload(given).permute(1, 2, 0).numpy()
        assert found.shape == (102, 1024, 3)
        assert np.abs(found - expected).mean() < 2
    assert upload(jpeg(pixels, exif=turned)).shape == (3, 1024, 102)
    small = pixels[:40, :30]
    assert torch.equal(upload(small), torch.from_numpy(small).permute(2, 0, 1))
    assert upload(None) is None


def test_the_size_in_a_file_is_believed_before_it_is_decoded(monkeypatch):
    monkeypatch.setattr(adding, "MAX_PIXELS", 100)
    monkeypatch.setattr(read_image, "__kwdefaults__", {"max_pixels": 100})
    with pytest.raises(CannotShowError, match=r"cannot be read: 20 x 10 pixels, more than 100"):
        upload(jpeg(np.zeros((20, 10, 3), np.uint8)))


def test_an_encoder_that_takes_no_such_picture_is_a_sentence(served):
    data = served.data.clone()
    encoder = PatchPCAEncoder(8)  # of pictures of one size
    data = EncodeItems(encoder, "image")(data)
    data = served.encode[2](data)
    encode = [served.encode[0], EncodeItems(encoder, "image", fit=False), served.encode[2]]
    adder = NewItemAdder(served.model, data, encode, served.item_graphs)
    with pytest.raises(CannotShowError, match="The features of the item cannot be made: 'image'"):
        adder.add(np.zeros((24, 24, 3), np.uint8), None)
