"""Download of large files: resumable, verified and atomic."""

from __future__ import annotations

import re
import shutil
import time
from pathlib import Path
from urllib.parse import urlsplit

import pooch
import requests
from tqdm import tqdm

from alignrec_pyg.atomic import folder_lock, private_folder, publish

_CHUNK = 1 << 16  # maximum loss if the connection breaks
_SNIFF = 512
_TIMEOUT = (15, 60)  # seconds to connect, and between two chunks
_LOCK_SECONDS = 24 * 3600
_GZIP = b"\x1f\x8b"
_HTML = (b"<!doctype html", b"<html", b"<head")
_RANGE = re.compile(r"bytes (\d+)-\d+/(\d+|\*)")


def download(
    url: str,
    path: str | Path,
    *,
    sha256: str | None = None,
    attempts: int = 6,
    backoff: float = 1.0,
    lock_seconds: float = _LOCK_SECONDS,
) -> Path:
    """Downloads ``url`` to ``path``, unless the file exists.

    If the connection breaks or the process ends, the data remain in ``.alignrec-<name>.download``,
    and the next attempt requests the rest if the server still has the same file (``ETag`` or
    ``Last-Modified``). The file is renamed to ``path`` when it is complete according to the length
    that the server sends and to ``sha256``. Processes that download the same file wait for each
    other.

    Args:
        url: An http or https URL.
        path: Path of the file.
        sha256: Expected hash in hexadecimal, which is also checked for an existing file. By
            default, the hash of the downloaded file is logged.
        attempts: Number of consecutive attempts without progress before giving up.
        backoff: Seconds before the second attempt, doubled for each further one up to 60.
        lock_seconds: Time limit in seconds to wait for another process that downloads the file.

    Returns:
        ``path``.

    Raises:
        ValueError: If the hash differs; an existing file is not changed.
        LockedError: If another process still downloads the file after ``lock_seconds``.
        RuntimeError: If the download fails; the message explains how to do it manually.
    """
    path = Path(path)
    if urlsplit(url).scheme not in ("http", "https"):
        raise ValueError(f"'url' needs to begin with http:// or https:// (got {url!r})")
    if sha256 is not None and not re.fullmatch("[0-9a-fA-F]{64}", sha256):
        raise ValueError(f"'sha256' needs to be 64 hexadecimal digits (got {sha256!r})")
    if not _is_there(path, sha256):
        with folder_lock(path.parent, path.name, wait=lock_seconds):
            if not _is_there(path, sha256):
                _fetch(url, path, sha256, attempts, backoff)
    return path


def _is_there(path: Path, sha256: str | None) -> bool:
    if not path.exists():
        return False
    if sha256 is not None:
        got = pooch.file_hash(str(path))
        if got != sha256.lower():
            raise ValueError(
                f"{path} needs the SHA-256 {sha256.lower()} (got {got}): remove it to fetch it anew"
            )
    return True


def _fetch(url: str, path: Path, sha256: str | None, attempts: int, backoff: float) -> None:
    transfer = _Transfer(path, attempts, backoff)
    try:
        # pooch gives the file its name only if its hash is correct
        with private_folder(path) as private:
            pooch.retrieve(
                url,
                known_hash=None if sha256 is None else f"sha256:{sha256.lower()}",
                fname=path.name,
                path=private,
                downloader=transfer,
            )
            publish(private / path.name, path)
    except (OSError, _RefusedError) as error:
        raise RuntimeError(
            f"{url} could not be fetched ({error}). By hand: open the address in a browser, or "
            f"find the file's new place, save it as {path} and start again"
        ) from error
    except ValueError as error:
        raise ValueError(
            f"{url}: the file that came has another SHA-256 than {sha256}, and was removed "
            f"({error}). If the publisher has changed it, give the new hash"
        ) from error


class _RefusedError(RuntimeError):
    """A permanent failure."""


