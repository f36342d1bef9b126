"""Attention of one block with the log-sum-exp of its scores, by which blocks are merged.

PyTorch's public attention function does not return it. Its own kernels do: FlashAttention's on CUDA
in half precision and the one for CPUs. Anything else takes matrix products, some queries at a time.

query (1, heads, m, head size), key and value (1, as many or fewer heads, n, head size),
log-sum-exp (1, heads, m) in fp32. A causal block is a square.
"""

import torch

_CPU = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu
_CPU_BACKWARD = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu_backward
_CUDA = torch.ops.aten._scaled_dot_product_flash_attention
_CUDA_BACKWARD = torch.ops.aten._scaled_dot_product_flash_attention_backward
_QUERIES_AT_ONCE = 512
"""Rows of scores that exist at a time where there is no kernel."""


def attend_block(
    query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, scale: float, *, is_causal: bool
) -> tuple[torch.Tensor, torch.Tensor]:
    """Returns: output like query, log-sum-exp."""
    kernel = _kernel(query, value)
    if kernel == "cpu":
        return _CPU(query, key, value, 0.0, is_causal, scale=scale)
    if kernel == "cuda":
        output, logsumexp, *_ = _CUDA(query, key, value, 0.0, is_causal, scale=scale)
        return output, logsumexp
    return attend_by_products(query, key, value, scale, is_causal=is_causal)


def attend_block_backward(
    gradient: torch.Tensor,
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    output: torch.Tensor,
    logsumexp: torch.Tensor,
    scale: float,
    *,
    is_causal: bool,
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """What this block adds to the gradients of query, key and value.

    `output` and `logsumexp` are those of the query over *all* its blocks.
    """
    kernel = _kernel(query, value)
    given = (gradient, query, key, value, output, logsumexp.contiguous())
    if kernel == "cpu":
        return _CPU_BACKWARD(*given, 0.0, is_causal, scale=scale)
    if kernel == "cuda":
        unused = torch.empty((), dtype=torch.long, device=query.device)  # state of the dropout
        lengths = (query.shape[2], key.shape[2])
        return _CUDA_BACKWARD(
            *given, None, None, *lengths, 0.0, is_causal, unused, unused, scale=scale
        )
    return attend_by_products_backward(*given, scale, is_causal=is_causal)


def attend_by_products(
    query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, scale: float, *, is_causal: bool
) -> tuple[torch.Tensor, torch.Tensor]:
    """`attend_block` in fp32 on any device."""
    groups = query.shape[1] // key.shape[1]
    value = value.float().repeat_interleave(groups, dim=1)
    outputs, sums = [], []
    for rows in _rows(query):
        scores = _scores(query, key, scale, rows, is_causal=is_causal)
        logsumexp = scores.logsumexp(dim=-1)
        outputs.append((scores - logsumexp[..., None]).exp() @ value)
        sums.append(logsumexp)
    return torch.cat(outputs, dim=2).to(query.dtype), torch.cat(sums, dim=2)


def attend_by_products_backward(
    gradient: torch.Tensor,
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    output: torch.Tensor,
    logsumexp: torch.Tensor,
    scale: float,
    *,
    is_causal: bool,
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """`attend_block_backward` in fp32 on any device."""
    groups = query.shape[1] // key.shape[1]
    all_keys = key.float().repeat_interleave(groups, dim=1)
    all_values = value.float().repeat_interleave(groups, dim=1)
    to_query: list[torch.Tensor] = []
    to_key, to_value = torch.zeros_like(all_keys), torch.zeros_like(all_values)
    for rows in _rows(query):
        scores = _scores(query, key, scale, rows, is_causal=is_causal)
        shares = (scores - logsumexp[:, :, rows, None]).exp()
        of_rows = gradient[:, :, rows].float()
        common = (of_rows * output[:, :, rows].float()).sum(dim=-1, keepdim=True)
        to_scores = shares * (of_rows @ all_values.mT - common) * scale
        to_query.append(to_scores @ all_keys)
        to_key += to_scores.mT @ query[:, :, rows].float()
        to_value += shares.mT @ of_rows
    return (
        torch.cat(to_query, dim=2).to(query.dtype),
        to_key.unflatten(1, (-1, groups)).sum(dim=2).to(key.dtype),
        to_value.unflatten(1, (-1, groups)).sum(dim=2).to(value.dtype),
    )


def _kernel(query: torch.Tensor, value: torch.Tensor) -> str | None:
    if query.shape[-1] != value.shape[-1]:
        return None
    if query.device.type == "cuda":
        half = query.dtype in (torch.bfloat16, torch.float16)
        return "cuda" if half and query.shape[-1] % 8 == 0 and query.shape[-1] <= 256 else None
    return "cpu" if query.device.type == "cpu" else None


def _rows(query: torch.Tensor) -> list[slice]:
    starts = range(0, query.shape[2], _QUERIES_AT_ONCE)
    return [slice(start, start + _QUERIES_AT_ONCE) for start in starts]


def _scores(
    query: torch.Tensor, key: torch.Tensor, scale: float, rows: slice, *, is_causal: bool
) -> torch.Tensor:
    """(1, heads, rows, n) in fp32; minus infinity where a later key is."""
    groups = query.shape[1] // key.shape[1]
    keys = key.float().repeat_interleave(groups, dim=1)
    scores = query[:, :, rows].float() @ keys.mT * scale
    if not is_causal:
        return scores
    later = torch.ones(scores.shape[-2:], dtype=torch.bool, device=scores.device)
    return scores.masked_fill(later.triu(rows.start + 1), float("-inf"))
