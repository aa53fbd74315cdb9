"""The KV pool: the pages of all layers in one tensor.

Everything that one page holds lies in one piece of memory of some megabytes, so that a page is copied between a device
and its host as fast as the link allows. What a layer reads and writes are strided views of it; within a page, a layer's
keys (and its values) lie as close together as they would in a tensor of their own.

It knows shapes, and neither rows nor who uses a page.
"""

import torch
from torch import Tensor


class PagedKV:
    """Keys and values of all layers: `pages` [num_pages, num_layers, 2, page_size, num_kv_heads, D].

    `k[layer]` and `v[layer]` [num_pages, page_size, num_kv_heads, D] are views of it. int8 pages have `scales` int32
    [num_pages, num_layers, num_kv_heads, page_size], and `layer_scales[layer]` are views of those; other dtypes have
    None. `kv_quantization.py` says what a scale is.

    Uninitialized, so on a CPU the operating system commits memory only as it is written.
    """

    def __init__(
        self,
        num_layers: int,
        num_pages: int,
        page_size: int,
        num_kv_heads: int,
        head_dim: int,
        dtype: torch.dtype,
        device: torch.device,
    ) -> None:
        shape = (num_pages, num_layers, 2, page_size, num_kv_heads, head_dim)
        self.page_size = page_size
        self.pages = torch.empty(shape, dtype=dtype, device=device)
        self.k = [self.pages[:, layer, 0] for layer in range(num_layers)]
        self.v = [self.pages[:, layer, 1] for layer in range(num_layers)]
        self.scales: Tensor | None = None
        self.layer_scales: list[Tensor | None] = [None] * num_layers
        if dtype == torch.int8:
            scales = torch.zeros(num_pages, num_layers, num_kv_heads, page_size, dtype=torch.int32, device=device)
            self.scales, self.layer_scales = scales, list(scales.unbind(1))

    @property
    def parts(self) -> tuple[Tensor, ...]:
        """The tensors that hold a page's content, page by page."""
        return (self.pages,) if self.scales is None else (self.pages, self.scales)
