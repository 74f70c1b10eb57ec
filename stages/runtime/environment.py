"""What a run was made on: versions and hardware."""

from __future__ import annotations

import platform
from importlib import metadata

import torch

from stages.runtime.threads import usable_cores


def describe_machine() -> dict[str, str]:
    """Return what a reader needs to repeat a run: system, processor, devices and the versions of the libraries."""
    packages = ("cutonce", "torch", "torchvision", "timm", "h5py", "numpy", "scikit-learn")
    versions = {name: metadata.version(name) for name in packages if _installed(name)}
    gpus = [torch.cuda.get_device_name(index) for index in range(torch.cuda.device_count())]
    return {
        "python": platform.python_version(),
        "system": f"{platform.system()} {platform.machine()}",
        "cpus": str(usable_cores()),
        "accelerators": ", ".join(gpus) or ("Apple MPS" if torch.backends.mps.is_available() else "none"),
        "torch threads": str(torch.get_num_threads()),
        **versions,
    }


def _installed(name: str) -> bool:
    try:
        metadata.version(name)
    except metadata.PackageNotFoundError:
        return False
    return True
