"""Two processes with gloo: the same masks on both ranks, and the result of one process with the same global batch."""

import json
import socket
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from train_in_ddp import train

SCRIPT = Path(__file__).with_name("train_in_ddp.py")
TORCHRUN = ("torch.distributed.run", "--standalone", "--nproc_per_node=2")
ACCELERATE = (  # `--multi_gpu` is what starts several processes, with GPUs or without; `--cpu` starts one
    *("accelerate.commands.launch", "--multi_gpu", "--num_processes=2", "--num_machines=1"),
    *("--mixed_precision=no", "--dynamo_backend=no"),
)


def free_port() -> int:
    """For accelerate, which takes one port for all runs unless told; 0 is "any" in its newest versions only."""
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return int(listener.getsockname()[1])


def launch(folder: Path, launcher: tuple[str, ...], *flags: str) -> dict[str, Any]:
    """Train in two processes that `launcher` starts, in batches of 8 over both."""
    port = (f"--main_process_port={free_port()}",) if launcher is ACCELERATE else ()
    done = subprocess.run(
        [sys.executable, "-m", *launcher, *port, str(SCRIPT), str(folder), "4", *flags],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    return {"out": done.stdout, **found(folder, 2)}


def found(folder: Path, processes: int) -> dict[str, Any]:
    """What so many processes have left."""
    ranks = [json.loads((folder / f"rank{rank}.json").read_text()) for rank in range(processes)]
    return {"ranks": ranks, "weights": load_file(folder / "model.safetensors")}


@pytest.mark.parametrize(
    ("target", "launcher"),
    [
        ("gradient", TORCHRUN),
        ("update", ACCELERATE),
        ("fade", TORCHRUN),
        ("compact", ACCELERATE),
        ("fisher", TORCHRUN),
        ("cubic", TORCHRUN),
        ("faster", TORCHRUN),
    ],
)
def test_two_ranks_equal_one_process(tmp_path: Path, target: str, launcher: tuple[str, ...]) -> None:
    train(tmp_path / "one", 8, target)
    one = found(tmp_path / "one", 1)
    two = launch(tmp_path / "two", launcher, target)
    first, second = two["ranks"]
    assert first == second, "the ranks found different masks, weights or histories"
    assert first["history"] == one["ranks"][0]["history"]
    assert first["truncating"] or target in ("cubic", "faster"), "nothing was truncated: the run shows nothing"
    torch.testing.assert_close(two["weights"], one["weights"], rtol=1e-3, atol=1e-5)
    assert two["out"].count("first masks taken") == 1, "one rank reports, and no other"
    assert (tmp_path / "two" / "worm_report.json").exists()


def test_a_checkpoint_of_two_ranks_resumes_on_two_ranks(tmp_path: Path) -> None:
    whole = launch(tmp_path / "whole", ACCELERATE, "gradient")
    again = launch(tmp_path / "whole", TORCHRUN, "gradient", str(tmp_path / "whole" / "checkpoint-8"))
    assert again["ranks"] == whole["ranks"]
    assert all(torch.equal(again["weights"][name], weight) for name, weight in whole["weights"].items())
