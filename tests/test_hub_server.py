"""The unmodified client of the Hub against tests/hub_server.py: pushed, loaded, refused and broken off."""

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from urllib.request import ProxyHandler, Request, build_opener

import pytest
from hub_server import OWNER, WRITER, Commit, Hub, serve
from huggingface_hub import ModelCard
from safetensors.torch import load
from training import pruned_are_zero, same_weights
from transformers import AutoModelForSequenceClassification, BertForSequenceClassification

from hf_worm import Ticket, WormConfig

FILES = {"config.json", "model.safetensors", "ticket.safetensors", "worm_config.json", "worm_history.json"}
PUSHED = {*FILES, "README.md", "worm_report.json", "training_args.bin"}
FAILED = {
    "refused": ["401 Unauthorized", "Invalid credentials in Authorization header"],
    "forbidden": ["403 Forbidden: Your token has no write permission", "someone/forbidden"],
    "broken": ["500 Internal Server Error", "someone/broken/commit/main", "The disk of this Hub is full."],
    "cut": ["Server disconnected", "Retrying in 8s [Retry 5/5]", "RuntimeError: Error while uploading '"],
    "slow": ["upload_folder", "ReadTimeout: timed out"],
}


@dataclass
class Session:
    """What tests/hub_client.py did with a Hub: exit codes and output by scenario, and files by repository."""

    hub: Hub
    folder: Path
    exits: dict[str, int] = field(default_factory=dict)

    def __post_init__(self) -> None:
        environment = {name: value for name, value in os.environ.items() if not name.startswith(("HF_", "TRANSF"))}
        environment |= {
            "HF_ENDPOINT": self.hub.url,
            "HF_HUB_ETAG_TIMEOUT": "2",
            "HF_HOME": str(self.folder / "home"),
            "HF_HUB_DISABLE_XET": "1",
            "HF_TOKEN": WRITER,
            "OMP_NUM_THREADS": "1",
            # What is meant for any other host comes to this Hub, too, and is logged.
            **dict.fromkeys(["HTTP_PROXY", "http_proxy", "HTTPS_PROXY", "https_proxy"], self.hub.url),
            **dict.fromkeys(["NO_PROXY", "no_proxy"], "127.0.0.1"),
        }
        client = [sys.executable, Path(__file__).with_name("hub_client.py"), self.folder]
        self.client = subprocess.Popen(
            client, env=environment, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )

    def run(self, *scenarios: str) -> None:
        assert self.client.stdin is not None and self.client.stdout is not None
        print(*scenarios, file=self.client.stdin, flush=True)
        self.exits |= json.loads(self.client.stdout.readline())

    def output(self, scenario: str) -> str:
        return (self.folder / f"{scenario}.log").read_text()

    def commits(self, repo: str) -> list[Commit]:
        return self.hub.commits[f"{OWNER}/{repo}"]


def folder_files(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir() if path.is_file()}


def same_result(ours: dict[str, bytes], theirs: dict[str, bytes]) -> bool:
    """Whether both are whole, with the same weights and the same ticket, to the byte."""
    return all(ours[name] == theirs[name] for name in FILES)


@pytest.fixture(scope="module")
def session(_bert: BertForSequenceClassification, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Session]:
    with serve() as hub:
        session = Session(hub, tmp_path_factory.mktemp("session"))
        _bert.save_pretrained(session.folder / "start")
        for repo in ("forbidden", "plain"):
            hub.create(f"{OWNER}/{repo}")
        hub.faults = {
            (f"{OWNER}/bert", "slow_upload"): 4,
            (f"{OWNER}/flaky", "cut_upload"): 2,
            (f"{OWNER}/cut", "cut_upload"): 1_000,
            (f"{OWNER}/broken", "fail_commit"): 1_000,
            (f"{OWNER}/slow", "hang_commit"): 1_000,
        }
        with session.client:
            session.run("bert", "cnn", "compact", "flaky", *FAILED)
            yield session
        assert session.client.returncode == 0 and hub.errors == []


@pytest.fixture(scope="module")
def failed(session: Session) -> dict[str, set[str]]:
    """What the repositories hold after the pushes that failed, and before the next ones."""
    return {repo: set(session.commits(repo)[-1].files) for repo in FAILED if f"{OWNER}/{repo}" in session.hub.commits}


@pytest.fixture(scope="module")
def loaded(session: Session, failed: dict[str, set[str]]) -> Path:
    """Where processes of their own have put what they loaded."""
    revisions = {repo: [commit.oid for commit in session.commits(repo)] for repo in ("bert", "cnn", "compact")}
    (session.folder / "revisions.json").write_text(json.dumps(revisions))
    session.hub.faults |= {(f"{OWNER}/bert", "hang_download"): 1, (f"{OWNER}/bert", "cut_download"): 1}
    session.run("load", "load_code", "load_smaller", "resume", "again")
    return session.folder / "loaded"


