import fnmatch
import pickle
import shutil
from pathlib import Path
from types import SimpleNamespace
from unittest.mock import create_autospec

import pytest
import torch

from alignrec_pyg import BPR, VBPR, AlignRec, CheckpointError
from alignrec_pyg.serving import from_hub, push_to_hub

huggingface_hub = pytest.importorskip("huggingface_hub")


@pytest.fixture
def hub(tmp_path, monkeypatch):
    """A folder in the hub's place; calls are held against the signatures of the real one."""
    root = tmp_path / "hub"
    calls = []

    def matching(folder, patterns):
        return [p for p in folder.iterdir() if any(fnmatch.fnmatch(p.name, q) for q in patterns)]

    def create_repo(repo_id, *, private, exist_ok):
        calls.append(("create", repo_id, private, exist_ok))
        (root / repo_id).mkdir(parents=True, exist_ok=True)

    def upload_folder(
        *, repo_id, folder_path, revision, commit_message, allow_patterns, delete_patterns
    ):
        calls.append(("upload", repo_id, revision, commit_message))
        new = matching(Path(folder_path), allow_patterns)
        for old in matching(root / repo_id, delete_patterns):
            if old.name not in {p.name for p in new}:
                old.unlink()
        for path in new:
            shutil.copy(path, root / repo_id)
        return SimpleNamespace(commit_url=f"hub/{repo_id}/1")

    def snapshot_download(repo_id, *, revision, token, allow_patterns, cache_dir=None):
        calls.append(("download", repo_id, revision, token))
        target = tmp_path / "cache" / repo_id
        shutil.rmtree(target, ignore_errors=True)
        target.mkdir(parents=True)
        for path in matching(root / repo_id, allow_patterns):
            shutil.copy(path, target)
        return str(target)

    api = create_autospec(huggingface_hub.HfApi, instance=True)
    api.create_repo.side_effect = create_repo
    api.upload_folder.side_effect = upload_folder
    download = create_autospec(huggingface_hub.snapshot_download, side_effect=snapshot_download)
    monkeypatch.setattr(
        huggingface_hub, "HfApi", create_autospec(huggingface_hub.HfApi, return_value=api)
    )
    monkeypatch.setattr(huggingface_hub, "snapshot_download", download)
    return SimpleNamespace(root=root, cache=tmp_path / "cache", calls=calls)


@pytest.mark.parametrize("model_cls", [AlignRec, VBPR])
def test_a_model_comes_back_as_it_was(model_cls, toy, hub):
    model = model_cls(toy, embedding_dim=5).eval()
    assert push_to_hub(model, "me/rec", message="First") == "hub/me/rec/1"
    loaded = from_hub(model_cls, "me/rec", toy, revision="abc")
    assert loaded.hparams == model.hparams
    for a, b in zip(model(toy), loaded(toy), strict=True):
        assert torch.equal(a, b)
    assert hub.calls == [
        ("create", "me/rec", True, True),
        ("download", "me/rec", None, None),
        ("upload", "me/rec", None, "First"),
        ("download", "me/rec", "abc", None),
    ]
    card = (hub.root / "me/rec/README.md").read_text()
    assert f'from_hub({model_cls.__name__}, "me/rec", train)' in card
    assert "- `embedding_dim`: `5`" in card


def test_an_upload_replaces_the_weights_before(toy, hub):
    for seed in (0, 1):
        torch.manual_seed(seed)
        model = BPR(toy)
        push_to_hub(model, "me/rec")
    assert len(list((hub.root / "me/rec").glob("*.safetensors"))) == 1
    loaded = from_hub(BPR, "me/rec", toy)
    assert torch.equal(loaded.user_embedding.weight, model.user_embedding.weight)


def test_an_upload_leaves_the_weights_of_somebody_else(toy, hub):
    repo = hub.root / "me/rec"
    repo.mkdir(parents=True)
    (repo / "config.json").write_text('{"architectures": []}')
    (repo / "model-00001-of-00002.safetensors").write_text("theirs")
    push_to_hub(BPR(toy), "me/rec")
    push_to_hub(BPR(toy), "me/rec")
    assert (repo / "model-00001-of-00002.safetensors").read_text() == "theirs"
    assert len(list(repo.glob("*.safetensors"))) == 2


def test_a_folder_uploaded_by_hand_may_hold_its_graph(toy, hub):
    model = BPR(toy)
    model.save_pretrained(hub.root / "me/rec", toy)
    loaded = from_hub(BPR, "me/rec", toy)
    assert torch.equal(loaded.user_embedding.weight, model.user_embedding.weight)


class Boom:
    def __reduce__(self):
        return (Path.touch, (Path("touched"),))


def test_pickles_are_neither_fetched_nor_read(toy, hub, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    repo = hub.root / "me/rec"
    repo.mkdir(parents=True)
    (repo / "pytorch_model.bin").write_bytes(pickle.dumps(Boom()))
    with pytest.raises(CheckpointError, match="me/rec has no model of alignrec_pyg .* pickles"):
        from_hub(BPR, "me/rec", toy)
    push_to_hub(BPR(toy), "me/rec")
    from_hub(BPR, "me/rec", toy)
    assert not (hub.cache / "me/rec/pytorch_model.bin").exists()
    (weights,) = repo.glob("*.safetensors")
    weights.write_bytes(pickle.dumps(Boom()))  # under another name
    with pytest.raises(CheckpointError, match="damaged or was replaced"):
        from_hub(BPR, "me/rec", toy)
    assert not Path("touched").exists()


def test_another_class_and_another_graph_are_refused(toy, hub):
    push_to_hub(BPR(toy), "me/rec")
    with pytest.raises(CheckpointError, match="holds a BPR, not a VBPR"):
        from_hub(VBPR, "me/rec", toy)
    toy["item"].id = toy["item"].id + 1
    with pytest.raises(CheckpointError, match="trained with other item ids"):
        from_hub(BPR, "me/rec", toy)
