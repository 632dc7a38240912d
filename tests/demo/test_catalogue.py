import base64
import io

import numpy as np
import pytest
import torch
from PIL import Image
from torch_geometric.data import HeteroData

from alignrec_pyg.demo.catalogue import Catalogue, ShownItem, poster_address


@pytest.fixture
def data():
    data = HeteroData()
    data["item"].num_nodes = 3
    data["item"].id = np.array(["a", "b", "c"], dtype=object)
    return data


def repr_short(address):
    kind, content = address.split(",")
    assert kind == "data:image/jpeg;base64"
    return Image.open(io.BytesIO(base64.b64decode(content)))


def test_titles_and_posters_by_number_and_by_id(data):
    catalogue = Catalogue(data, ["One", " ", None], [torch.zeros(3, 6, 4, dtype=torch.uint8)] * 3)
    assert catalogue.item(0).title == "One"
    assert [item.title for item in catalogue.items(np.array(["c", "b"], dtype=object))] == [
        "Item c",
        "Item b",
    ]
    assert catalogue.item(1).id == "b"
    assert repr_short(catalogue.item(0).poster).size == (4, 6)
    assert catalogue.item(2) is catalogue.item(2)  # made once
    assert Catalogue(data).item(0) == ShownItem("a", "Item a")


def test_images_of_the_data_are_taken_unless_others_are_given(data, poster):
    data["item"].image_path = [None, str(poster), str(poster.with_name("none.png"))]
    posters = [Catalogue(data).item(number).poster for number in range(3)]
    assert [entry is None for entry in posters] == [True, False, True]  # the last is no file
    assert Catalogue(data, images=[None] * 3).item(1).poster is None


def test_posters_are_small_and_keep_their_form():
    wide = torch.zeros(3, 600, 1200, dtype=torch.uint8)
    assert repr_short(poster_address(wide)).size == (240, 120)
    assert poster_address(None) is None
    assert poster_address(b"no image") is None


def test_the_form_of_posters_is_that_of_most(data):
    def images(*sizes):
        return [None if size is None else Image.new("RGB", size) for size in sizes]

    assert Catalogue(data, images=images(None, (20, 30), (20, 30))).aspect() == pytest.approx(2 / 3)
    assert Catalogue(data, images=images((30, 30), (20, 30), (90, 30))).aspect() == 1.0
    assert Catalogue(data, images=images((900, 10), None, None)).aspect() == 2.0  # at most
    assert Catalogue(data).aspect() == 1.0


def test_one_entry_for_each_item_is_needed(data):
    with pytest.raises(ValueError, match=r"'titles' needs one entry for each of the 3 .*got 2"):
        Catalogue(data, ["One", "Two"])
    with pytest.raises(ValueError, match=r"'images' needs one entry .*got 4"):
        Catalogue(data, images=[None] * 4)
