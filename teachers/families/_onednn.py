"""Matrix products on a CPU, by oneDNN, for models that do not learn.

PyTorch gives products in float32 to MKL, which on processors other than Intel's runs at half of what they can do
(measured on an EPYC of the Zen 5 kind: 100 GFLOP/s a core beside 228). The oneDNN that PyTorch carries does not know
such a difference. The values agree to rounding, and are the same from run to run.

Half precision is there to save memory and to see what an accelerator would say: products of float16, which most
processors lack, and attention are made in float32 and rounded, which is faster than what PyTorch does there.
"""

import torch
import torch.nn.functional as F
from torch import Tensor

_THERE = torch.backends.mkldnn.is_available() and hasattr(torch.ops.mkldnn, "_linear_pointwise")


def serves(tensor: Tensor) -> bool:
    """Whether products of `tensor` can be asked for here: no gradients, no graph that is being compiled."""
    return (
        _THERE
        and tensor.device.type == "cpu"
        and tensor.dtype in (torch.float32, torch.bfloat16, torch.float16)
        and not torch.is_grad_enabled()
        and not torch.compiler.is_compiling()
    )


def product(inputs: Tensor, weight: Tensor, bias: Tensor | None = None, *, gelu: bool = False) -> Tensor:
    """As F.linear: [*, K], [N, K], [N] -> [*, N], and the exact GELU of it where asked for."""
    if inputs.dtype != torch.float32:
        half = F.linear(inputs, weight, bias) if inputs.dtype == torch.bfloat16 else _float16(inputs, weight, bias)
        return F.gelu(half) if gelu else half
    then = ("gelu", [], "none") if gelu else ("none", [], "")
    # Of a strided view it would make a product a thousand times slower.
    return torch.ops.mkldnn._linear_pointwise(inputs.contiguous(), weight, bias, *then)


def attention(query: Tensor, key: Tensor, value: Tensor, gate: Tensor | None, bias: Tensor | None) -> Tensor:
    """As `attend`. Head by head: what one head needs stays in the core's own cache."""
    clips, heads, length, width = query.shape
    queries, keys = (query.float() * width**-0.5).contiguous(), key.float().contiguous()
    values = value.float().transpose(2, 3).contiguous()
    attended = queries.new_empty(clips, length, heads, width)
    for clip in range(clips):
        for head in range(heads):
            logits = product(queries[clip, head], keys[clip, head])
            if gate is not None and bias is not None:
                logits.addcmul_(gate[clip, head], bias[head])
            attended[clip, :, head] = product(logits.softmax(dim=-1), values[clip, head])
    return attended.flatten(2).to(query.dtype)


def _float16(inputs: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    return product(inputs.float(), weight.float(), None if bias is None else bias.float()).half()
