import pytest

from alignrec_pyg.cli.experiment_options import DataOptions
from alignrec_pyg.cli.options import SYNTHETIC, OptionError
from alignrec_pyg.experiments import reading


def test_a_path_is_the_data():
    assert DataOptions(path="baby").data == "baby"
    assert DataOptions().data == "synthetic"
    with pytest.raises(OptionError, match="--data: is given by PATH already"):
        DataOptions(path="baby", data="sports")
    assert reading.SYNTHETIC == SYNTHETIC
