"""A report as a finished run writes it, in a dictionary: small, and the same every time."""

import copy
from typing import Any

_OBSERVATION = {"truncating": False, "converged": False, "doomed_share": None}
REPORT: dict[str, Any] = {
    "model": "a-bert",
    "architecture": "BertForSequenceClassification",
    "metrics": {
        "before_draw": {"loss": 0.41, "accuracy": 0.85, "f1": 0.9},
        "drawn": {"loss": 0.45, "accuracy": 0.8, "f1": 0.88},
        "retrained": {"loss": 0.4, "accuracy": 0.86, "f1": 0.91},
    },
    "search": {
        "epochs": 3.0,
        "steps": 345,
        "seconds": 12.34,
        "converged": True,
        "observations": [
            {"index": 0, "distances": [], "max_distance": None, "mean_distance": None, **_OBSERVATION},
            {"index": 1, "distances": [0.02], "max_distance": 0.02, "mean_distance": 0.02, **_OBSERVATION},
            {
                "index": 2,
                "distances": [0.008, 0.004],
                "max_distance": 0.008,
                "mean_distance": 0.006,
                **_OBSERVATION,
                "truncating": True,
                "converged": True,
            },
        ],
    },
    "draw": {"seconds": 0.26},
    "retrain": {"epochs": 1.0, "steps": 115, "seconds": 4.5},
    "account": {
        "pruned_weights": 7_077_888,
        "representative_weights": 14_155_776,
        "model_weights": 109_483_778,
        "share_of_representative": 0.5,
        "share_of_model": 0.0646,
        "note": "Zeros make no dense product faster. " * 6,
    },
    "layers": {"encoder.0.query.weight": 0.5, "encoder.0.key.weight": 0.5},
    "config": {
        "prune_ratio": 0.5,
        "truncation": 0.003,
        "stopping_point": 0.01,
        "margin": 0.005,
        "window": 3,
        "layers": ["query", "key"],
    },
    "loading": {
        "module": "transformers",
        "class": "BertForSequenceClassification",
        "call": "BertForSequenceClassification.from_pretrained",
        "options": {},
    },
}


def small_report(**settings: Any) -> dict[str, Any]:
    """Copy the report, with some settings changed."""
    report = copy.deepcopy(REPORT)
    report["config"] |= settings
    return report