class _Transfer:
    """A downloader for pooch, which is called with a URL and the file to write."""

    def __init__(self, path: Path, attempts: int, backoff: float) -> None:
        self._name = path.name
        # Names of our own: a browser may have a "<name>.part" there.
        self._part = path.with_name(f".alignrec-{path.name}.download")
        self._tag = path.with_name(f".alignrec-{path.name}.download.tag")  # version of the part
        self._gzip = path.suffix == ".gz"
        self._attempts = attempts
        self._backoff = backoff

    def __call__(self, url: str, output_file: str, pooch: object) -> None:
        failures = 0
        with requests.Session() as session:
            while True:
                before = self._size()
                try:
                    self._continue(session, url)
                    break
                except requests.RequestException as error:
                    failures = 1 if self._size() > before else failures + 1
                    if failures >= self._attempts:
                        raise _RefusedError(
                            f"{failures} attempts failed, the last: {error}"
                        ) from error
                    time.sleep(min(60.0, self._backoff * 2 ** (failures - 1)))
        self._tag.unlink(missing_ok=True)
        self._part.replace(output_file)

    def _size(self) -> int:
        return self._part.stat().st_size if self._part.exists() else 0

    def _continue(self, session: requests.Session, url: str) -> None:
        headers = {"Accept-Encoding": "identity"}
        have = self._size()
        tag = self._tag.read_text() if self._tag.exists() else ""
        if have and tag:
            headers |= {"Range": f"bytes={have}-", "If-Range": tag}
        with session.get(url, headers=headers, stream=True, timeout=_TIMEOUT) as response:
            if response.status_code == 416:
                if response.headers.get("Content-Range") == f"bytes */{have}":
                    return  # the file was already complete
                self._tag.unlink(missing_ok=True)
                raise requests.ConnectionError("the server has no such rest of the file")
            if response.status_code in (408, 429) or response.status_code >= 500:
                raise requests.ConnectionError(f"the server answered {response.status_code}")
            if response.status_code not in (200, 206):
                raise _RefusedError(f"the server answered {response.status_code} {response.reason}")
            start, total = _extent(response, have)
            self._check_space(start, total)
            tag = response.headers.get("ETag", "W/")
            if tag.startswith("W/"):  # weak tags may be equal for different bytes
                tag = response.headers.get("Last-Modified", "")
            self._tag.write_text(tag)
            with (
                self._part.open("ab" if start else "wb") as file,
                tqdm(
                    desc=self._name,
                    initial=start,
                    total=total,
                    unit="B",
                    unit_scale=True,
                    disable=None,  # no progress bar if the output is not a terminal
                ) as bar,
            ):
                for number, chunk in enumerate(response.iter_content(_CHUNK)):
                    if not start and number == 0:
                        self._check_beginning(response, chunk)
                    file.write(chunk)
                    bar.update(len(chunk))
        if total is not None and self._size() != total:
            raise requests.ConnectionError(f"{self._size():,} of {total:,} bytes arrived")

    def _check_beginning(self, response: requests.Response, chunk: bytes) -> None:
        kind = response.headers.get("Content-Type", "")
        beginning = chunk[:_SNIFF].lstrip().lower()
        if kind.startswith("text/html") or beginning.startswith(_HTML):
            raise _RefusedError(
                "a web page came instead of the file: a quota, a consent or a new place"
            )
        if self._gzip and not chunk.startswith(_GZIP):
            raise _RefusedError(f"what came is no gzip file, it begins with {chunk[:16]!r}")

    def _check_space(self, start: int, total: int | None) -> None:
        free = shutil.disk_usage(self._part.parent).free
        if total is not None and total - start > free:
            raise _RefusedError(
                f"{total - start:,} bytes are to come and {free:,} are free on the disk"
            )


def _extent(response: requests.Response, have: int) -> tuple[int, int | None]:
    """The position at which the response starts, and the size of the file, if known."""
    if response.status_code == 206:
        match = _RANGE.fullmatch(response.headers.get("Content-Range", ""))
        if match is None or int(match[1]) != have:
            got = response.headers.get("Content-Range")
            raise _RefusedError(f"the server sent another part than asked for ({got})")
        return have, None if match[2] == "*" else int(match[2])
    length = response.headers.get("Content-Length")
    return 0, int(length) if length and length.isdecimal() else None
