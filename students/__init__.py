"""Reference students, distillation trainer and evaluation, on top of shards.

Names are re-exported lazily from the private modules; `__init__.pyi` lists them.
"""

import lazy_loader

from sed_distill_siblings import require

require(__file__, "pipeline", "shards")
__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
