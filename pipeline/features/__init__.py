"""Mel front ends in torch, shared by teachers and students. The only torch in `pipeline`."""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
