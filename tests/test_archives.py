import tracemalloc
import zipfile

import pytest

from alignrec_pyg.archives import ArchiveError, KindError, open_archive, read_member

HEADER = b"PK\x01\x02\x14\x03\x14\x00"
CONTENT = b"picture" * 100


@pytest.fixture
def archive(tmp_path):
    path = tmp_path / "a.zip"
    with zipfile.ZipFile(path, "w") as file:
        file.writestr("plain.jpg", CONTENT)
        file.writestr("small.jpg", CONTENT, zipfile.ZIP_DEFLATED)
        file.writestr("bz.jpg", CONTENT, zipfile.ZIP_BZIP2)
    return path


def test_members_are_read_as_they_are(archive):
    with open_archive(archive) as file:
        assert read_member(file, "plain.jpg", 1000) == CONTENT
        assert read_member(file, "small.jpg", 700) == CONTENT
        with pytest.raises(ArchiveError, match="larger than 699 bytes"):
            read_member(file, "small.jpg", 699)
        with pytest.raises(ArchiveError, match="no item named"):
            read_member(file, "x.jpg", 1000)
        with pytest.raises(ArchiveError, match="compressed neither by deflate nor"):
            read_member(file, "bz.jpg", 1000)


def test_members_of_another_kind_are_refused(archive):
    with open_archive(archive) as file:
        assert read_member(file, "small.jpg", 700, (b"sound", b"pict")) == CONTENT
        with pytest.raises(KindError, match="begins as no file of the wanted kinds"):
            read_member(file, "small.jpg", 700, (b"sound", b"picturE"))


def test_a_member_that_holds_more_than_it_says_is_not_inflated(tmp_path):
    path = tmp_path / "bomb.zip"
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as file:
        file.writestr("a.jpg", bytes(50 * 2**20))
    whole = path.read_bytes()
    size = (50 * 2**20).to_bytes(4, "little")
    assert whole.count(size) == 2
    path.write_bytes(whole.replace(size, (1000).to_bytes(4, "little")))
    tracemalloc.start()
    with open_archive(path) as file, pytest.raises(ArchiveError, match="Bad CRC-32"):
        read_member(file, "a.jpg", 2000)
    assert tracemalloc.get_traced_memory()[1] < 2**20
    tracemalloc.stop()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda whole: whole.replace(b"picture", b"picturE"), "Bad CRC-32"),
        (lambda whole: whole.replace(HEADER + b"\0", HEADER + b"\1"), "encrypted"),
        (lambda whole: whole[:100] + b"\xff" * 20 + whole[120:], "Bad CRC-32"),
    ],
)  # fmt: skip
def test_damaged_and_encrypted_members_are_told(archive, change, message):
    archive.write_bytes(change(archive.read_bytes()))
    with open_archive(archive) as file, pytest.raises(ArchiveError, match=message):
        read_member(file, "plain.jpg", 1000)


@pytest.mark.parametrize("content", [b"", b"half", b"PK\x05\x06" + bytes(10)])
def test_what_is_no_archive_is_refused(tmp_path, content):
    (tmp_path / "a.zip").write_bytes(content)
    with pytest.raises(ArchiveError, match="a.zip needs to be a zip file"):
        open_archive(tmp_path / "a.zip")
    with pytest.raises(ArchiveError, match="b.zip needs to be a zip file"):
        open_archive(tmp_path / "b.zip")
