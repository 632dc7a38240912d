"""What encoding items met: what was there, what could not be read, what was repaired."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

_SHOWN = 10


@dataclass(frozen=True)
class ContentFailure:
    """Something of an item that is there and cannot be used.

    Args:
        item: Row of the item.
        modality: ``"image"``.
        reason: Why, in a few words.
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
        encoded: Items that have a feature row.
        cached: Those of them whose row was read from the cache.
        present: Items that have something to read, for each modality.
        failures: What could not be read, by item.
        repairs: Texts that needed a repair, by repair.
        zero_rows: Items with content for which the encoder returned a row of zeros.
        notes: What the encoder has to say.
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

    def __str__(self) -> str:
        """The report as text; of the failures the counts and the first few."""
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
    """Counts of the reasons, commonest first, with the first items of each."""
    counts = Counter(failure.reason for failure in failures)
    lines = []
    for reason, count in counts.most_common(_SHOWN):
        items = [failure.item for failure in failures if failure.reason == reason][:5]
        first = ", ".join(str(item) for item in items)
        lines.append(f"{count:,} {reason} (items {first}{', ...' if count > 5 else ''})")
    if len(counts) > _SHOWN:
        lines.append(f"and {len(counts) - _SHOWN:,} other reasons")
    return lines
