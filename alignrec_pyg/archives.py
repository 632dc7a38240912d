"""Members of zip files, which may be damaged, encrypted, or made to fill the memory."""

from __future__ import annotations

import zlib
from pathlib import Path
from zipfile import ZIP_DEFLATED, ZIP_STORED, BadZipFile, ZipFile

_DAMAGE = (
    BadZipFile,
    EOFError,
    KeyError,
    OSError,
    RuntimeError,  # a password, or a version that Python lacks
    ValueError,
    zlib.error,
)


class ArchiveError(ValueError):
    """A zip file or one of its members cannot be read."""


class KindError(ArchiveError):
    """A member of a zip file is of another kind than those wanted."""


def open_archive(path: Path) -> ZipFile:
    """Opens a zip file.

    Raises:
        ArchiveError: If it is missing, damaged or no zip file.
    """
    try:
        return ZipFile(path)
    except _DAMAGE as error:
        raise ArchiveError(f"{path} needs to be a zip file ({error})") from error


def read_member(
    archive: ZipFile, name: str, most_bytes: int, starts: tuple[bytes, ...] = (b"",)
) -> bytes:
    """Reads a member; never more than ``most_bytes`` bytes are decompressed.

    The size that a member declares need not be true: one that holds more counts as damaged. Of one
    that begins with none of ``starts`` only the first bytes are decompressed.

    Raises:
        KindError: If it begins with none of ``starts``.
        ArchiveError: If it is missing, damaged, encrypted, larger, or compressed in another way
            than Python can read.
    """
    try:
        info = archive.getinfo(name)
        size = info.file_size
        if info.compress_type not in (ZIP_STORED, ZIP_DEFLATED):  # Python cannot stop the others
            raise ArchiveError("compressed neither by deflate nor at all: pack it so")
        if size > most_bytes:
            raise ArchiveError(f"larger than {most_bytes:,} bytes")
        with archive.open(name) as member:
            start = member.read(min(size + 1, max(map(len, starts))))
            if not start.startswith(starts):
                raise KindError("it begins as no file of the wanted kinds does")
            # with a size, the inflating stops there; without, it would go on to the end
            content = start + member.read(size + 1 - len(start))
    except ArchiveError:
        raise
    except _DAMAGE as error:
        raise ArchiveError(str(error)) from error
    return content
