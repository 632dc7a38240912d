"""Reports on the encoding of items: available content, failures and repairs."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

_MAX_REASONS = 10


@dataclass(frozen=True)
class ContentFailure:
    """Content of an item that cannot be used.

    Args:
        item: Index of the item.
        modality: The modality, ``"image"``.
        reason: A short reason.
    """

    item: int
    modality: str
    reason: str


@dataclass(frozen=True, kw_only=True)
class EncodingReport:
    """Counts of one run of :class:`~alignrec_pyg.transforms.EncodeItems`.

    Args:
        name: Name of the feature table.
        items: Number of items.
        encoded: Number of items with features.
        cached: Number of these whose row was read from the cache.
        present: Number of items with content, for each modality.
        failures: Content that could not be read, by item.
        repairs: Number of texts that needed each repair.
        zero_rows: Number of items with content for which the encoder returned a row of zeros.
        notes: Notes of the encoder.
        shards: Parts of the cache that were read or written, see
            :func:`~alignrec_pyg.transforms.unused_rows`.
    """

    name: str
    items: int
    encoded: int
    cached: int
    present: Mapping[str, int]
    failures: tuple[ContentFailure, ...] = ()
    repairs: Mapping[str, int] = field(default_factory=dict)
    zero_rows: int = 0
    notes: tuple[str, ...] = ()
    shards: frozenset[str] = field(default=frozenset(), repr=False, compare=False)

    def __str__(self) -> str:
        """The report as text, with the counts and first items of the failures."""
        lines = [
            f"feature '{self.name}': {self.encoded:,} of {self.items:,} items have a row"
            f" ({self.cached:,} from the cache)"
        ]
        for modality, count in self.present.items():
            failures = [failure for failure in self.failures if failure.modality == modality]
            unread = f", of which {len(failures):,} cannot be read" if failures else ""
            lines.append(f"  {modality}: {count:,} items{unread}")
            lines += [f"    {line}" for line in failure_lines(failures)]
        lines += [f"  {count:,} texts: {repair}" for repair, count in self.repairs.items()]
        if self.zero_rows:
            lines.append(f"  {self.zero_rows:,} items: the encoder returned a row of zeros")
        lines += [f"  {note}" for note in self.notes]
        return "\n".join(lines)


def failure_lines(failures: Sequence[ContentFailure]) -> list[str]:
    """Formats the failures: one line for each reason, most frequent first."""
    counts = Counter(failure.reason for failure in failures)
    lines = []
    for reason, count in counts.most_common(_MAX_REASONS):
        items = [failure.item for failure in failures if failure.reason == reason][:5]
        first = ", ".join(str(item) for item in items)
        lines.append(f"{count:,} {reason} (items {first}{', ...' if count > 5 else ''})")
    if len(counts) > _MAX_REASONS:
        lines.append(f"and {len(counts) - _MAX_REASONS:,} other reasons")
    return lines
