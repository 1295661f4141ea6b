"""Counts what was tried to break runs: the suite on each set of versions, and the results of the longer benchmarks.

    PYTEST_ADDOPTS=--junit-xml=runs/newest.xml make test
    PYTEST_ADDOPTS=--junit-xml=runs/oldest.xml make test-oldest
    python benchmarks/robustness/reliability.py .venv/bin/python=runs/newest.xml .venv-oldest/bin/python=runs/oldest.xml

Reads these reports, each with the versions that its Python has, the newest first; and kills.json, fuzz.json and
zeros.json, which `kills.py`, `fuzz.py` and `zeros.py` beside it wrote. Writes reliability.md and .json; ends with 1
where a test failed.
"""

import argparse
import json
import subprocess
import sys
from collections import Counter
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

DISTRIBUTIONS = ("torch", "transformers", "accelerate", "datasets", "huggingface_hub", "numpy")
TESTED = {
    "trainers/test_sft": "under TRL's `SFTTrainer`",
    "trainers/test_sentence_transformers": "under `SentenceTransformerTrainer`",
    "trainers/test_seq2seq": "under `Seq2SeqTrainer`",
    "trainers/test_run_glue_script": "in a script of run_glue.py's kind",
    "trainers/test_peft": "PEFT (LoRA) models",
    "test_distributed": "two processes, by torchrun and accelerate",
    "test_seams": "callbacks, subclasses, optimizers and copies made elsewhere",
    "test_fsdp": "FSDP2, `TicketSearch`",
    "test_precision": "precision, compilers, checkpointing",
    "test_hub_server": "the real Hub client on a local Hub",
}


def versions(python: str) -> dict[str, str]:
    program = f"""if True:
        import json, platform
        from importlib.metadata import version
        found = {{name: version(name) for name in {DISTRIBUTIONS}}}
        print(json.dumps({{"python": platform.python_version(), **found}}))
    """
    return json.loads(subprocess.run([python, "-c", program], capture_output=True, text=True, check=True).stdout)


def suite(python: str, report: Path) -> dict[str, Any]:
    """The outcome of every test in a report, counted by module and in all."""
    modules: dict[str, Counter[str]] = {}
    for case in ElementTree.parse(report).iter("testcase"):
        found = {child.tag for child in case}
        outcome = "failed" if found & {"failure", "error"} else "skipped" if "skipped" in found else "passed"
        module = case.attrib["classname"].rpartition(".")[2]
        modules.setdefault(module, Counter())[outcome] += 1
    return {
        "versions": versions(python),
        "total": dict(sum(modules.values(), Counter())),
        "modules": {module: dict(counts) for module, counts in sorted(modules.items())},
    }


def table(results: dict[str, Any]) -> str:
    suites, kills, fuzz, zeros = (results[name] for name in ("suites", "kills", "fuzz", "zeros"))
    newest = suites[0]["modules"]
    equal = sum(not run["differing"] for run in kills["runs"])
    killed = sum(run["kills"] for run in kills["runs"])
    failed = sum(reader["failed"] for reader in fuzz["readers"].values())
    outcomes = Counter(found["outcome"] for found in zeros["optimizers"])
    ran = [found for found in zeros["optimizers"] if "looked" in found]
    looked, broken = (sum(sum(found[what].values()) for found in ran) for what in ("looked", "broken"))
    told = ", ".join(f"{number} {outcome}" for outcome, number in outcomes.items())
    rows = [
        (
            "kills by SIGKILL, resumed",
            f"{killed} in {len(kills['runs'])} runs, {kills['tally']['while_saving']} while a checkpoint was written: "
            f"{equal} runs equal to the uninterrupted one to the last bit",
            f"`{kills['command']}`, [kills](kills.md)",
        ),
        (
            "damaged files read",
            f"{fuzz['cases']:,}: {failed} gave anything but a clear error or a valid object",
            f"`{fuzz['command']}`, [fuzz](fuzz.md)",
        ),
        (
            "optimizers of `OptimizerNames`",
            f"{len(zeros['optimizers'])}: {told}; {looked:,} looks, {broken} of which found a pruned weight not 0",
            f"`{zeros['command']}`, [zeros](zeros.md)",
        ),
        ("wrong inputs, each with its error", count(newest["test_bad_input"]), "`pytest tests/test_bad_input.py`"),
        *((label, count(newest[Path(path).name]), f"`pytest tests/{path}.py`") for path, label in TESTED.items()),
    ]
    lines = [
        "# Reliability",
        "",
        "By `python benchmarks/robustness/reliability.py .venv/bin/python=runs/newest.xml ...` from the suites' "
        "reports; its docstring says how they are made.",
        "",
        "| what | result | command |",
        "| --- | --- | --- |",
    ]
    lines += ["| " + " | ".join(row) + " |" for row in rows]
    lines += [
        "",
        "## The suite by versions",
        "",
        "The pinned ones: `make test`; the oldest: `make test-oldest`; others: installed in the place of the pinned.",
        "",
        "| Python | " + " | ".join(DISTRIBUTIONS) + " | tests |",
    ]
    lines += ["| " + " | ".join(["---"] * (len(DISTRIBUTIONS) + 2)) + " |"]
    for found in suites:
        told = [found["versions"][name] for name in ("python", *DISTRIBUTIONS)]
        lines.append("| " + " | ".join([*told, count(found["total"])]) + " |")
    lines += [
        "",
        "Skipped: tests that need CUDA; with the oldest versions, TRL's and FSDP2's (see tests/test_fsdp.py).",
        "",
    ]
    return "\n".join(lines)


def count(outcomes: dict[str, int]) -> str:
    return ", ".join(f"{outcomes[name]:,} {name}" for name in ("passed", "failed", "skipped") if outcomes.get(name))


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("suites", nargs="+", metavar="PYTHON=REPORT", help="a Python and the report of its suite")
    parser.add_argument("--out", type=Path, default=Path(__file__).parents[1] / "results", help="folder of the results")
    options = parser.parse_args()
    pairs = [given.partition("=")[::2] for given in options.suites]
    results = {
        **{name: json.loads((options.out / f"{name}.json").read_text()) for name in ("kills", "fuzz", "zeros")},
        "suites": [suite(python, Path(report)) for python, report in pairs],
    }
    (options.out / "reliability.md").write_text(table(results))
    (options.out / "reliability.json").write_text(json.dumps({"suites": results["suites"]}, indent=2) + "\n")
    print(table(results))
    return 1 if any(found["total"].get("failed") for found in results["suites"]) else 0


if __name__ == "__main__":
    sys.exit(main())
