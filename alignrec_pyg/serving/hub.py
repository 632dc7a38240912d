"""Trained models on the Hugging Face hub, as safetensors and JSON files, which cannot run code."""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import TypeVar

from torch_geometric.data import HeteroData

from alignrec_pyg.checks import require_package
from alignrec_pyg.models import Recommender
from alignrec_pyg.storage import CheckpointError, files_of

ModelT = TypeVar("ModelT", bound=Recommender)

# A graph is among the files of those who upload a folder by other means.
_FILES = [
    "config.json",
    *(f"{name}-*.safetensors" for name in ("model", "fingerprints", "graph")),
]


def push_to_hub(
    model: Recommender,
    repo_id: str,
    *,
    private: bool = True,
    revision: str | None = None,
    token: str | None = None,
    message: str = "Upload model",
) -> str:
    """Uploads the files of ``save_pretrained`` and a model card that explains how to load them.

    The upload contains the weights, including trainable feature tables, a hash of the ids, and
    eight numbers for each item by which its features and neighbours are recognised. It contains
    neither interactions nor ids: the graph that the model was trained on is needed to load it.
    Weights of an earlier upload are deleted, other files are not.

    Args:
        model: A trained model.
        repo_id: ``"owner/name"``; the repository is created if it does not exist.
        private: Whether a newly created repository is private.
        revision: Branch to upload to (default: the main one).
        token: Access token (default: that of ``hf auth login``).
        message: Commit message.

    Returns:
        The URL of the commit.

    Raises:
        ImportError: If huggingface_hub is not installed.
        huggingface_hub.errors.HfHubHTTPError: If the hub refuses.
    """
    hub = require_package("huggingface_hub", "push_to_hub", "huggingface-hub", extra="serving")
    api = hub.HfApi(token=token)
    with tempfile.TemporaryDirectory() as folder:
        model.save_pretrained(folder)
        Path(folder, "README.md").write_text(_card(model, repo_id), encoding="utf-8")
        api.create_repo(repo_id, private=private, exist_ok=True)
        present = hub.snapshot_download(
            repo_id, revision=revision, token=token, allow_patterns=_FILES[:1]
        )
        try:
            earlier = list(files_of(Path(present, _FILES[0])))
        except CheckpointError:  # not known to be ours
            earlier = []
        commit = api.upload_folder(
            repo_id=repo_id,
            folder_path=folder,
            revision=revision,
            commit_message=message,
            allow_patterns=[*_FILES, "README.md"],
            delete_patterns=earlier,  # the weights of the upload before
        )
    return str(commit.commit_url)


def from_hub(
    model_class: type[ModelT],
    repo_id: str,
    data: HeteroData,
    *,
    revision: str | None = None,
    token: str | None = None,
    cache_dir: str | Path | None = None,
) -> ModelT:
    """Downloads a model and builds it on the graph that it was trained on.

    Only ``config.json`` and the ``.safetensors`` files of ``save_pretrained`` are downloaded, and
    the hashes of the latter are checked. Pickled weights (``.bin``, ``.pt``, ``.pth``) are neither
    downloaded nor read.

    Args:
        model_class: Class of the model.
        repo_id: ``"owner/name"``.
        data: The graph that the model was trained on.
        revision: Branch, tag or commit; only a commit always gives the same model.
        token: Access token (default: that of ``hf auth login``).
        cache_dir: Folder for downloads (default: the cache of the hub).

    Raises:
        ImportError: If huggingface_hub is not installed.
        CheckpointError: If the repository has no model of this package in safetensors, files are
            damaged, or the model was trained on another graph.
        huggingface_hub.errors.HfHubHTTPError: If the hub rejects the request, for example because
            the repository does not exist.
    """
    hub = require_package("huggingface_hub", "from_hub", "huggingface-hub", extra="serving")
    folder = Path(
        hub.snapshot_download(
            repo_id, revision=revision, token=token, cache_dir=cache_dir, allow_patterns=_FILES
        )
    )
    if not (folder / "config.json").is_file() or not any(folder.glob("model-*.safetensors")):
        raise CheckpointError(
            f"{repo_id} has no model of alignrec_pyg (config.json and model-*.safetensors): "
            "weights in other files, such as pickles, are not read, since they may run code"
        )
    return model_class.from_pretrained(folder, data)


def _card(model: Recommender, repo_id: str) -> str:
    name = type(model).__name__
    hparams = "\n".join(f"- `{key}`: `{value}`" for key, value in model.hparams.items())
    return f"""---
library_name: alignrec_pyg
tags: [recommender-system, multimodal, pytorch-geometric]
---

# {name}

{model.num_users:,} users, {model.num_items:,} items.

```python
from alignrec_pyg import {name}
from alignrec_pyg.serving import from_hub

model = from_hub({name}, "{repo_id}", train)  # train: the graph it was trained on
```

{hparams}
"""