def test_a_push_leaves_the_whole_run_in_the_repository(session: Session) -> None:
    assert session.exits["bert"] == 0, session.output("bert")
    files = session.commits("bert")[-1].files
    local = session.folder / "bert"
    assert set(files) == {*PUSHED, ".gitattributes"}
    assert all(files[name] == (local / name).read_bytes() for name in PUSHED)
    assert pruned_are_zero(local, Ticket.from_pretrained(local))
    report = json.loads(files["worm_report.json"])
    assert set(report["metrics"]) == {"before_draw", "drawn", "retrained"}


def test_every_save_is_a_commit_and_the_ticket_comes_once_it_is_drawn(session: Session) -> None:
    commits = session.commits("bert")[1:]
    assert [commit.title for commit in commits] == [
        *[f"Training in progress, epoch {epoch}" for epoch in (1, 2, 3, 4)],
        "End of training",
    ]
    assert ["ticket.safetensors" in commit.files for commit in commits] == [False, False, False, True, True]
    masks = Ticket.from_pretrained(session.folder / "bert").masks
    for commit in commits:
        weights = load(commit.files["model.safetensors"])
        zeros = all(bool((weights[name][~mask] == 0).all()) for name, mask in masks.items())
        assert zeros == ("ticket.safetensors" in commit.files)
    assert len({commit.files["model.safetensors"] for commit in commits[:4]}) == 4


def test_what_is_loaded_is_what_was_saved(session: Session, loaded: Path) -> None:
    assert session.exits["load"] == 0, session.output("load")
    local, commits = session.folder / "bert", session.commits("bert")
    for name, commit in (("newest", commits[-1]), ("first", commits[1])):
        found = load((loaded / "bert" / name / "model.safetensors").read_bytes())
        assert same_weights(found, load(commit.files["model.safetensors"])), name
    for name in ("newest", "last_but_one"):
        found_ticket, ticket = Ticket.from_pretrained(loaded / "ticket" / name), Ticket.from_pretrained(local)
        assert same_weights(found_ticket.masks, ticket.masks)
        assert (found_ticket.config, found_ticket.history) == (ticket.config, ticket.history)
        assert found_ticket.converged
    assert WormConfig.from_pretrained(loaded / "config") == WormConfig(stopping_point=0.5)
    assert all((loaded / "snapshot" / name).read_bytes() == (local / name).read_bytes() for name in PUSHED)


def test_a_download_that_hung_or_broke_off_is_tried_again(session: Session, loaded: Path) -> None:
    assert session.exits["load"] == 0, session.output("load")
    assert "peer closed connection" in session.output("load")
    happened = [name for (repo, name), left in session.hub.faults.items() if repo == f"{OWNER}/bert" and left <= 0]
    assert {"hang_download", "cut_download"} <= set(happened)


def test_a_part_of_a_file_can_be_had(session: Session) -> None:
    whole = session.commits("bert")[-1].files["model.safetensors"]
    request = Request(f"{session.hub.url}/someone/bert/resolve/main/model.safetensors", headers={"Range": "bytes=9-"})
    with build_opener(ProxyHandler({})).open(request) as answer:
        assert answer.status == 206 and answer.read() == whole[9:]
        assert answer.headers["X-Repo-Commit"] == session.commits("bert")[-1].oid


def test_the_hub_and_its_client_accept_the_card(session: Session, loaded: Path) -> None:
    data = json.loads((loaded / "card.json").read_text())
    assert set(data["tags"]) >= {"worm", "early-bird", "pruning", "generated_from_trainer", "mine"}
    assert data["language"] == ["en"] and data["library_name"] == "transformers"
    (result,) = data["model-index"][0]["results"]
    local = json.loads((session.folder / "bert" / "worm_report.json").read_text())
    assert result["task"]["type"] == "text-classification" and result["dataset"]["type"] == "nyu-mll/glue"
    assert [(metric["type"], metric["value"]) for metric in result["metrics"]] == [
        ("accuracy", pytest.approx(local["metrics"]["retrained"]["accuracy"], abs=1e-4))
    ]
    card = ModelCard(session.commits("bert")[-1].files["README.md"].decode())
    assert 'Ticket.from_pretrained("someone/bert")' in card.text
    assert [result.metric_type for result in card.data.eval_results] == ["accuracy"]


def test_a_model_that_carries_its_code_loads_without_hf_worm_from_every_commit(session: Session, loaded: Path) -> None:
    assert (session.exits["cnn"], session.exits["load_code"]) == (0, 0), session.output("load_code")
    commits = session.commits("cnn")[1:]
    assert len(commits) > 3 and all("resnet.py" in commit.files for commit in commits)
    for name, commit in (("newest", commits[-1]), ("first", commits[0])):
        found = (loaded / "cnn" / name / "model.safetensors").read_bytes()
        assert same_weights(load(found), load(commit.files["model.safetensors"]))


def test_a_smaller_model_is_pushed_and_loaded_by_its_record(session: Session, loaded: Path) -> None:
    assert session.exits["compact"] == session.exits["load_smaller"] == 0, session.output("load_smaller")
    assert "mismatched" in (loaded / "compact" / "plain.txt").read_text()
    commits = session.commits("compact")
    sizes = []
    for name, commit in (("first", commits[1]), ("newest", commits[-1])):
        found = load((loaded / "compact" / name / "model.safetensors").read_bytes())
        assert same_weights(found, load(commit.files["model.safetensors"])), name
        sizes.append(sum(weight.numel() for weight in found.values()))
    account = json.loads(commits[-1].files["worm_report.json"])["account"]
    assert sizes == [account["model_weights"], account["compact_weights"]]
    assert 'load_compact("someone/compact")' in commits[-1].files["README.md"].decode()


