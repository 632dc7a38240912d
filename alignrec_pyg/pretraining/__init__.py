"""Training of encoders before any recommender: stage 1 (ICA), and CLIP on the catalogue.

The names of the package are in ``__init__.pyi`` and are loaded when they are first used.
"""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
