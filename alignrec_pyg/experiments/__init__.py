"""Experiments: models on one data set, compared.

The names are in ``__init__.pyi`` and are imported when they are first used, so that the ``--help``
of a script costs no torch.
"""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
