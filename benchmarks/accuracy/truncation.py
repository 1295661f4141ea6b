"""What truncation does under AdamW: the size of the truncated step against that of the plain one, step by step.

    python benchmarks/accuracy/truncation.py [--steps 1000] [--data FOLDER] [--out benchmarks/results]

all-MiniLM-L6 is fine-tuned on MRPC with AdamW and r = 0.003 by a loop with `TicketSearch`, once with the target
`"gradient"` and once with `"update"`; truncation begins after 100 plain steps, as it would in a search. Beside the
optimizer runs a shadow of it that is fed the untruncated gradients of the same model: what AdamW would do to the doomed
weights at each step. The ratio of the two, summed over these weights, is the effective truncation. The prediction is
for constant gradients, N plain steps and k truncated ones: the mean is (β₁ᵏ (1 - β₁ᴺ) + (1 - β₁ᵏ) r) / (1 - β₁ᴺ⁺ᵏ), the
momentum of the time before, which wears off within some ten steps; it is divided by the root of the running size,
(β₂ᵏ (1 - β₂ᴺ) + (1 - β₂ᵏ) r²) / (1 - β₂ᴺ⁺ᵏ), which wears off within thousands. Writes truncation.json, .md, .png.
"""

import argparse
import json
import math
import os
import sys
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parents[1]))  # of machine.py

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt
import torch
from machine import machine, packaged_model
from torch import nn
from torch.utils.data import DataLoader
from transformers import set_seed

from hf_worm import TicketSearch, WormConfig
from hf_worm.commands.glue.command import GLUE
from hf_worm.commands.glue.job import build_trainer
from hf_worm.commands.job.parsing import parse

R = 0.003
BETAS = (0.9, 0.999)
PLAIN_STEPS = 100  # before truncation begins
SHOWN = (1, 3, 10, 30, 100, 300, 1000)
COLOURS = {"gradient": "#D55E00", "update": "#009E73"}


class Shadow:
    """AdamW's moments of some parameters, fed with gradients of their own."""

    def __init__(self, parameters: list[nn.Parameter]) -> None:
        self.parameters = parameters
        self.first = [torch.zeros_like(parameter) for parameter in parameters]
        self.second = [torch.zeros_like(parameter) for parameter in parameters]
        self.steps = 0

    def sizes(self, learning_rate: float, epsilon: float = 1e-8) -> list[torch.Tensor]:
        """Take the gradients as they are now, and return the size of the step that AdamW would make of them."""
        self.steps += 1
        found = []
        for parameter, first, second in zip(self.parameters, self.first, self.second, strict=True):
            assert parameter.grad is not None
            first.lerp_(parameter.grad, 1 - BETAS[0])
            second.mul_(BETAS[1]).addcmul_(parameter.grad, parameter.grad, value=1 - BETAS[1])
            mean = first / (1 - BETAS[0] ** self.steps)
            root = (second / (1 - BETAS[1] ** self.steps)).sqrt_()
            found.append(learning_rate * mean.abs_() / root.add_(epsilon))
        return found


def measure(target: str, steps: int, data: str, folder: Path) -> list[float]:
    """The effective truncation at each step after the trigger."""
    argv = ["--model_name_or_path", packaged_model(), "--task_name", "mrpc", "--dataset_name", data]
    argv += ["--output_dir", str(folder), "--per_device_train_batch_size", "8", "--report_to", "none"]
    trainer, _ = build_trainer(parse(GLUE, [*argv, "--use_cpu", "true", "--disable_tqdm", "true"]))
    set_seed(0)
    model = trainer.model.train()
    loader: DataLoader[Any] = trainer.get_train_dataloader()
    optimizer = torch.optim.AdamW(model.parameters(), lr=5e-5, betas=BETAS, weight_decay=0.0)
    # Two observations whose distance is below s = 1 are enough for the trigger, and the window never fills.
    search = TicketSearch(
        model, WormConfig(truncation=R, truncation_target=target, stopping_point=1.0, window=steps, margin=0.0)
    )
    search.attach(optimizer)
    parameters = [layer.parameter for layer in search.layers]
    shadow = Shadow(parameters)
    doomed: list[torch.Tensor] = []
    ratios: list[float] = []
    done = 0
    while len(ratios) < steps:
        for batch in loader:
            if done in (PLAIN_STEPS - 1, PLAIN_STEPS):
                search.observe()
                doomed = [~search.masks[layer.name] for layer in search.layers]
            with torch.autocast("cpu", torch.bfloat16):
                loss = model(**batch).loss
            loss.backward()
            plain = shadow.sizes(5e-5)
            before = [parameter.detach().clone() for parameter in parameters]
            search.truncate_gradients()
            optimizer.step()
            optimizer.zero_grad()
            if done >= PLAIN_STEPS:
                pairs = zip(parameters, before, strict=True)
                moved = total([(now.detach() - old).abs_() for now, old in pairs], doomed)
                ratios.append(moved / total(plain, doomed))
                if len(ratios) == steps:
                    break
            done += 1
    return ratios


