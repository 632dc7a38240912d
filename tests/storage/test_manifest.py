from __future__ import annotations

import json

import pytest

from alignrec_pyg.storage import (
    CheckpointError,
    read_manifest,
    write_manifest,
)


def test_manifest_keeps_floats_to_the_last_bit(tmp_path):
    path = tmp_path / "m.json"
    manifest = {"loss": 0.1 + 0.2, "tiny": 5e-324, "history": [{"epoch": 1.0}]}
    write_manifest(path, manifest)
    assert read_manifest(path) == manifest


@pytest.mark.parametrize("content", ["", "{", "[1]", "[" * 200_000, "9" * 9_000])
def test_damaged_manifest_is_named(tmp_path, content):
    path = tmp_path / "m.json"
    path.write_text(content)
    with pytest.raises(CheckpointError, match=r"m\.json is damaged"):
        read_manifest(path)


def test_a_manifest_is_read_as_json_would_be(tmp_path):
    path = tmp_path / "m.json"
    write_manifest(path, {"pair": (1, 2), 10: "ten", 9: "nine", "name": "é"})
    assert read_manifest(path) == {"pair": [1, 2], "10": "ten", "9": "nine", "name": "é"}
    stored = json.loads(path.read_text(encoding="utf-8"))
    assert (stored["format_version"], stored["pair"]) == (2, [1, 2])


def test_any_bit_of_a_manifest_that_means_something_is_checked(tmp_path):
    """White space means nothing; a last digit may, and may not, give another number."""
    path = tmp_path / "m.json"
    write_manifest(path, {"lr": 0.25, "history": [{"recall@20": 0.1875}], "name": "BPR"})
    good = path.read_bytes()
    for at in range(len(good)):
        if good[at : at + 1].strip():
            path.write_bytes(good[:at] + bytes([good[at] ^ 1]) + good[at + 1 :])
            with pytest.raises(CheckpointError, match=r"m\.json is"):
                read_manifest(path)
    path.write_bytes(good.replace(b"0.1875", b"0.1876"))
    with pytest.raises(CheckpointError, match="is damaged or was edited"):
        read_manifest(path)
    path.write_text(json.dumps(json.loads(good)))  # the same, written in one line
    assert read_manifest(path)["lr"] == 0.25


def test_another_format_is_named(tmp_path):
    path = tmp_path / "m.json"
    write_manifest(path, {"lr": 1}, version=3)
    assert read_manifest(path, version=3) == {"lr": 1}
    with pytest.raises(CheckpointError, match="is of format 3, this version .* reads format 4"):
        read_manifest(path, version=4)
    path.write_text('{"lr": 1}')
    with pytest.raises(CheckpointError, match="an earlier format than this version"):
        read_manifest(path)


def test_a_manifest_of_something_else_is_named(tmp_path):
    write_manifest(tmp_path / "m.json", {"lr": 1})
    with pytest.raises(CheckpointError, match=r"holds something else \('run' is missing"):
        read_manifest(tmp_path / "m.json", {"lr": int, "run": dict})
    with pytest.raises(CheckpointError, match=r"\('lr' needs to be a dict, got int\)"):
        read_manifest(tmp_path / "m.json", {"lr": dict})
