from __future__ import annotations

from pathlib import Path

import pytest

from alignrec_pyg.pretraining import PretrainConfig, __main__


def test_the_papers_settings_by_default():
    job, given = __main__.job_of(["--data", "items.csv", "--images", "images"])
    assert job.config == PretrainConfig()
    assert (job.size, job.fields, job.max_tokens) == (
        "base",
        ("title", "brand", "description"),
        128,
    )
    assert (job.mask_image, job.mask_text, job.joint_masking) == (0.4, 0.15, False)
    assert given.workers == 1


def test_without_data_a_tiny_encoder():
    job, _ = __main__.job_of(["--epochs", "2"])
    assert (job.data, job.size, job.config.epochs) == (None, "tiny", 2)
    assert job.config.batch_size == 64
    assert __main__.job_of(["--config", "base"])[0].size == "base"


def test_every_setting_reaches_its_place():
    command = (
        "--data t.csv --id sku --fields name text --image photo --images i.zip --out o "
        "--config large --layers 16 --image-size 384 --weights w.pth --spm s.spm --vocab-size 9 "
        "--vqkd v.pth --codes 7 --max-tokens 64 --mask-image 0.5 --mask-text 0.2 --joint-masking "
        "--val-share 0.3 --epochs 3 --lr 0.1 --batch-size 6 --micro-batch-size 2 "
        "--precision float32 --loaders 4 --seed 8 --max-failures 0.3 --encode"
    )
    job, _ = __main__.job_of(command.split())
    assert (job.data, job.id, job.fields) == (Path("t.csv"), "sku", ("name", "text"))
    assert (job.image, job.images, job.out) == ("photo", Path("i.zip"), Path("o"))
    assert (job.size, job.num_layers, job.image_size) == ("large", 16, 384)
    assert (job.weights, job.spm, job.vqkd) == (Path("w.pth"), Path("s.spm"), Path("v.pth"))
    assert (job.vocab_size, job.num_codes, job.max_tokens) == (9, 7, 64)
    assert (job.mask_image, job.mask_text, job.joint_masking) == (0.5, 0.2, True)
    assert (job.val_share, job.encode) == (0.3, True)
    assert job.config == PretrainConfig(
        epochs=3, lr=0.1, batch_size=6, micro_batch_size=2, precision="float32", num_workers=4,
        seed=8, max_failures=0.3,
    )  # fmt: skip
    assert job.sizes(500).num_layers == 16
    assert job.sizes(500).image_size == 384


def test_runs_the_job_and_says_where_the_encoder_is(monkeypatch, capsys, tmp_path):
    ran = []

    def run(job, *, device, tell):
        ran.append((job.out, device))
        tell("on its way")
        return job.out / "encoder"

    monkeypatch.setattr(__main__, "run_job", run)
    __main__.main(["--out", str(tmp_path), "--device", "cpu", "--encode"])
    assert ran == [(tmp_path, "cpu")]
    printed = capsys.readouterr().out
    assert "on its way" in printed
    assert f"from_pretrained('{tmp_path / 'encoder'}')" in printed
    assert f"mm={tmp_path / 'features.npy'}" in printed
    assert f"mm_of_text={tmp_path / 'features_of_text'}.npy" in printed
    assert "--replace mm:image=mm_of_text mm:text=mm_of_image" in printed

    def run_workers(job, num_workers, *, use_gpu):
        ran.append((num_workers, use_gpu))
        return job.out / "encoder"

    monkeypatch.setattr(__main__, "run_with_ray", run_workers)
    monkeypatch.setattr(__main__.torch.cuda, "is_available", lambda: True)
    for device, use_gpu in (([], True), (["--device", "cuda"], True), (["--device", "cpu"], False)):
        __main__.main(["--out", str(tmp_path), "--workers", "3", *device])
        assert ran[-1] == (3, use_gpu)
    monkeypatch.setattr(__main__.torch.cuda, "is_available", lambda: False)
    __main__.main(["--out", str(tmp_path), "--workers", "3"])
    assert ran[-1] == (3, False)
    __main__.main(["--out", str(tmp_path), "--workers", "3", "--device", "cuda"])
    assert ran[-1] == (3, True)  # the machines of a cluster may have what this one lacks
    with pytest.raises(ValueError, match=r"needs to be cuda or cpu with --workers \(got cuda:1"):
        __main__.main(["--out", str(tmp_path), "--workers", "3", "--device", "cuda:1"])


@pytest.mark.parametrize("arguments", [["--config", "huge"], ["--unknown"], ["--epochs", "two"]])
def test_rejects_arguments(arguments):
    with pytest.raises(SystemExit):
        __main__.job_of(arguments)
