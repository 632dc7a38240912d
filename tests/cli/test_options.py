import pytest
import torch
import typer

from alignrec_pyg.cli import options


def spread(*arguments):
    return list(options._repeated(arguments, {"--k", "--set"}))


def test_options_of_several_values_are_repeated():
    assert spread("x", "--k", "1", "2", "--all", "--set", "a=1") == [
        *("x", "--k", "1", "--k", "2", "--all", "--set", "a=1"),
    ]
    assert spread("--k", "1", "--k", "2") == ["--k", "1", "--k", "2"]  # as typer has it
    assert spread("--k=1", "x") == ["--k=1", "x"]
    assert spread("--k", "-1", "--lr", "-2") == ["--k", "-1", "--lr", "-2"]


@pytest.mark.parametrize("arguments", [["--k"], ["--k", "--all"], ["--all", "--set"]])
def test_an_option_needs_a_value(arguments):
    with pytest.raises(options.OptionError, match="needs at least one value"):
        spread(*arguments)


def test_numbers():
    assert (options.positive_int("3"), options.natural("0")) == (3, 0)
    assert (options.number("-1e-3"), options.share("1")) == (-1e-3, 1.0)
    for parser, text, rule in (
        (options.positive_int, "0", "a whole number of 1 or more"),
        (options.natural, "-1", "a whole number of 0 or more"),
        (options.natural, "1.5", "a whole number of 0 or more"),
        (options.number, "nan", "a finite number"),
        (options.number, "x", "a finite number"),
        (options.share, "1.5", "from 0 to 1"),
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


def test_only_a_near_name_is_suggested():
    assert options.unknown_names("model", ["zzz"], ["BPR"]) == [
        "model 'zzz' is unknown: (there are BPR)"
    ]
    (problem,) = options.unknown_names("model", ["lightgcn"], ["BPR", "LightGCN"])
    assert "did you mean 'LightGCN'?" in problem


def test_names_joined_by_commas_are_explained():
    (problem,) = options.unknown_names("model", ["BPR,LightGCN"], ["BPR", "LightGCN"])
    assert problem == "model 'BPR,LightGCN' is unknown: separate names by spaces"


def test_unknown_names_keep_silent_about_known_ones():
    assert options.unknown_names("feature", ["text"], ["text"]) == []
    assert options.unknown_names("feature", ["text"], []) == [
        "feature 'text' is unknown: (there are none)"
    ]


def test_progress_is_on_stderr(capsys):
    options.say("on its way")
    assert capsys.readouterr() == ("", "on its way\n")
