"""A model's matrix products and nothing else."""

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch.overrides import TorchFunctionMode

from pipeline import FRAMES
from teachers.families import _onednn
from teachers.families._strong import StrongFamily


@dataclass(frozen=True, kw_only=True)
class Product:
    """[rows, inner] by [inner, columns], `batch` times; of a batch (heads) both sides are activations."""

    rows: int
    inner: int
    columns: int
    batch: int = 1

    @property
    def operations(self) -> int:
        return 2 * self.batch * self.rows * self.inner * self.columns


def products(family: StrongFamily) -> list[Product]:
    """Those of one clip of 10 s in order: linear layers, attention, and convolutions without overlap or groups."""
    features = family.front_end.compute(torch.zeros(1, FRAMES * 640))
    with torch.device("meta"):
        model = family.build(447, False).eval()
    with _Recorder() as recorder:
        model.frame_logits(features.to("meta"), FRAMES)
    return recorder.products


class _Recorder(TorchFunctionMode):
    def __init__(self) -> None:
        super().__init__()
        self.products: list[Product] = []

    def __torch_function__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = function(*args, **(kwargs or {}))
        if function is F.linear:
            columns, inner = args[1].shape
            self.products.append(Product(rows=args[0].numel() // inner, inner=inner, columns=columns))
        elif function is F.scaled_dot_product_attention:
            clips, heads, length, size = args[0].shape
            self.products.append(Product(rows=length, inner=size, columns=length, batch=clips * heads))
            self.products.append(Product(rows=length, inner=length, columns=size, batch=clips * heads))
        elif function is F.conv2d:
            columns, inner = args[1].shape[0], args[1][0].numel()
            self.products.append(Product(rows=result.numel() // columns, inner=inner, columns=columns))
        return result


def by_torch(wanted: Iterable[Product], dtype: torch.dtype = torch.float32) -> Callable[[], None]:
    """All of them, one after the other, each with a weight of its own and into memory that is there."""
    steps: list[Callable[[], object]] = []
    for product in wanted:
        a, b, out = _operands(product, dtype)
        if product.batch > 1:
            steps.append(lambda a=a, b=b, out=out: torch.bmm(a, b.transpose(1, 2), out=out))
        else:
            steps.append(lambda a=a, b=b, out=out: torch.mm(a[0], b[0].t(), out=out[0]))
    return lambda: _run(steps)


def by_onednn(wanted: Iterable[Product]) -> Callable[[], None]:
    """The same in float32 by what `Linear` and `attend` call on a CPU."""
    steps: list[Callable[[], object]] = []
    for product in wanted:
        a, b, _ = _operands(product, torch.float32)
        steps += [lambda a=a[part], b=b[part]: _onednn.product(a, b) for part in range(product.batch)]
    return lambda: _run(steps)


def _operands(product: Product, dtype: torch.dtype) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    shapes = (product.rows, product.inner), (product.columns, product.inner), (product.rows, product.columns)
    a, b, out = (torch.randn(product.batch, *shape).to(dtype) for shape in shapes)
    return a, b, out


def _run(steps: Iterable[Callable[[], object]]) -> None:
    with torch.inference_mode():
        for step in steps:
            step()
