from typing import get_args

import pytest
import torch
import typer

from alignrec_pyg.cli import options
from alignrec_pyg.transforms.split_interactions import SplitRule


def test_numbers():
    assert (options.positive_int("3"), options.natural("0")) == (3, 0)
    assert (options.number("-1e-3"), options.fraction("1")) == (-1e-3, 1.0)
    for parser, text, rule in (
        (options.positive_int, "0", "a whole number of 1 or more"),
        (options.natural, "-1", "a whole number of 0 or more"),
        (options.natural, "1.5", "a whole number of 0 or more"),
        (options.number, "nan", "a finite number"),
        (options.number, "x", "a finite number"),
        (options.fraction, "1.5", "from 0 to 1"),
        (options.weight, "-0.1", "0 or more"),
        (options.weight, "inf", "a finite number"),
    ):
        with pytest.raises(typer.BadParameter, match=rule) as caught:
            parser(text)
        assert f"(got '{text}')" in str(caught.value)


def test_an_error_names_the_option_on_every_line():
    with pytest.raises(options.OptionError) as caught, options.errors_about("--set"):
        raise ValueError("one\ntwo")
    assert caught.value.format_message() == "--set: one\n--set: two"
    assert caught.value.exit_code == 2


def test_devices(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert (options.device_named("auto"), options.device_named("cpu")) == ("cpu", "cpu")
    with pytest.raises(options.OptionError, match="torch finds no GPU"):
        options.device_named("cuda")
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    assert (options.device_named("auto"), options.device_named("cuda")) == ("cuda", "cuda")


def test_progress_is_on_stderr(capsys):
    options.log("on its way")
    assert capsys.readouterr() == ("", "on its way\n")


def test_rules_are_those_of_the_split():
    assert get_args(options.SplitRule) == get_args(SplitRule)
