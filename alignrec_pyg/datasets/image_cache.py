"""Download of item images into a folder."""

from __future__ import annotations

import hashlib
import time
from collections import Counter
from collections.abc import Collection, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import urljoin, urlsplit

import requests
from torch_geometric.data import HeteroData
from tqdm import tqdm
from urllib3.util import parse_url

from alignrec_pyg.atomic import atomic_path
from alignrec_pyg.checks import check_integer, check_number
from alignrec_pyg.graph import ITEM
from alignrec_pyg.storage import write_text

AMAZON_IMAGE_HOSTS = (
    "ecx.images-amazon.com",
    "g-ecx.images-amazon.com",
    "images-na.ssl-images-amazon.com",
    "m.media-amazon.com",
)
"""Hosts of the images in the Amazon datasets."""

_REDIRECTS = 3
_CHUNK = 1 << 16
_SIGNATURES = (b"\xff\xd8\xff", b"\x89PNG\r\n\x1a\n", b"GIF87a", b"GIF89a")
_GONE = "the server answered "


@dataclass(frozen=True)
class FetchReport:
    """Result of a download of images.

    Args:
        items: Number of items.
        without_url: Number of items without a URL.
        cached: Number of images that were already in the folder.
        fetched: Number of downloaded images.
        failed: Number of failures for each reason.
        examples: The first URL that failed for each reason.
    """

    items: int
    without_url: int
    cached: int
    fetched: int
    failed: dict[str, int]
    examples: dict[str, str]

    def __str__(self) -> str:
        """The report as text."""
        lines = [
            f"images: {self.cached + self.fetched:,} of {self.items:,} items "
            f"({self.fetched:,} fetched, {self.cached:,} in the cache), "
            f"{self.without_url:,} have no address"
        ]
        for reason, count in sorted(self.failed.items(), key=lambda entry: -entry[1]):
            lines.append(f"  {count:,}: {reason} (such as {self.examples[reason]})")
        return "\n".join(lines)


def fetch_images(
    data: HeteroData,
    folder: str | Path,
    *,
    hosts: Collection[str] = AMAZON_IMAGE_HOSTS,
    timeout: float = 10.0,
    max_seconds: float = 60.0,
    max_bytes: int = 8 * 2**20,
    workers: int = 8,
    retry_failed: bool = False,
) -> FetchReport:
    """Downloads the images at ``data["item"].image_url`` and sets ``data["item"].image_path``.

    Each URL is requested once. Its image is stored in ``folder`` under the hash of the URL, and so
    is the reason of a permanent failure (such as status 404, no image, too large); temporary
    failures are retried at the next call. Only the given hosts are contacted, also after
    redirections. The path of an item whose image could not be downloaded is ``None``.

    Args:
        data: Graph whose items have ``image_url``, a list of URLs or ``None``.
        folder: Folder of the images.
        hosts: Hosts that may be contacted.
        timeout: Time limit in seconds to connect, and between two chunks.
        max_seconds: Time limit in seconds for one image.
        max_bytes: Maximum size of an image.
        workers: Number of parallel downloads.
        retry_failed: Whether to retry permanent failures.

    Raises:
        ValueError: If the items have no URLs, or an argument is out of range.
    """
    if "image_url" not in data[ITEM]:
        raise ValueError("'data' needs data['item'].image_url (it has none)")
    check_number("timeout", timeout, above=0)
    check_number("max_seconds", max_seconds, above=0)
    check_integer("max_bytes", max_bytes, 1)
    check_integer("workers", workers, 1)
    if isinstance(hosts, str) or not hosts:
        raise ValueError(f"'hosts' needs to be a list of host names (got {hosts!r})")
    urls: Sequence[str | None] = data[ITEM].image_url
    cache = Path(folder)
    cache.mkdir(parents=True, exist_ok=True)
    fetcher = _Fetcher(
        cache, frozenset(h.lower() for h in hosts), timeout, max_seconds, max_bytes, retry_failed
    )
    distinct = list(dict.fromkeys(url for url in urls if url))
    with ThreadPoolExecutor(workers) as pool:
        results = tqdm(
            pool.map(fetcher, distinct), desc="images", total=len(distinct), disable=None
        )
        try:
            outcome = dict(zip(distinct, results, strict=True))
        except BaseException:  # Ctrl-C: do not start the remaining downloads
            pool.shutdown(wait=False, cancel_futures=True)
            raise

    counts: Counter[str] = Counter()
    examples: dict[str, str] = {}
    paths: list[Path | None] = []
    for url in urls:
        path, how = outcome[url] if url else (None, "without_url")
        paths.append(path)
        counts[how] += 1
        if url and path is None:
            examples.setdefault(how, url)
    data[ITEM].image_path = paths
    return FetchReport(
        items=len(urls),
        without_url=counts["without_url"],
        cached=counts["cached"],
        fetched=counts["fetched"],
        failed={how: counts[how] for how in examples},
        examples=examples,
    )


