"""`cait-viz fetch` and what it fetches, against a hub of our own."""

import json
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from hub_server import HubServer
from reference import lively_weights, timm_shapes
from safetensors.numpy import save

from cait_viz.cli import main as cli
from cait_viz.weights import resolve as checkpoints
from cait_viz.weights.registry import VARIANTS

ROOT = Path(__file__).parent.parent
CAT = str(ROOT / "assets" / "samples" / "cat.jpg")
NAME = "cait_xxs24_224"


@pytest.fixture(scope="module")
def server():
    tensors = lively_weights(timm_shapes(VARIANTS[NAME].config))
    content = save({name: tensor.astype(np.float16) for name, tensor in tensors.items()})
    with HubServer({VARIANTS[NAME].repo_id: content}) as server:
        yield server


@pytest.fixture
def cache(server, tmp_path, monkeypatch):
    """huggingface_hub in this process, pointed at the server and at an empty cache."""
    from huggingface_hub import constants

    server.fault = None
    monkeypatch.setenv("no_proxy", "127.0.0.1,localhost")
    reach(server.endpoint, monkeypatch)
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "hub"))
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setattr(time, "sleep", lambda _seconds, sleep=time.sleep: sleep(0.01))
    return tmp_path / "hub"


def reach(endpoint, monkeypatch):
    from huggingface_hub import constants

    monkeypatch.setattr(constants, "ENDPOINT", endpoint)
    monkeypatch.setattr(
        constants, "HUGGINGFACE_CO_URL_TEMPLATE", endpoint + "/{repo_id}/resolve/{revision}/{filename}"
    )


def test_a_fetched_model_is_here_and_speaks(cache, capsys):
    assert cli.main(["fetch", NAME]) == 0
    path = checkpoints.locate(VARIANTS[NAME]).path
    assert path.is_relative_to(cache)
    assert capsys.readouterr() == (f"{NAME}: {path}\n", "")
    assert cli.main(["models"]) == 0
    row = next(line for line in capsys.readouterr().out.splitlines() if line.startswith(NAME))
    assert row.endswith("yes")
    assert cli.main(["predict", CAT, "--model", NAME, "--json"]) == 0
    out, err = capsys.readouterr()
    told = json.loads(out)
    assert (told["model"], len(told["predictions"]), err) == (NAME, 5, "")


def test_a_damaged_copy_is_fetched_again(cache, capsys):
    assert cli.main(["fetch", NAME]) == 0
    path = checkpoints.locate(VARIANTS[NAME]).path.resolve()
    content = path.read_bytes()
    path.write_bytes(content[:-1] + bytes([content[-1] ^ 1]))
    assert cli.main(["fetch", NAME]) == 0
    assert checkpoints.locate(VARIANTS[NAME]).path.resolve().read_bytes() == content


def test_one_model_that_is_not_there_keeps_no_other_from_being_fetched(cache, capsys):
    assert cli.main(["fetch", "cait_xxs36_224", NAME, "bundled", NAME]) == 1
    out, err = capsys.readouterr()
    assert [line.partition(":")[0] for line in out.splitlines()] == [NAME, "bundled"]
    assert "cait_xxs36_224.fb_dist_in1k is not there" in err
    assert err.count("\n") == 1


@pytest.mark.parametrize(
    ("fault", "words"),
    [("gated", "terms"), ("error", "answers 500"), ("other content", "SHA-256"), ("dead", "broke off")],
)
def test_a_download_that_fails_is_one_line(server, cache, capsys, fault, words):
    server.fault = fault
    assert cli.main(["fetch", NAME]) == 1
    out, err = capsys.readouterr()
    assert (out, err.count("\n")) == ("", 1)
    assert err.startswith(f"cait-viz: {NAME}: ")
    assert words in err
    assert checkpoints.locate(VARIANTS[NAME]) is None


@pytest.mark.parametrize("command", [["fetch", NAME], ["predict", CAT, "--model", NAME]])
def test_without_a_network_the_sentence_says_what_to_do(cache, capsys, monkeypatch, command):
    reach("http://127.0.0.1:1", monkeypatch)
    for engine in ("openvino", "keras", "tensorflow"):  # nothing of which is needed to say so
        monkeypatch.setitem(sys.modules, engine, None)
    assert cli.main(command) == 1
    out, err = capsys.readouterr()
    assert (out, err.count("\n")) == ("", 1)
    assert "http://127.0.0.1:1 cannot be reached" in err


def test_a_bad_head_is_told_before_a_download(server, cache, capsys):
    server.forget()
    assert cli.main(["render", CAT, "-o", "out.png", "--model", NAME, "--head", "4"]) == 2
    assert "there is no head 4" in capsys.readouterr().err
    assert server.requests == []


def test_fetch_into_a_pipe_shows_the_path_and_nothing_else(server, environment, tmp_path):
    server.fault = None
    command = [sys.executable, "-m", "cait_viz", "fetch", NAME]
    own = environment | server.environment(tmp_path)
    done = subprocess.run(command, capture_output=True, text=True, env=own, check=False)
    assert (done.returncode, done.stderr) == (0, "")
    assert Path(done.stdout.strip().removeprefix(f"{NAME}: ")).is_file()
