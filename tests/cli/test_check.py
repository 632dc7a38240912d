import shutil

import numpy as np
import pytest
from PIL import Image

from alignrec_pyg.cli import check as check_module
from alignrec_pyg.cli import main


def test_exit_codes(tmp_path, capsys):
    path = tmp_path / "a.csv"
    path.write_text("user,sku,when\nu1,1,5\nu2,2,6\n")
    command = ["check", str(path), "--item", "sku", "--time", "when"]
    assert main(command) == 0
    assert "interactions 2" in " ".join(capsys.readouterr().out.split())
    path.write_text("user,sku,when\nu1,1,5\nu2,,soon\n")
    assert main(command) == 1
    printed = capsys.readouterr().out
    assert f"{path}, line 3, column 'sku': an id needs a value" in printed
    assert f"{path}, line 3, column 'when': a time is needed, as a number" in printed
    assert main(["check", str(tmp_path / "none")]) == 2
    assert "error: PATH: 'path' needs to be a folder or a file (there is none at" in (
        capsys.readouterr().err
    )


def test_rows_that_are_not_finite_are_missing_as_for_training(encoded, tmp_path, capsys):
    folder = shutil.copytree(encoded, tmp_path / encoded.name)
    table = np.load(folder / "tfidf.npy")
    table[3] = np.nan
    np.save(folder / "tfidf.npy", table)
    assert main(["check", str(folder)]) == 0
    assert "feature 'tfidf': 1 rows with NaN or infinity taken as missing" in (
        capsys.readouterr().out
    )


def test_a_table_that_does_not_fit_is_told_with_a_way_out_of_this_command(
    encoded, tmp_path, capsys
):
    folder = shutil.copytree(encoded, tmp_path / encoded.name)
    np.save(folder / "other_feat.npy", np.ones((3, 2), dtype=np.float32))
    assert main(["check", str(folder)]) == 1
    told = capsys.readouterr().out
    assert "(got [3, 2]): move it out of the folder" in told
    assert "'features'" not in told


def test_items_with_several_columns_of_text(tmp_path, capsys):
    (tmp_path / "a.csv").write_text("user,item\nu1,1\nu2,2\n")
    (tmp_path / "items.csv").write_text("item,title,plot\n1,a,b\n2,,\n")
    command = ["check", str(tmp_path / "a.csv"), "--items", str(tmp_path / "items.csv")]
    assert main([*command, "--text", "title", "plot"]) == 0
    assert "1 of 2 items have nothing in title, plot" in capsys.readouterr().out


def test_pictures_that_cannot_be_read_are_named(tmp_path, monkeypatch, capsys):
    (tmp_path / "a.csv").write_text("user,item\nu1,1\nu2,2\n")
    images = tmp_path / "images"
    images.mkdir()
    Image.new("RGB", (4, 4)).save(images / "1.png")
    good = (images / "1.png").read_bytes()
    (images / "2.png").write_bytes(good[:40])
    (images / "3.jpg").write_bytes(b"")
    command = ["check", str(tmp_path / "a.csv"), "--images"]
    assert main([*command, str(images)]) == 0
    lines = capsys.readouterr().out.splitlines()
    start = lines.index("images: 3, of which 2 cannot be read")
    assert lines[start + 1].startswith("  2: ")
    assert lines[start + 2 :] == ["  3: an empty file"]
    monkeypatch.setattr(check_module, "_NAMED", 1)
    assert main([*command, str(images)]) == 0
    assert capsys.readouterr().out.endswith("\n  and 1 more\n")
    assert main([*command, str(tmp_path / "none")]) == 2
    assert "--images: " in capsys.readouterr().err


def test_help_says_what_the_exit_codes_mean(capsys):
    assert main(["check", "--help"]) == 0
    text = capsys.readouterr().out
    assert "Exit code 0: usable" in " ".join(text.split())
    assert text.index("\nArguments:") < text.index("\nFiles:")  # what is needed first


@pytest.mark.parametrize("option", ["--user", "--item", "--rating", "--time", "--split"])
def test_every_role_has_an_option(option, tmp_path, capsys):
    path = tmp_path / "a.csv"
    path.write_text("user,item\nu1,1\n")
    assert main(["check", str(path), option, "nix"]) == 1
    assert "'nix'" in capsys.readouterr().out


def test_ways_out_are_options(tmp_path, capsys):
    (tmp_path / "a.csv").write_text("user,item\na,1\nb,2\n")
    (tmp_path / "i.csv").write_text("sku,title\n1,one\n2,two\n")
    command = ["check", str(tmp_path / "a.csv"), "--items", str(tmp_path / "i.csv")]
    assert main([*command, "--text", "title"]) == 1
    assert "or one that you name with --items-id (got ['sku', 'title'])" in capsys.readouterr().out
    assert main([*command, "--text", "title", "--items-id", "sku"]) == 0
    (tmp_path / "q.tsv").write_text('user\titem\tx\na\tx\t"so so\nb\ty\t"\n')
    assert main(["check", str(tmp_path / "q.tsv")]) == 0
    assert "; --unquoted takes double quotes as ordinary characters" in capsys.readouterr().out
    assert main(["check", str(tmp_path / "q.tsv"), "--unquoted"]) == 0
    assert "interactions                2" in capsys.readouterr().out
