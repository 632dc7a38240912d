"""Images by networks that were trained on ImageNet, from local files of weights."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from difflib import get_close_matches
from pathlib import Path
from typing import Any

import torch
from PIL import Image
from torch import Tensor, nn

from alignrec_pyg.checks import check_integer, require_package
from alignrec_pyg.encoders.base import ItemContent, check_precision, in_precision, precision_key
from alignrec_pyg.encoders.cache_keys import state_hash, weights_hash
from alignrec_pyg.encoders.images import read_image, to_pillow
from alignrec_pyg.encoders.weights import released_tensors

_TOLD = 5  # names of parameters in an error


class ImageNetEncoder:
    """Images as the features that a classifier of images computes before its last layer.

    Visual features of most papers on multimodal recommendation are of this kind: 4096-d of a VGG or
    AlexNet, 2048-d of a ResNet-50. :meth:`from_timm` and :meth:`from_torchvision` build an
    architecture of these packages and load a file of weights into it; nothing is downloaded. Any
    other network goes into the constructor. Items without an image get a zero row.

    Args:
        model: A network from pixels, float32 ``[B, 3, H, W]``, to features ``[B, d]``, or to maps
            of features ``[B, d, h, w]``, whose mean over all places is taken.
        preprocess: Makes the network's pixels, float32 ``[3, H, W]``, of a Pillow image in RGB.
        name: Part of the cache key, to be changed together with the code of the network.
        device: Where the network runs.
        batch_size: Images per forward pass.
        precision: ``"bfloat16"`` computes with 8 significant bits where
            :class:`torch.autocast` allows: in about half the time on processors that have
            instructions for it, more slowly on others.

    Raises:
        ValueError: If an argument is out of range, or ``model`` returns something else.
    """

    modalities = ("image",)

    def __init__(
        self,
        model: nn.Module,
        preprocess: Callable[[Image.Image], Tensor],
        *,
        name: str,
        device: str | torch.device = "cpu",
        batch_size: int = 64,
        precision: str = "float32",
    ) -> None:
        self.batch_size = check_integer("batch_size", batch_size, 1)
        self.precision = check_precision(precision)
        self.device = torch.device(device)
        self.name = name
        self.model = model.to(self.device).eval()
        self.preprocess = preprocess
        grey = torch.full((3, 64, 64), 128, dtype=torch.uint8)
        self._out_dim = self._encode(ItemContent(image=[grey])).size(1)

    @classmethod
    def from_timm(
        cls,
        name: str,
        weights: str | Path | None,
        *,
        device: str | torch.device = "cpu",
        batch_size: int = 64,
        precision: str = "float32",
    ) -> ImageNetEncoder:
        """A network of timm (PyTorch Image Models), with its pooling.

        Args:
            name: An architecture of ``timm.list_models()``. If the published weights of the
                architecture differ in preprocessing, with the tag of those that the file stems
                from: ``"resnet50.a1_in1k"``.
            weights: File of its weights (.safetensors, .bin, .pth; pickles with code are refused);
                its classifier is left out. ``None`` gives random weights.
            device: As above.
            batch_size: As above.
            precision: As above.

        Raises:
            CheckpointError: If the file is missing or damaged.
            ValueError: If an argument is out of range, or file and architecture do not fit.
            ImportError: If timm is missing, broken or older than 0.9.
        """
        timm = require_package("timm", "ImageNetEncoder.from_timm", "'timm>=0.9'", extra="encoders")
        if not hasattr(timm.models, "get_arch_pretrained_cfgs"):
            raise ImportError(
                f"ImageNetEncoder.from_timm needs timm 0.9 or later (got {timm.__version__}): run "
                "`pip install 'timm>=0.9'`, or in a checkout `uv sync --extra encoders`"
            )
        architecture, _, tag = name.partition(".")
        _check_architecture(architecture, timm.list_models())
        published = {
            full.partition(".")[2]: timm.data.resolve_data_config(pretrained_cfg=config.to_dict())
            for full, config in timm.models.get_arch_pretrained_cfgs(architecture).items()
        }
        settings = _of_tag(architecture, tag, published)
        model = timm.create_model(architecture, pretrained=False, num_classes=0)
        classifier = model.pretrained_cfg.get("classifier") or ()
        _load(model, name, weights, (classifier,) if isinstance(classifier, str) else classifier)
        return cls(
            model,
            timm.data.create_transform(**settings or {}, is_training=False),
            name=f"timm {timm.__version__} {architecture}",
            device=device,
            batch_size=batch_size,
            precision=precision,
        )

    @classmethod
    def from_torchvision(
        cls,
        name: str,
        weights: str | Path | None,
        *,
        device: str | torch.device = "cpu",
        batch_size: int = 64,
        precision: str = "float32",
    ) -> ImageNetEncoder:
        """A classifier of torchvision, without the linear layer at its end.

        Args:
            name: An architecture of ``torchvision.models.list_models(torchvision.models)``. If its
                published weights differ in preprocessing, with the name of those that the file
                stems from: ``"resnet50.IMAGENET1K_V2"``.
            weights: As of :meth:`from_timm`.
            device: As above.
            batch_size: As above.
            precision: As above.

        Raises:
            CheckpointError: If the file is missing or damaged.
            ValueError: If an argument is out of range, file and architecture do not fit, or the
                network ends with no linear layer.
            ImportError: If torchvision is missing or broken.
        """
        torchvision = require_package(
            "torchvision", "ImageNetEncoder.from_torchvision", "torchvision", extra="encoders"
        )
        models = torchvision.models
        architecture, _, tag = name.partition(".")
        _check_architecture(architecture, models.list_models(models))
        published = {
            entry.name: entry.transforms() for entry in models.get_model_weights(architecture)
        }
        preprocess = _of_tag(architecture, tag, published)
        model = models.get_model(architecture, weights=None)
        classifier = [n for n, part in model.named_modules() if isinstance(part, nn.Linear)][-1:]
        if not classifier:
            raise ValueError(
                f"'name' needs an architecture that ends with a linear layer (got {architecture}): "
                "choose another, or pass the network itself to ImageNetEncoder"
            )
        parent, _, child = classifier[0].rpartition(".")
        setattr(model.get_submodule(parent), child, nn.Identity())
        _load(model, name, weights, classifier)
        return cls(
            model,
            preprocess,
            name=f"torchvision {torchvision.__version__} {architecture}",
            device=device,
            batch_size=batch_size,
            precision=precision,
        )

    @property
    def out_dim(self) -> int:
        """Width of a row, the network's."""
        return self._out_dim

    @property
    def cache_key(self) -> str:
        """Name, layers, hash of the weights, preprocessing and precision."""
        return (
            f"{self.name} {state_hash(repr(self.model), self.preprocess)} "
            f"{weights_hash(self.model.state_dict())}{precision_key(self.precision)}"
        )

    def __call__(self, items: ItemContent) -> Tensor:
        """Feature rows, float32 ``[len(items), out_dim]``, without gradient.

        Raises:
            ImageError: If an image is a file that cannot be read.
        """
        rows = torch.zeros(len(items), self.out_dim)
        for batch in items.has("image").nonzero()[:, 0].split(self.batch_size):
            if batch.numel():
                rows[batch] = self._encode(items.select(batch.tolist()))
        return rows

    @torch.no_grad()
    def _encode(self, items: ItemContent) -> Tensor:
        """Rows of items that all have images."""
        images: Any = items.image
        pixels = torch.stack([self.preprocess(to_pillow(read_image(image))) for image in images])
        with in_precision(self.precision, self.device):
            features = self.model(pixels.to(self.device))
        if not isinstance(features, Tensor) or features.dim() not in (2, 4):
            form = tuple(features.shape) if isinstance(features, Tensor) else type(features)
            raise ValueError(
                f"'model' needs to return features [B, d] or maps [B, d, h, w] (got {form})"
            )
        features = features.float()
        return (features if features.dim() == 2 else features.mean(dim=(2, 3))).cpu()

    def __repr__(self) -> str:
        return f"{self.__class__.__name__}('{self.name}', out_dim={self.out_dim})"


