import dataclasses

import pytest

from alignrec_pyg.demo.catalogue import ShownItem
from alignrec_pyg.demo.page_data import CannotShowError, SimilarItem


def test_views_are_plain_values():
    like = SimilarItem(ShownItem(3, "Three"), "much like", 0.99)
    assert like == SimilarItem(ShownItem(3, "Three"), "much like", 0.99)
    with pytest.raises(dataclasses.FrozenInstanceError):
        like.words = "hardly like"


def test_what_cannot_be_shown_is_an_error_of_the_input():
    with pytest.raises(ValueError, match="no such user"):
        raise CannotShowError("no such user")
