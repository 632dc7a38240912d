import shutil

from alignrec_pyg import cosine_statistics, item_cf, mask_modality, zero_shot
from alignrec_pyg.cli import main
from alignrec_pyg.datasets import MMRecFolder
from alignrec_pyg.transforms import SplitInteractions

BOTH = ["patch_pca", "tfidf"]


def printed(capsys):
    recalls, cosines = capsys.readouterr().out.split("\n\n")
    return recalls.splitlines(), cosines.splitlines()


def figures(values):
    return [f"{value:.4f}" for value in values]


def test_figures_are_the_librarys(encoded, capsys):
    assert main(["features", str(encoded), "--k", "5", "10", "--device", "cpu"]) == 0
    recalls, cosines = printed(capsys)
    data = MMRecFolder(encoded).data
    ks = (5, 10)
    assert recalls[0].split() == ["protocol", "features", "recall@5", "recall@10"]
    expected = []
    for name in (*BOTH, BOTH):
        expected.append(["zero-shot", name, zero_shot(data, name, ks=ks).recall])
    scale = zero_shot(data, "tfidf", ks=ks)
    expected += [["zero-shot", "(popularity)", scale.popularity]]
    expected += [["zero-shot", "(random)", scale.random]]
    for masked in BOTH:
        recall = mask_modality(
            data, BOTH, masked, protocol=lambda graph, names: zero_shot(graph, names, ks=ks)
        ).recall
        expected.append([f"mask 50 % {masked}", BOTH, recall])
    for name in (*BOTH, BOTH):
        expected.append(["item-CF", name, item_cf(data, name, ks=ks).recall])
    scale = item_cf(data, "tfidf", ks=ks)
    expected += [["item-CF", "(popularity)", scale.popularity]]
    expected += [["item-CF", "(random)", scale.random]]
    assert [line.split() for line in recalls[1:]] == [
        [
            *protocol.split(),
            name if isinstance(name, str) else "+".join(name),
            *figures(recall[k] for k in ks),
        ]
        for protocol, name, recall in expected
    ]
    told = cosine_statistics(data, "tfidf")
    assert cosines[2].split() == ["tfidf", "4", "0", *figures([told.mean, told.std])]
    assert cosines[3].split()[:2] == ["patch_pca+tfidf", "8"]


def test_without_times_the_validation_links(encoded, tmp_path, capsys):
    folder = tmp_path / "films"
    shutil.copytree(encoded, folder)
    (folder / "patch_pca.npy").unlink()
    lines = [line.split("\t") for line in (folder / "films.inter").read_text().splitlines()]
    at = lines[0].index("timestamp")
    text = "".join("\t".join(line[:at] + line[at + 1 :]) + "\n" for line in lines)
    (folder / "films.inter").write_text(text)
    assert main(["features", str(folder)]) == 0
    recalls, _ = printed(capsys)
    assert len(recalls) == 7  # one table: nothing to mask
    val = SplitInteractions("labels")(MMRecFolder(folder).data)[1]
    expected = zero_shot(val, "tfidf", targets="labels").recall
    assert recalls[1].split() == ["zero-shot", "tfidf", *figures(expected.values())]


def test_a_folder_without_tables(encoded, tmp_path, capsys):
    folder = tmp_path / "films"
    shutil.copytree(encoded, folder, ignore=shutil.ignore_patterns("*.npy"))
    assert main(["features", str(folder)]) == 1
    assert "has no feature table (<name>.npy): alignrec encode makes" in capsys.readouterr().err
