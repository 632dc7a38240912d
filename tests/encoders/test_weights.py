from __future__ import annotations

import argparse
import os

import pytest
import torch
from safetensors.torch import save_file

from alignrec_pyg.encoders.weights import released_tensors
from alignrec_pyg.storage import CheckpointError

TENSORS = {"a.weight": torch.arange(6.0).view(2, 3), "b": torch.tensor(7)}


@pytest.mark.parametrize("container", ["model", "module", "state_dict", None])
def test_tensors_and_the_command_line_beside_them(tmp_path, container):
    content = TENSORS
    if container:
        content = {container: TENSORS, "args": argparse.Namespace(lr=1e-3), "epoch": 3}
    torch.save(content, tmp_path / "weights.pth")
    found = released_tensors(tmp_path / "weights.pth")
    assert found.keys() == TENSORS.keys()
    assert torch.equal(found["a.weight"], TENSORS["a.weight"])
    assert found["b"].dtype == torch.float32


def test_a_path_in_the_command_line_is_read(tmp_path):
    torch.save({"model": TENSORS, "args": argparse.Namespace(out=tmp_path)}, tmp_path / "a.pth")
    assert released_tensors(tmp_path / "a.pth").keys() == TENSORS.keys()


def test_safetensors_and_half_precision(tmp_path):
    save_file({"a": TENSORS["a.weight"].half()}, tmp_path / "weights.safetensors")
    found = released_tensors(tmp_path / "weights.safetensors")
    assert torch.equal(found["a"], TENSORS["a.weight"])


class Code:
    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return os.mkdir, (self.path,)


def test_code_is_refused_and_not_run(tmp_path):
    torch.save({"model": Code(str(tmp_path / "was_run"))}, tmp_path / "weights.pth")
    with pytest.raises(CheckpointError, match="contains code, which is not executed") as refused:
        released_tensors(tmp_path / "weights.pth")
    assert "save its tensors alone" in str(refused.value)
    assert "download it again" not in str(refused.value)  # it would be the same
    assert not (tmp_path / "was_run").exists()


@pytest.mark.parametrize("name", ["weights.pth", "weights.safetensors"])
def test_damaged_or_missing_files_are_named(tmp_path, name):
    with pytest.raises(CheckpointError, match=f"{name} is missing"):
        released_tensors(tmp_path / name)
    for content in (b"", b"half a file"):
        (tmp_path / name).write_bytes(content)
        with pytest.raises(CheckpointError, match=f"{name} cannot be read as weights"):
            released_tensors(tmp_path / name)


@pytest.mark.parametrize("content", [[1, 2], {"model": {"a": 3}}, {}.keys()])
def test_other_content_is_refused(tmp_path, content):
    torch.save(
        content if not isinstance(content, type({}.keys())) else {"epoch": 1}, tmp_path / "w"
    )
    with pytest.raises(CheckpointError, match="needs to hold tensors by name"):
        released_tensors(tmp_path / "w")
