import pytest

from alignrec_pyg.serving.packages import require


def test_gives_the_package_or_says_what_to_install():
    assert require("json", "it").dumps(1) == "1"
    with pytest.raises(ImportError, match=r"it needs no_such_package, .*--extra serving"):
        require("no_such_package", "it")
    with pytest.raises(ImportError, match=r"--extra demo` .*alignrec-pyg\[demo\]"):
        require("no_such_package", "it", extra="demo")
