from alignrec_pyg.cli.columns import named_columns
from alignrec_pyg.datasets.recognition import GUESSES


def test_only_what_was_named():
    assert named_columns(user="who", item=None, time="when") == {"user": "who", "time": "when"}


def test_every_role_can_be_named():
    assert list(named_columns(**dict.fromkeys(GUESSES, "x"))) == list(GUESSES)
