"""The nine tasks of GLUE in one table, each under its configuration's name on the Hub."""

from difflib import get_close_matches

from hf_worm.commands.job.task import Task

TASKS: dict[str, Task] = {
    task.name: task
    for task in (
        Task("cola", ("sentence",), ("unacceptable", "acceptable"), ("matthews_correlation",)),
        Task(
            "mnli",
            ("premise", "hypothesis"),
            ("entailment", "neutral", "contradiction"),
            ("accuracy",),
            (("matched", "validation_matched"), ("mismatched", "validation_mismatched")),
        ),
        Task("mrpc", ("sentence1", "sentence2"), ("not_equivalent", "equivalent"), ("accuracy", "f1")),
        Task("qnli", ("question", "sentence"), ("entailment", "not_entailment"), ("accuracy",)),
        Task("qqp", ("question1", "question2"), ("not_duplicate", "duplicate"), ("accuracy", "f1")),
        Task("rte", ("sentence1", "sentence2"), ("entailment", "not_entailment"), ("accuracy",)),
        Task("sst2", ("sentence",), ("negative", "positive"), ("accuracy",)),
        Task("stsb", ("sentence1", "sentence2"), (), ("pearson", "spearmanr")),
        Task("wnli", ("sentence1", "sentence2"), ("not_entailment", "entailment"), ("accuracy",)),
    )
}


def find_task(name: str) -> Task:
    """Find the GLUE task of that name; capitals and hyphens don't matter (`SST-2` is `sst2`).

    Raises:
        ValueError: There is no such task.
    """
    task = TASKS.get(name.lower().replace("-", "").replace("_", ""))
    if task is not None:
        return task
    close = get_close_matches(name.lower(), TASKS, n=1)
    hint = f" Did you mean `{close[0]}`?" if close else ""
    raise ValueError(f"`{name}` is no task of GLUE.{hint} The nine are: {', '.join(TASKS)}.")
