"""Encoding on actors against encoding here: the same rows, the same report, one cache."""

from __future__ import annotations

import sys
from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from PIL import Image
from torch_geometric.data import HeteroData

from alignrec_pyg.encoders import TfidfEncoder
from alignrec_pyg.transforms import EncodeItems, RayActors


def make_encoder(cache_key="sums", broken=False):
    """Defined in a function, so that Ray sends the class itself and not the name of a module."""

    class Sums:
        modalities = ("text", "image")
        out_dim = 3

        def __init__(self):
            self.cache_key = cache_key

        def __call__(self, items):
            rows = torch.zeros(len(items), 3)
            for row, (text, image) in enumerate(zip(items.text, items.image, strict=True)):
                rows[row, 0] = sum(map(ord, text or "")) / 7
                if image is not None:
                    rows[row, 1:] = torch.stack([image.float().mean(), image.float().std()])
            return rows / 0 if broken else rows

    return Sums()


@pytest.fixture
def data(tmp_path):
    """20 items with files and pixels, some without; one file is damaged."""
    rng = np.random.default_rng(0)
    data = HeteroData()
    data["item"].num_nodes = 20
    data["item"].text = [None if n % 5 == 4 else f"text\x00 {n}" for n in range(20)]
    images = []
    for n in range(20):
        pixels = rng.integers(0, 256, size=(8 + n, 30 - n, 3), dtype=np.uint8)
        path = tmp_path / f"{n}.png"
        Image.fromarray(pixels).save(path)
        images.append([path, pixels, None][n % 3])
    (tmp_path / "3.png").write_bytes((tmp_path / "3.png").read_bytes()[:-50])
    data["item"].image = images
    return data


@pytest.fixture
def ray_of_this_process(monkeypatch):
    """What is used of Ray, within this process: parts come back last first."""

    class Items:
        def __init__(self, items):
            self.items = items

        def map(self, actor, *, fn_constructor_args, compute, num_cpus, num_gpus):
            assert (compute.size, num_cpus, num_gpus) == (2, 1.0, 0.0)
            actors = [actor(*fn_constructor_args) for _ in range(compute.size)]
            return Items([actors[n % 2](row) for n, row in enumerate(self.items)])

        def iter_rows(self):
            return reversed(self.items)

    data = SimpleNamespace(
        from_items=lambda items, override_num_blocks: Items(items),
        ActorPoolStrategy=lambda size: SimpleNamespace(size=size),
    )
    ray = SimpleNamespace(put=lambda value: value, get=lambda value: value, data=data)
    monkeypatch.setitem(sys.modules, "ray", ray)
    monkeypatch.setitem(sys.modules, "ray.data", data)


def encode(data, encoder=None, **options):
    transform = EncodeItems(
        encoder or make_encoder(), "mm", batch_size=6, **{"max_failures": 0.1, **options}
    )
    return transform(data)["item"], transform.report


def assert_as_here(data, cache_dir, actors):
    """Without a cache, into a fresh one, from that one, and from one made here."""
    here, report = encode(data)
    assert report.failures
    assert report.repairs
    found, reported = encode(data, actors=actors)
    assert torch.equal(found.x_mm, here.x_mm)
    assert torch.equal(found.mask_mm, here.mask_mm)
    assert reported == report

    encode(data, cache_dir=cache_dir / "here")
    encode(data, cache_dir=cache_dir / "actors", actors=actors)
    files = [{p.name for p in (cache_dir / name).glob("enc*")} for name in ("here", "actors")]
    assert files[0] == files[1]
    assert len(files[0]) == 2 * 4  # a manifest and a table for each batch
    for name in ("here", "actors"):
        for used in (None, actors):
            found, reported = encode(data, cache_dir=cache_dir / name, actors=used)
            assert torch.equal(found.x_mm, here.x_mm)
            assert reported == replace(report, cached=report.encoded)


def test_actors_give_what_is_computed_here(data, tmp_path, ray_of_this_process):
    assert_as_here(data, tmp_path, RayActors(num_actors=2))


def test_problems_are_those_of_encoding_here(data, ray_of_this_process):
    for options in ({"max_failures": 0.0}, {"encoder": make_encoder(broken=True)}):
        messages = []
        for actors in (None, RayActors(num_actors=2)):
            with pytest.raises(ValueError) as error:
                encode(data, actors=actors, **options)
            messages.append(str(error.value))
        if "encoder" in options:  # the first batch here, the last one there
            assert all("needs to return finite rows" in message for message in messages)
        else:
            assert messages[0] == messages[1]


def test_an_encoder_made_in_the_actor_has_to_be_the_same(data, ray_of_this_process):
    actors = RayActors(num_actors=2, build=make_encoder)
    assert torch.equal(encode(data, actors=actors)[0].x_mm, encode(data)[0].x_mm)
    with pytest.raises(ValueError, match="'build' needs to return the encoder of the transform"):
        encode(data, encoder=make_encoder("another"), actors=actors)


@pytest.mark.parametrize("build", [None, make_encoder])
def test_where_actors_make_the_encoder_it_is_not_sent(
    data, ray_of_this_process, monkeypatch, build
):
    """It may be on a GPU that they do not have."""
    sent, encoder = [], make_encoder()
    monkeypatch.setattr(sys.modules["ray"], "put", lambda job: sent.append(job) or job)
    encode(data, encoder=encoder, actors=RayActors(num_actors=2, build=build))
    assert [job.encoder for job in sent] == [encoder if build is None else None]


def test_nothing_to_encode_is_told_as_here(data, ray_of_this_process):
    data["item"].text = data["item"].image = [None] * 20
    with pytest.raises(ValueError, match="needs items with text or image"):
        encode(data, actors=RayActors(num_actors=2))


@pytest.mark.parametrize(
    "change", [{"num_actors": 0}, {"num_cpus": -1.0}, {"num_gpus": -0.5}], ids=str
)
def test_bad_numbers_are_named(change):
    (name,) = change
    with pytest.raises(ValueError, match=f"'{name}' needs to be"):
        RayActors(**{"num_actors": 1, **change})


def test_an_encoder_that_has_to_be_fitted_is_refused():
    with pytest.raises(ValueError, match="'actors' needs a fitted encoder"):
        EncodeItems(TfidfEncoder(4), "text", actors=RayActors(num_actors=2))


def test_missing_ray_is_named(data, monkeypatch):
    monkeypatch.setitem(sys.modules, "ray", None)
    with pytest.raises(ImportError, match=r"'actors' needs 'ray'.*pip install 'ray\[tune\]'"):
        encode(data, actors=RayActors(num_actors=2))


@pytest.mark.tune_extra
@pytest.mark.slow
@pytest.mark.timeout(600)
@pytest.mark.filterwarnings("default")  # Ray warns about itself
def test_two_actors_of_ray(data, tmp_path, monkeypatch):
    import ray

    monkeypatch.setenv("RAY_USAGE_STATS_ENABLED", "0")
    monkeypatch.setenv("RAY_raylet_start_wait_time_s", "200")  # on a busy machine
    ray.init("local", num_cpus=3, include_dashboard=False)
    try:
        assert_as_here(data, tmp_path, RayActors(num_actors=2))
    finally:
        ray.shutdown()
