"""Retrains a drawn model under each optimizer of the Trainer and looks whether one pruned weight ever comes back.

    python benchmarks/robustness/zeros.py [--steps 1000] [--only adamw_torch sgd] [--out benchmarks/results]

Writes `zeros.json` and `zeros.md`. An optimizer whose package is not installed is listed as such; packages in a folder
of their own are found with `PYTHONPATH`, which leaves the environment as it is:

    pip install --no-deps --target FOLDER schedulefree grokadamw lomo-optim torch-optimi galore-torch apollo-torch \
        bitsandbytes torchao
"""

import argparse
import contextlib
import json
import os
import sys
import tempfile
import time
import traceback
import warnings
from importlib import metadata
from pathlib import Path
from typing import Any

os.environ["HF_HUB_OFFLINE"] = "1"
sys.path.insert(0, str(Path(__file__).parents[1]))  # of machine.py
sys.path.insert(0, str(Path(__file__).parents[2] / "tests"))

import torch
from machine import machine
from safetensors.torch import load_file
from torch import nn
from training import by_weights
from transformers import BertConfig, BertForSequenceClassification, TrainerCallback, TrainingArguments
from transformers.training_args import OptimizerNames
from transformers.utils.logging import disable_progress_bar

from hf_worm import WormConfig, WormTrainer
from hf_worm.core.truncation import unwrapped

# What an optimizer's name begins with or contains, and the distribution on PyPI that it comes in.
PACKAGES = {
    "xla": "torch-xla",
    "npu": "torch-npu",
    "anyprecision": "torchdistx",
    "4bit": "torchao",
    "adamw_torch_8bit": "torchao",
    "galore": "galore-torch",
    "apollo": "apollo-torch",
    "lomo": "lomo-optim",
    "grokadamw": "grokadamw",
    "schedule_free": "schedulefree",
    "stable_adamw": "torch-optimi",
    "bnb": "bitsandbytes",
    "8bit": "bitsandbytes",
    "paged": "bitsandbytes",
    "ademamix": "bitsandbytes",
    "lion": "bitsandbytes",
}
LOW_RANK = ("galore", "apollo")
MOMENTUM = ("sgd", "rmsprop")
SEARCHED = 9  # optimizer steps: three observations, truncating all along