def test_an_upload_that_broke_off_is_tried_again(session: Session) -> None:
    assert session.exits["flaky"] == 0, session.output("flaky")
    assert session.output("flaky").count("Retrying in") == 2
    ours, theirs = (session.commits(repo)[-1].files for repo in ("flaky", "bert"))
    assert same_result(ours, theirs) and set(ours) >= PUSHED


@pytest.mark.parametrize("scenario", FAILED)
def test_a_push_that_fails_says_why_and_the_local_result_is_whole(
    session: Session, failed: dict[str, set[str]], scenario: str
) -> None:
    assert session.exits[scenario] == 1
    assert [part for part in FAILED[scenario] if part not in session.output(scenario)] == []
    assert failed.get(scenario, {".gitattributes"}) == {".gitattributes"}, "nothing of it came to be committed"
    local, whole = session.folder / scenario, session.folder / "bert"
    assert same_result(folder_files(local), folder_files(whole))
    report = json.loads((local / "worm_report.json").read_text())
    assert set(report["metrics"]) == {"before_draw", "drawn", "retrained"}
    model = AutoModelForSequenceClassification.from_pretrained(local)
    ticket = Ticket.from_pretrained(local)
    assert same_weights(model.state_dict(), ticket.apply_(model).state_dict())


@pytest.mark.parametrize(("scenario", "cause"), [("forbidden", "403 Forbidden"), ("broken", "Server error '500")])
def test_a_push_that_fails_while_training_is_told(session: Session, scenario: str, cause: str) -> None:
    output = session.output(scenario)
    warning = output.partition(f"A push to `someone/{scenario}` while training failed.")[2]
    assert f"{session.folder / scenario}. HfHubHTTPError: {cause}" in warning.partition("\n")[0]
    assert output.index("while training failed") < output.index("Traceback")
    assert "while training failed" not in session.output("bert") + session.output("cnn")


def test_a_run_whose_push_failed_is_resumed_and_pushed(session: Session, loaded: Path) -> None:
    assert session.exits["resume"] == 0, session.output("resume")
    ours, theirs = (session.commits(repo)[-1] for repo in ("forbidden", "bert"))
    assert ours.title == "End of training" and set(ours.files) >= PUSHED
    assert same_result(ours.files, theirs.files)


def test_a_run_that_begins_in_the_folder_of_another_does_not_push_what_that_left(
    session: Session, loaded: Path
) -> None:
    assert session.exits["again"] == 0, session.output("again")
    commits, local = session.commits("again")[1:], session.folder / "again"
    ours = {"ticket.safetensors", "worm_config.json", "worm_history.json", "worm_report.json"}
    assert [ours & set(commits[place].files) for place in (0, -1)] == [set(), ours]
    assert same_result(commits[-1].files, session.commits("bert")[-1].files)
    earlier = Ticket.from_pretrained(local / "_earlier_run")
    assert same_weights(earlier.masks, Ticket.from_pretrained(session.folder / "bert").masks), "nothing is lost"


def test_what_cannot_be_loaded_is_told(loaded: Path) -> None:
    errors = json.loads((loaded / "errors.json").read_text())
    expected = {
        "invalid card": ("ValueError", "must be a string or a list of strings"),
        "no ticket": ("FileNotFoundError", "someone/plain holds no `ticket.safetensors` at revision `main`"),
        "no settings": ("FileNotFoundError", "someone/plain holds no `worm_config.json` at revision `main`"),
        "no ticket yet": ("FileNotFoundError", "or pushed before the ticket was drawn"),
        "no repository": ("FileNotFoundError", "someone/nothing is neither a folder here nor a repository on the Hub"),
        "no revision": ("RevisionNotFoundError", "Invalid rev id: v9"),
        "unknown token": ("HfHubHTTPError", "Invalid credentials in Authorization header"),
        "no id": ("FileNotFoundError", "run/of/mine is neither a folder nor the id of a Hub repository"),
        "old parent": ("HfHubHTTPError", "A commit has happened since"),
    }
    assert errors.keys() == expected.keys()
    for name, (kind, text) in expected.items():
        assert errors[name][0] == kind and text in errors[name][1], (name, errors[name])


def test_no_request_went_elsewhere(session: Session, loaded: Path) -> None:
    requests = session.hub.requests
    assert [request for request in requests if not request.target.startswith("/") or request.status == 501] == []
    sent = [request.target for request in requests if request.method == "PUT" and request.status == 200]
    assert any(target.startswith("/lfs/someone/bert/") for target in sent)
    routes = (
        "/api/validate-yaml",
        "/api/repos/create",
        "/api/models/someone/bert/tree/",
        "/someone/bert/resolve/main/",
    )
    assert all(any(request.target.startswith(route) for request in requests) for route in routes)