def total(sizes: list[torch.Tensor], masks: list[torch.Tensor]) -> float:
    return sum(size[mask].sum().item() for size, mask in zip(sizes, masks, strict=True))


def predicted(step: int) -> float:
    """Of constant gradients: the moments of AdamW, corrected for their beginning at 0."""

    def moment(beta: float, gradient: float) -> float:
        left = beta**step
        return (left * (1 - beta**PLAIN_STEPS) + (1 - left) * gradient) / (1 - beta ** (PLAIN_STEPS + step))

    return moment(BETAS[0], R) / math.sqrt(moment(BETAS[1], R**2))


def draw(results: dict[str, Any], path: Path) -> None:
    figure, axis = plt.subplots(figsize=(7, 4), layout="constrained")
    for target, ratios in results["ratios"].items():
        axis.plot(range(1, len(ratios) + 1), ratios, color=COLOURS[target], label=f"target “{target}”, measured")
    steps = range(1, results["steps"] + 1)
    axis.plot(steps, [predicted(step) for step in steps], "k--", linewidth=1, label="predicted for constant gradients")
    axis.axhline(R, color="grey", linewidth=0.8, linestyle=":")
    axis.text(steps[-1], R, "r = 0.003", ha="right", va="bottom", fontsize=8, color="grey")
    axis.set(xscale="log", yscale="log", xlabel="optimizer steps since truncation began")
    axis.set_ylabel("truncated step ÷ plain step of AdamW")
    axis.legend(frameon=False, fontsize=8)
    figure.savefig(path, dpi=150)
    plt.close(figure)


def page(results: dict[str, Any]) -> str:
    shown = [step for step in SHOWN if step <= results["steps"]]
    lines = [
        "# What truncation does under AdamW",
        "",
        f"`{results['command']}`, torch {results['machine']['torch']}. all-MiniLM-L6 on MRPC, batches of 8, learning "
        f"rate 5e-5, no weight decay, r = {R}, begun after {PLAIN_STEPS} plain steps; one seed. The step that doomed "
        "weights make, as a share of the step that AdamW would have made with the untruncated gradients. The "
        "prediction is for gradients of one size; those of fine-tuning are not, and the measured share leaves it with "
        "time.",
        "",
        "| steps since truncation began | " + " | ".join(f"{step:,}" for step in shown) + " |",
        "| --- |" + " --- |" * len(shown),
    ]
    for target, ratios in results["ratios"].items():
        lines.append(f'| target "{target}" | ' + " | ".join(f"{ratios[step - 1]:.4f}" for step in shown) + " |")
    lines.append("| predicted for constant gradients | " + " | ".join(f"{predicted(s):.4f}" for s in shown) + " |")
    return "\n".join([*lines, "", "![The ratio against steps](truncation.png)", ""])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--steps", type=int, default=1000, help="truncated optimizer steps")
    parser.add_argument("--data", type=Path, help="folder with glue/ as on the Hub; default: the Hub")
    parser.add_argument("--out", type=Path, default=Path(__file__).parents[1] / "results", help="folder of the results")
    options = parser.parse_args()
    data = "nyu-mll/glue" if options.data is None else str(options.data / "glue")
    if options.data is not None:
        os.environ["HF_HUB_OFFLINE"] = "1"
    options.out.mkdir(parents=True, exist_ok=True)
    results = {
        "command": f"python benchmarks/accuracy/truncation.py --steps {options.steps}",
        "machine": machine(),
        "steps": options.steps,
        "ratios": {target: measure(target, options.steps, data, options.out) for target in COLOURS},
    }
    (options.out / "truncation.json").write_text(json.dumps(results) + "\n")
    (options.out / "truncation.md").write_text(page(results))
    draw(results, options.out / "truncation.png")
    print(page(results))


if __name__ == "__main__":
    main()
