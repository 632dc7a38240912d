from __future__ import annotations

import pickle
import zipfile

import pytest

from alignrec_pyg.encoders import ImageError, images_by_id
from alignrec_pyg.encoders.image_files import ArchivedImage


@pytest.fixture
def archive(tmp_path):
    with zipfile.ZipFile(tmp_path / "images.zip", "w") as file:
        file.writestr("deep/7.jpg", b"seven")
        file.writestr("__MACOSX/._7.jpg", b"rubbish")
        file.writestr("4.PNG", b"four")
        file.writestr("notes.txt", b"no image")
    return tmp_path / "images.zip"


def test_files_of_a_folder(tmp_path):
    (tmp_path / "deep").mkdir()
    for name in ("1.jpg", "007.png", "deep/b.WEBP", "notes.txt", ".2.jpg"):
        (tmp_path / name).write_bytes(b"x")
    assert images_by_id(str(tmp_path)) == {
        "007": tmp_path / "007.png",
        "1": tmp_path / "1.jpg",
        "b": tmp_path / "deep" / "b.WEBP",
    }


def test_members_of_an_archive(archive):
    found = images_by_id(archive)
    assert set(found) == {"7", "4"}
    assert found["7"]() == b"seven"
    assert pickle.loads(pickle.dumps(found["4"]))() == b"four"
    assert repr(found["7"]) == "images.zip:deep/7.jpg"


def test_a_member_that_cannot_be_read(archive):
    with pytest.raises(ImageError, match=r"images.zip:missing.png cannot be read"):
        ArchivedImage(archive, "missing.png")()


def test_rejects(tmp_path):
    with pytest.raises(ValueError, match="needs to be a folder or a zip file"):
        images_by_id(tmp_path / "missing")
    (tmp_path / "half.zip").write_bytes(b"half")
    with pytest.raises(ValueError, match="needs to be a zip file"):
        images_by_id(tmp_path / "half.zip")
    for name in ("1.jpg", "1.png"):
        (tmp_path / name).write_bytes(b"x")
    with pytest.raises(ValueError, match="one image for an id .'1' has two"):
        images_by_id(tmp_path)
