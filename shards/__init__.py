"""The on-disk format (write, read, verify, label codec) and the mixing loader.

Names are re-exported lazily from the private modules; `__init__.pyi` lists them.
"""

import lazy_loader

from sed_distill_siblings import require

require(__file__, "pipeline")
__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