class _NoImageError(Exception):
    """The reason of a failure; ``final`` if it is permanent."""

    def __init__(self, reason: str, *, final: bool) -> None:
        super().__init__(reason)
        self.final = final


@dataclass(frozen=True)
class _Fetcher:
    cache: Path
    hosts: frozenset[str]
    timeout: float
    max_seconds: float
    max_bytes: int
    retry_failed: bool

    def __call__(self, url: str) -> tuple[Path | None, str]:
        """Returns the file and ``"cached"`` or ``"fetched"``, or ``None`` and the reason."""
        key = hashlib.blake2b(url.encode("utf-8", "surrogatepass"), digest_size=16).hexdigest()
        path = self.cache / key[:2] / key
        reason = path.with_suffix(".none")
        if path.exists():
            return path, "cached"
        if reason.exists() and not self.retry_failed:
            return None, reason.read_text(encoding="utf-8")
        try:
            content = self._fetch(url)
        except _NoImageError as error:
            if error.final:
                write_text(reason, str(error))
            return None, str(error)
        except (requests.RequestException, ValueError) as error:  # ValueError: no URL at all
            return None, f"no answer ({type(error).__name__})"
        with atomic_path(path) as partial:
            partial.write_bytes(content)
        reason.unlink(missing_ok=True)
        return path, "fetched"

    def _fetch(self, url: str) -> bytes:
        until = time.monotonic() + self.max_seconds
        for _ in range(_REDIRECTS + 1):
            # the very address that is fetched; two parsers may read others differently
            url = requests.Request("GET", url).prepare().url or ""
            hosts = {urlsplit(url).hostname, parse_url(url).host}
            if urlsplit(url).scheme not in ("http", "https") or not hosts <= self.hosts:
                name = " or ".join(sorted(map(str, hosts)))
                raise _NoImageError(f"the host '{name}' is not allowed", final=False)
            with requests.get(
                url,
                headers={"Accept": "image/*"},
                timeout=self.timeout,
                stream=True,
                allow_redirects=False,
            ) as response:
                if response.is_redirect:
                    url = urljoin(url, response.headers["Location"])
                    continue
                if response.status_code != 200:
                    code = response.status_code
                    raise _NoImageError(f"{_GONE}{code}", final=code in (403, 404, 410))
                return self._body(response, until)
        raise _NoImageError("too many redirections", final=True)

    def _body(self, response: requests.Response, until: float) -> bytes:
        length = response.headers.get("Content-Length", "")
        too_large = _NoImageError(f"larger than {self.max_bytes:,} bytes", final=True)
        if length.isdecimal() and int(length) > self.max_bytes:
            raise too_large
        body = bytearray()
        for chunk in response.iter_content(_CHUNK):
            body += chunk
            if len(body) > self.max_bytes:
                raise too_large
            if time.monotonic() > until:
                raise _NoImageError(f"not there after {self.max_seconds:g} s", final=False)
        webp = body[:4] == b"RIFF" and body[8:12] == b"WEBP"
        if not webp and not body.startswith(_SIGNATURES):
            raise _NoImageError("no image came", final=True)
        return bytes(body)
