"""What a clip is: metadata, vocabularies, keys, the 40 ms grid, sources, decode and resample.

Names are re-exported lazily from the private modules; `__init__.pyi` lists them.
"""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