class Watch(TrainerCallback):
    """Looks at the pruned weights before every forward pass, after every step and in every checkpoint of retraining."""

    trainer: WormTrainer

    def __init__(self) -> None:
        self.looked = {"steps": 0, "saves": 0, "forward passes": 0}
        self.broken = dict.fromkeys(self.looked, 0)
        self.drawn: dict[str, torch.Tensor] = {}
        self.masks: dict[str, torch.Tensor] = {}

    def look(self, where: str, weights: dict[str, torch.Tensor]) -> None:
        if self.trainer.ticket is None:
            return
        self.looked[where] += 1
        self.masks = self.masks or by_weights(self.trainer.ticket, self.trainer.model).masks
        self.broken[where] += any(weights[name].detach()[~mask].any() for name, mask in self.masks.items())

    def before_forward(self, model: nn.Module, inputs: Any) -> None:
        self.look("forward passes", dict(model.named_parameters()))

    def on_pre_optimizer_step(self, args: Any, state: Any, control: Any, model: nn.Module, **kwargs: Any) -> None:
        if self.trainer.ticket is not None and not self.drawn:
            self.drawn = {name: weight.detach().clone() for name, weight in model.named_parameters()}

    def on_step_end(self, args: Any, state: Any, control: Any, model: nn.Module, **kwargs: Any) -> None:
        self.look("steps", dict(model.named_parameters()))

    def on_save(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        newest = max(Path(args.output_dir).glob("checkpoint-*"), key=lambda path: int(path.name.partition("-")[2]))
        self.look("saves", load_file(newest / "model.safetensors"))

    def moved(self, model: nn.Module) -> float:
        """Share of the kept weights that are not what they were when drawn."""
        weights = dict(model.named_parameters())
        kept = [(weights[name][mask] != self.drawn[name][mask]) for name, mask in self.masks.items()]
        return torch.cat(kept).double().mean().item()


def package(name: str) -> str | None:
    return next((found for part, found in PACKAGES.items() if part in name), None)


def retrain(name: str, steps: int) -> dict[str, Any]:
    """One model, searched, drawn and retrained; what was looked at and what was found broken."""
    torch.manual_seed(0)
    model = BertForSequenceClassification(
        BertConfig(
            vocab_size=64,
            hidden_size=64,  # 4,096 weights in a matrix: below that, 8-bit optimizers keep their states in 32 bits
            num_hidden_layers=2,
            num_attention_heads=2,
            intermediate_size=64,
            max_position_embeddings=8,
            num_labels=2,
        )
    )
    rows = [{"input_ids": ids, "labels": int(ids[0] > ids[-1])} for ids in torch.randint(0, 64, (64, 8))]
    watch = Watch()
    low_rank = name.startswith(LOW_RANK)
    with tempfile.TemporaryDirectory() as folder:
        args = TrainingArguments(
            folder,
            optim=name,
            optim_args="momentum=0.9" if name in MOMENTUM else "rank=4,update_proj_gap=50" if low_rank else None,
            optim_target_modules=["query", "key", "value", "dense"] if low_rank else None,
            learning_rate=1e-3,
            weight_decay=0.1,
            per_device_train_batch_size=8,
            max_steps=SEARCHED,
            eval_strategy="steps",
            eval_steps=max(steps // 10, 1),
            save_strategy="steps",
            save_steps=max(steps // 10, 1),
            save_total_limit=1,
            logging_strategy="no",
            report_to=[],
            use_cpu=True,
            disable_tqdm=True,
            dataloader_pin_memory=False,
        )
        trainer = WormTrainer(
            model=model,
            args=args,
            train_dataset=rows,
            eval_dataset=rows[:8],
            callbacks=[watch],
            worm_config=WormConfig(
                layers=["query", "key", "neurons"],
                stopping_point=1.0,
                sample_strategy="steps",
                sample_steps=SEARCHED // 3,
                truncate_from="start",
                truncation_target="update" if "lion" in name else "gradient",
                retrain_epochs=steps / 8,
            ),
        )
        watch.trainer = trainer
        model.register_forward_pre_hook(watch.before_forward)
        begun = time.perf_counter()
        trainer.train()
        trainer.save_model()
        watch.look("saves", load_file(Path(folder) / "model.safetensors"))
        state = {type(value).__name__ + "/" + str(getattr(value, "dtype", "")) for value in states(trainer, model)}
    return {
        "looked": watch.looked,
        "broken": watch.broken,
        "kept_moved": watch.moved(model),
        "seconds": time.perf_counter() - begun,
        "state": sorted(state),
    }


def states(trainer: WormTrainer, model: nn.Module) -> list[Any]:
    """What the optimizer keeps of a watched weight, number of steps aside."""
    assert trainer.optimizer is not None
    optimizer = unwrapped(trainer.optimizer)
    parameter = model.get_parameter("bert.encoder.layer.0.attention.self.query.weight")
    kept = optimizer.state[parameter].values()
    return [value for value in kept if isinstance(value, torch.Tensor) and value.numel() > 1]


def outcome(name: str, steps: int) -> dict[str, Any]:
    distribution = package(name)
    found: dict[str, Any] = {"optimizer": name, "package": distribution or "torch, transformers"}
    if distribution is not None:
        with contextlib.suppress(metadata.PackageNotFoundError):
            found["package"] = f"{distribution} {metadata.version(distribution)}"
    try:
        found.update(retrain(name, steps))
    except Exception as error:  # whatever a foreign optimizer raises is the result
        last = traceback.extract_tb(error.__traceback__)[-1]
        lines = str(error).strip().splitlines() or [""]
        found["message"] = f"{type(error).__name__}: {lines[0]}"
        if "`WormTrainer` does not support" in found["message"]:
            found["outcome"] = "refused"
        elif distribution is not None and " " not in found["package"]:
            found["outcome"] = "not installed"
        elif "CUDA" in found["message"]:
            found["outcome"] = "needs a GPU"
        else:
            found["outcome"] = "does not run here"
            found["where"] = f"{Path(last.filename).name}:{last.lineno}"
        return found
    held = not any(found["broken"].values()) and found["kept_moved"] > 0
    found["outcome"] = "held" if held else "BROKEN"
    return found


def table(results: dict[str, Any]) -> str:
    kinds = [found["outcome"] for found in results["optimizers"]]
    counts = ", ".join(f"{kinds.count(kind)} {kind}" for kind in dict.fromkeys(kinds))
    lines = [
        "# Zeros",
        "",
        f"`{results['command']}` on {results['machine']['cpu']}, torch {results['machine']['torch']}, transformers "
        f"{results['machine']['transformers']}, no GPU. A two-block BERT, searched for {SEARCHED} steps, drawn at a "
        f"ratio of 0.5 and retrained for {results['steps']:,} steps with a weight decay of 0.1 under each optimizer of "
        "`OptimizerNames`. *Held*: each pruned weight of query and key, and each weight of a pruned neuron, was "
        "exactly 0 after every step, in every checkpoint on disk, and before every forward pass, those of evaluations "
        "included, while the kept ones moved. "
        f"Of {len(kinds)}: {counts}.",
        "",
        "| optimizer | from | outcome | steps | saves | forward passes | kept weights that moved |",
        "| --- | --- | --- | --- | --- | --- | --- |",
    ]
    for found in results["optimizers"]:
        row = f"| `{found['optimizer']}` | {found['package']} | "
        if "looked" in found:
            broken = {where: f" ({count} broken)" if count else "" for where, count in found["broken"].items()}
            looked = " | ".join(f"{count:,}{broken[where]}" for where, count in found["looked"].items())
            row += f"{found['outcome']} | {looked} | {found['kept_moved']:.1%} |"
        else:
            row += f"{found['outcome']}: {found['message'].partition('. ')[0].replace('|', '/')} | | | | |"
        lines.append(row)
    return "\n".join([*lines, ""])


def main() -> None:
    names = [str(name.value) for name in OptimizerNames]
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=Path(__file__).parents[1] / "results", help="folder of the results")
    parser.add_argument("--steps", type=int, default=1000, help="optimizer steps of each retraining")
    parser.add_argument("--only", nargs="+", choices=names, metavar="NAME", help="anew; keep the others'")
    options = parser.parse_args()
    torch.set_num_threads(1)
    disable_progress_bar()
    warnings.simplefilter("ignore")  # of packages older than this PyTorch
    path = options.out / "zeros.json"
    known = json.loads(path.read_text())["optimizers"] if options.only and path.exists() else []
    found = {result["optimizer"]: result for result in known}
    for name in options.only or names:
        found[name] = outcome(name, options.steps)
        told = {key: value for key, value in found[name].items() if key != "optimizer"}
        print(name, json.dumps(told), file=sys.stderr, flush=True)
    results = {
        "command": f"python benchmarks/robustness/zeros.py --steps {options.steps}",
        "machine": machine(),
        "steps": options.steps,
        "optimizers": [found[name] for name in names if name in found],
    }
    options.out.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(results, indent=2) + "\n")
    path.with_suffix(".md").write_text(table(results))
    print(table(results))


if __name__ == "__main__":
    main()
