import numpy as np
import pytest
import torch
from PIL import Image

from alignrec_pyg import BPR
from alignrec_pyg.demo.newcomers import Newcomers
from alignrec_pyg.demo.views import CannotShowError
from alignrec_pyg.evaluation.ranking import embeddings
from alignrec_pyg.graph import feature_table
from alignrec_pyg.serving import add_items, new_items
from alignrec_pyg.transforms import ConcatFeatures, EncodeItems, KNNItemGraph


@pytest.fixture
def newcomers(served):
    return Newcomers(served.model, served.data, served.encode, served.item_graphs)


def test_an_item_comes_in_as_add_items_takes_it(served, newcomers):
    image, text = served.data["item"].image[5], served.data["item"].text[5]
    new = newcomers.take_in(image, text)
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
def test_image_alone_and_text_alone(served, newcomers, part, zero):
    content = {"image": None, "text": None, part: served.data["item"][part][5]}
    new = newcomers.take_in(**content)
    assert (new.used, new.notes) == ((part,), ())
    row = feature_table(new.data, "mm")[80]
    assert not row[zero].any()
    assert row.any()
    assert (new.poster is None) == (part == "text")


def test_what_tells_nothing_is_said(served, newcomers):
    image = served.data["item"].image[5]
    new = newcomers.take_in(image, "qqq www")
    assert new.used == ("image",)
    assert new.notes == ("The text was not used: the encoder knows none of its words.",)
    for image, text, reason in (
        (None, None, "Give an image or a text."),
        (None, "  <br> ", "Give an image or a text."),
        (None, "qqq www", "knows none of its words. So nothing tells where"),
        (b"nothing", "words", "The image cannot be read: no JPEG"),
        (b"\x89PNG\r\n\x1a\n broken", None, "The image cannot be read: "),
        ("no/such/file.png", None, "The image cannot be read: no such file."),
    ):
        with pytest.raises(CannotShowError, match=reason):
            newcomers.take_in(image, text)


def test_images_of_any_size_but_huge(newcomers):
    assert newcomers.take_in(Image.new("L", (1, 700)), None).used == ("image",)
    huge = np.broadcast_to(np.zeros(1, dtype=np.uint8), (9_000, 9_000))
    with pytest.raises(CannotShowError, match="cannot be read: 9,000 x 9,000 pixels, more than"):
        newcomers.take_in(huge, None)


def test_encoders_of_texts_only(served):
    encode = [served.encode[0]]
    data, graph = served.data, KNNItemGraph("text", k=5)
    data = graph(data)
    model = type(served.model)(data, features=["text"], item_graph="text")
    newcomers = Newcomers(model, data, encode, [graph])
    assert newcomers.reads == ("text",)
    text, image = data["item"].text[0], data["item"].image[0]
    new = newcomers.take_in(image, text)
    assert new.used == ("text",)
    assert new.notes == ("The image was not used: this model does not read images.",)
    with pytest.raises(CannotShowError, match=r"Give a text\."):
        newcomers.take_in(None, None)


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
    newcomers = Newcomers(model, data, served.encode, served.item_graphs)
    assert newcomers.take_in(None, data["item"].text[0]).id == expected


def test_models_of_ids_join_by_their_neighbours(served):
    model = BPR(served.data, embedding_dim=4)
    newcomers = Newcomers(model, served.data, served.encode, served.item_graphs, "neighbors")
    new = newcomers.take_in(served.data["item"].image[0], None)
    assert embeddings(new.model, new.data)[1][80].any()


def test_arguments_that_do_not_fit_are_told_before_the_page_is_there(served):
    model, data, encode, graphs = served.model, served.data, served.encode, served.item_graphs
    learning = EncodeItems(encode[0].encoder, "text")
    for given, item_graphs, reason in (
        ([learning, *encode[1:]], graphs, "'encode' needs fit=False: EncodeItems"),
        ([ConcatFeatures(["image", "text"])], graphs, "'encode' needs an EncodeItems"),
        ([EncodeItems(encode[0].encoder, "plot", fit=False)], graphs, r"it makes \['plot'\] too"),
        (encode, [], "'item_graphs' needs the KNNItemGraph"),
        (encode, [KNNItemGraph("mm", k=7)], "'graph' needs the arguments"),
    ):
        with pytest.raises(ValueError, match=reason):
            Newcomers(model, data, given, item_graphs)
    with pytest.raises(ValueError, match="BPR tells items by their ID vectors only"):
        Newcomers(BPR(data), data, encode, graphs)
