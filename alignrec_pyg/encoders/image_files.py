"""Images in files: of a folder or a zip archive, named by the ids of items."""

from __future__ import annotations

import os
from collections.abc import Iterable
from functools import lru_cache
from pathlib import Path
from zipfile import BadZipFile, ZipFile

from alignrec_pyg.encoders.images import ImageError, ImageSource

_IMAGES = (".jpg", ".jpeg", ".png", ".webp", ".gif", ".bmp", ".tif", ".tiff")
_LARGEST_IMAGE = 200_000_000  # bytes; an archive can claim anything


class ArchivedImage:
    """Fetches an image from a zip file; the file is opened once for each process.

    Args:
        archive: The zip file.
        name: Name of the image in it.
    """

    def __init__(self, archive: Path, name: str) -> None:
        self.archive = archive
        self.name = name

    def __call__(self) -> bytes:
        """Its bytes.

        Raises:
            ImageError: If they cannot be read.
        """
        try:
            archive = _opened(self.archive, os.getpid())
            if archive.getinfo(self.name).file_size > _LARGEST_IMAGE:
                raise ImageError(f"{self!r} is larger than {_LARGEST_IMAGE} bytes")
            return archive.read(self.name)
        except (BadZipFile, KeyError, OSError, RuntimeError, EOFError) as error:
            raise ImageError(f"{self!r} cannot be read ({error})") from error

    def __repr__(self) -> str:
        return f"{self.archive.name}:{self.name}"


def images_by_id(source: str | Path) -> dict[str, ImageSource]:
    """Images of a folder or zip file by the id they are named by.

    The id of ``shoes/7.jpg`` is ``"7"``. Files in any folder below count; those with another ending
    than an image's do not.

    Args:
        source: The folder or zip file, which is never unpacked.

    Raises:
        ValueError: If it is neither, or two images have one id.
    """
    source = Path(source)
    if source.suffix == ".zip" and source.is_file():
        try:
            names = sorted(_opened(source, os.getpid()).namelist())
        except BadZipFile as error:
            raise ValueError(f"'images' needs to be a zip file ({source}: {error})") from error
        return _unique((Path(name), ArchivedImage(source, name)) for name in names)
    if not source.is_dir():
        raise ValueError(f"'images' needs to be a folder or a zip file (got {source})")
    return _unique((path, path) for path in sorted(source.rglob("*")))


def _unique(images: Iterable[tuple[Path, ImageSource]]) -> dict[str, ImageSource]:
    found: dict[str, ImageSource] = {}
    for path, image in images:
        if path.suffix.lower() not in _IMAGES or path.name.startswith("."):
            continue
        if path.stem in found:
            raise ValueError(f"'images' needs one image for an id ({path.stem!r} has two)")
        found[path.stem] = image
    return found


@lru_cache(maxsize=8)
def _opened(archive: Path, process: int) -> ZipFile:
    """The archive; each process needs to have opened it itself."""
    return ZipFile(archive)
