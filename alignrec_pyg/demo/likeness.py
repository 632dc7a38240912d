"""How similar two items are, in words."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn.functional import normalize

_PAIRS = 50_000
_WORDS = ((0.999, "very much like"), (0.99, "much like"), (0.9, "somewhat like"))
_OTHERWISE = "hardly like"


class Likeness:
    """Words for a cosine, by the share of a catalogue's pairs of items whose cosine is below it.

    What a cosine of 0.6 means depends on the model: items of one may all be above it, of another
    next to none. Shares compare: of 1,000 pairs of items one is "very much like", nine are "much
    like", 90 "somewhat like", and the others "hardly like" each other.

    Args:
        item_x: Vectors of the catalogue's items.
        seed: Seed of the pairs drawn.

    Shapes:
        - **input:** item_x :math:`(|I|, d)`
    """

    def __init__(self, item_x: Tensor, *, seed: int = 0) -> None:
        item_x = item_x[item_x.any(dim=1)].cpu()
        count = item_x.size(0)
        if count < 2:
            self._cosines = torch.zeros(0)
            return
        generator = torch.Generator().manual_seed(seed)
        first = torch.randint(count, (_PAIRS,), generator=generator)
        step = torch.randint(1, count, (_PAIRS,), generator=generator)  # never the same item
        item_x = normalize(item_x)
        cosines = (item_x[first] * item_x[(first + step) % count]).sum(dim=1)
        self._cosines = cosines.sort().values

    def share_below(self, cosine: float) -> float:
        """The share of pairs of items that are less similar; 0 where there are no pairs."""
        if self._cosines.numel() == 0:
            return 0.0
        return float(torch.searchsorted(self._cosines, cosine) / self._cosines.numel())

    def words(self, cosine: float) -> str:
        """What goes between "it is" and the other item: "much like", for example."""
        share = self.share_below(cosine)
        return next((words for least, words in _WORDS if share >= least), _OTHERWISE)
