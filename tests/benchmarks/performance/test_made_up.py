import pytest
import torch

from alignrec_pyg.graph import INTERACTS
from benchmarks.performance import made_up


def test_generated_links_have_the_shape_asked_for():
    shape = made_up.Shape(num_users=300, num_items=200, train=1500, val=330, test=340)
    train, val, test = made_up.generate_links(shape)
    assert train.shape == (2, 1500)
    assert val.shape == (2, 330)
    assert test.shape == (2, 340)
    links = torch.cat([train, val, test], dim=1)
    assert len(set(map(tuple, links.t().tolist()))) == 2170
    assert int(links.min()) >= 0
    assert links.amax(dim=1).tolist() <= [299, 199]
    assert int(torch.bincount(train[0], minlength=300).min()) >= 3
    for part in (val, test):
        assert int(torch.bincount(part[0], minlength=300).min()) >= 1
    by_item = torch.bincount(train[1], minlength=200).sort(descending=True).values
    assert int(by_item[:20].sum()) > 2 * 1500 * 20 / 200  # the top tenth has far more than a tenth
    for part, again in zip((train, val, test), made_up.generate_links(shape), strict=True):
        assert torch.equal(part, again)


@pytest.mark.parametrize(
    ("shape", "sizes"),
    [
        (made_up.BABY, (19_445, 7_050, 160_792)),
        (made_up.ELECTRONICS, (192_403, 63_001, 1_689_188)),
    ],
)
def test_shapes_are_those_of_the_papers_table_1(shape, sizes):
    users, items, *parts = shape
    assert (users, items, sum(parts)) == sizes
    shares = [part / sum(parts) for part in parts]
    assert shares == pytest.approx([0.7373, 0.1279, 0.1348], abs=1e-3)


def test_generated_links_refuse_an_impossible_shape():
    with pytest.raises(ValueError, match="'shape'"):
        made_up.generate_links(made_up.Shape(num_users=10, num_items=50, train=20, val=10, test=10))
    with pytest.raises(ValueError, match="'shape'"):
        made_up.generate_links(made_up.Shape(num_users=10, num_items=6, train=50, val=10, test=10))


def test_features_have_low_rank_structure():
    features = made_up.generate_features(200)
    assert features.shape == (200, 768)
    assert features.dtype == torch.float32
    spectrum = torch.linalg.svdvals(features - features.mean(dim=0))
    assert float(spectrum[31] / spectrum[33]) > 2
    assert torch.equal(made_up.generate_features(200), features)


def test_graphs_share_known_links_and_tables():
    shape = made_up.Shape(num_users=30, num_items=40, train=150, val=40, test=45)
    graphs = made_up.make_graphs(shape, {"image": 5, "text": 7})
    labels = [graph[INTERACTS].edge_label_index for graph in graphs]
    assert [part.size(1) for part in labels] == [150, 40, 45]
    for graph in graphs:
        assert graph[INTERACTS].edge_index is labels[0]
        assert (graph["user"].num_nodes, graph["item"].num_nodes) == (30, 40)
        assert graph["item"].x_image is graphs[0]["item"].x_image
        assert graph["item"].x_text.shape == (40, 7)
    assert not torch.equal(graphs[0]["item"].x_text[:, :5], graphs[0]["item"].x_image)
