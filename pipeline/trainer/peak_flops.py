"""The most that an accelerator's matrix units do: bf16 operations per second, dense.

From the vendors' data sheets, without sparsity, by the whole name that the driver gives: laptop
variants and MIG slices have other peaks. A device that is not here has no known peak.
"""

import torch

_PEAK_BF16 = {
    "NVIDIA A10": 125e12,
    "NVIDIA A30": 165e12,
    "NVIDIA A40": 149.7e12,
    "NVIDIA A100-PCIE-40GB": 312e12,
    "NVIDIA A100 80GB PCIe": 312e12,
    "NVIDIA A100-SXM4-40GB": 312e12,
    "NVIDIA A100-SXM4-80GB": 312e12,
    "NVIDIA A800-SXM4-80GB": 312e12,
    "NVIDIA B200": 2250e12,
    "NVIDIA GeForce RTX 3090": 71e12,
    "NVIDIA GeForce RTX 4090": 165.2e12,
    "NVIDIA GH200 480GB": 989e12,
    "NVIDIA H20": 148e12,
    "NVIDIA H100 80GB HBM3": 989e12,
    "NVIDIA H100 NVL": 835e12,
    "NVIDIA H100 PCIe": 756e12,
    "NVIDIA H200": 989e12,
    "NVIDIA H200 NVL": 835e12,
    "NVIDIA H800": 989e12,
    "NVIDIA L4": 121e12,
    "NVIDIA L40": 181e12,
    "NVIDIA L40S": 362e12,
    "NVIDIA RTX A6000": 154.8e12,
    "AMD Instinct MI300X": 1307e12,
}


def peak_bf16_flops(device: torch.device) -> float | None:
    """FLOP/s of this device; None: unknown, or no accelerator."""
    if device.type != "cuda":  # ROCm's name, too
        return None
    return peak_of(torch.cuda.get_device_name(device))


def peak_of(device_name: str) -> float | None:
    """FLOP/s of a product; None: unknown."""
    return _PEAK_BF16.get(device_name)
