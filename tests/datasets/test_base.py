import pandas as pd

from alignrec_pyg.datasets import InteractionDataset, Synthetic, from_frames


def test_every_dataset_has_data_and_report_and_says_its_size():
    frame = pd.DataFrame({"user": [1, 1, 2], "item": [5, 6, 5]})
    for dataset in (from_frames(frame), Synthetic(4, 6, 20, num_topics=2, image_size=4)):
        assert isinstance(dataset, InteractionDataset)
        assert dataset.report.interactions == dataset.data["user", "item"].edge_index.size(1)
    assert repr(from_frames(frame)) == "InteractionDataset(users=2, items=2, interactions=3)"


def test_user_nodes_come_first():
    frame = pd.DataFrame({"user": [1, 1, 2], "item": [5, 6, 5]})
    assert from_frames(frame).data.node_types == ["user", "item"]
