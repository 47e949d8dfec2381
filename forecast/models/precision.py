"""In which precision a network multiplies."""

from __future__ import annotations

from typing import Any

import torch


def multiplies_in_half(precision: str, device: torch.device) -> bool:
    """Whether the network's matrices are multiplied in bfloat16; states, norms, attention and scores never are.

    `auto` takes bfloat16 where the device multiplies it natively (GPUs from Ampere on, CPUs with AVX512-BF16 or AMX);
    elsewhere it would be slower than float32.
    """
    if precision != "auto":
        return precision == "bfloat16"
    if device.type == "cuda":
        return torch.cuda.is_bf16_supported(including_emulation=False)
    known: dict[str, Any] = getattr(torch.cpu, "get_capabilities", dict)()  # absent in older torch
    return bool(known.get("avx512_bf16") or known.get("amx_bf16"))