def _check_architecture(name: str, known: list[str]) -> None:
    if name not in known:
        close = get_close_matches(name, known, n=5, cutoff=0.4)
        raise ValueError(f"'name' needs to be one of list_models(), like {close} (got {name!r})")


def _of_tag(architecture: str, tag: str, published: Mapping[str, Any]) -> Any:
    """The preprocessing of the published weights with this tag; ``None`` if there are none.

    A file of weights does not say how images were prepared for it.
    """
    if tag and tag not in published:
        raise ValueError(
            f"'name' needs one of the tags {[*published]} after {architecture} (got {tag!r})"
        )
    ways = [published[tag]] if tag else [*published.values()]
    if any(repr(way) != repr(ways[0]) for way in ways):
        raise ValueError(
            f"'name' needs the tag of the published weights of {architecture} that the file stems "
            f"from, as they differ in preprocessing: {architecture}.TAG with one of {[*published]}"
        )
    return ways[0] if ways else None


def _load(
    model: nn.Module, name: str, weights: str | Path | None, classifier: tuple[str, ...] | list[str]
) -> None:
    """Loads weights without those of the classifier into a model without one."""
    if weights is None:
        return
    heads = tuple(f"{head}." for head in classifier)
    tensors = {n: t for n, t in released_tensors(Path(weights)).items() if not n.startswith(heads)}
    try:
        missing, unexpected = model.load_state_dict(tensors, strict=False)
    except RuntimeError as error:  # of other shapes
        reason = " ".join(str(error).split())
        raise ValueError(
            f"'weights' needs to be a file of weights of {name} (got {weights}: {reason})"
        ) from error
    problems = [
        f"{what} {', '.join(names[:_TOLD])}{', ...' if len(names) > _TOLD else ''}"
        for what, names in (("lacks", missing), ("also holds", unexpected))
        if names
    ]
    if problems:
        raise ValueError(
            f"'weights' needs to be a file of weights of {name}: {weights} {', '.join(problems)}"
        )
