"""Multimodal recommendation for PyTorch Geometric: AlignRec and its baselines.

AlignRec (CIKM 2024, https://arxiv.org/abs/2403.12384) recommends items from interactions plus each
item's image and text.

The names of the package are in ``__init__.pyi`` and are loaded when they are first used, so that
``import alignrec_pyg`` alone imports neither torch nor PyG.
"""

import warnings

import lazy_loader

# PyG scripts its pooling when it is imported, which torch deprecates: nothing to act on.
warnings.filterwarnings("ignore", r"`torch\.jit\.script` is deprecated")

__version__ = "0.1.0"

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
