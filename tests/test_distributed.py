"""Two processes with gloo: the same masks on both ranks, and the result of one process with the same global batch."""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

SCRIPT = Path(__file__).with_name("train_in_ddp.py")


def launch(folder: Path, processes: int, *flags: str) -> dict[str, Any]:
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", f"--nproc_per_node={processes}"]
    done = subprocess.run(
        [*command, str(SCRIPT), str(folder), str(8 // processes), *flags], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr[-3000:]
    ranks = [json.loads((folder / f"rank{rank}.json").read_text()) for rank in range(processes)]
    return {"ranks": ranks, "out": done.stdout, "weights": load_file(folder / "model.safetensors")}


@pytest.mark.parametrize("target", ["gradient", "update"])
def test_two_ranks_equal_one_process(tmp_path: Path, target: str) -> None:
    one = launch(tmp_path / "one", 1, target)
    two = launch(tmp_path / "two", 2, target)
    first, second = two["ranks"]
    assert first == second, "the ranks found different masks, weights or histories"
    assert first["history"] == one["ranks"][0]["history"]
    assert first["truncating"], "nothing was truncated: the run shows nothing"
    torch.testing.assert_close(two["weights"], one["weights"], rtol=1e-3, atol=1e-5)
    assert two["out"].count("epoch 1: first masks taken") == 1, "one rank reports, and no other"
    assert (tmp_path / "two" / "worm_report.json").exists()


def test_a_checkpoint_of_two_ranks_resumes_on_two_ranks(tmp_path: Path) -> None:
    whole = launch(tmp_path / "whole", 2, "gradient")
    again = launch(tmp_path / "whole", 2, "gradient", str(tmp_path / "whole" / "checkpoint-8"))
    assert again["ranks"] == whole["ranks"]
    assert all(torch.equal(again["weights"][name], weight) for name, weight in whole["weights"].items())
