"""Downloads, against a hub of our own that speaks the real one's protocol and can be made to fail."""

import errno
import fcntl
import os
import pty
import re
import shutil
import signal
import struct
import subprocess
import sys
import termios
import time
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from hub_server import COMMIT, HubServer
from reference import timm_shapes
from safetensors.numpy import save

from cait_viz.errors import CheckpointError, DownloadError
from cait_viz.weights import resolve as checkpoints
from cait_viz.weights.registry import VARIANTS, get_variant

ROOT = Path(__file__).parent.parent
XXS24 = get_variant("cait_xxs24_224")
REPOSITORY = "timm/cait_xxs24_224.fb_dist_in1k"


def checkpoint(config, dtype=np.float16):
    """The bytes of a checkpoint of a config's names and shapes; cheap, and not all zero."""
    shapes = timm_shapes(config)
    return save(
        {name: np.full(shape, index % 7 / 8, dtype) for index, (name, shape) in enumerate(shapes.items())}
    )


@pytest.fixture(scope="module")
def content():
    return checkpoint(XXS24.config)


@pytest.fixture
def server(content):
    with HubServer({REPOSITORY: content}) as server:
        yield server


@pytest.fixture
def cache(server, tmp_path, monkeypatch):
    """huggingface_hub in this process, pointed at the server and at an empty cache."""
    from huggingface_hub import constants

    monkeypatch.setenv("no_proxy", "127.0.0.1,localhost")
    monkeypatch.setattr(constants, "ENDPOINT", server.endpoint)
    monkeypatch.setattr(
        constants, "HUGGINGFACE_CO_URL_TEMPLATE", server.endpoint + "/{repo_id}/resolve/{revision}/{filename}"
    )
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "hub"))
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setattr(time, "sleep", lambda _seconds, sleep=time.sleep: sleep(0.05))
    return tmp_path / "hub"


def fetch(**options):
    return checkpoints.resolve("cait_xxs24_224", **options).path


def leftovers(cache):
    """Files in the cache that hold content, whole or in part."""
    return [
        path
        for path in cache.rglob("*")
        if path.is_file() and (path.parent.name == "blobs" or COMMIT in str(path))
    ]


def refusal(server, fault):
    server.fault = fault
    with pytest.raises(DownloadError) as caught:
        fetch(progress=False)
    message = str(caught.value)
    assert message.startswith("cait_xxs24_224: ")
    assert "\n" not in message
    assert checkpoints.locate(XXS24) is None
    return message


def python(code, environment):
    return subprocess.Popen(
        [sys.executable, "-c", code],
        env=os.environ | environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        cwd=ROOT,
    )


FETCH = """
from cait_viz.weights import resolve as checkpoints
from cait_viz.errors import CaitVizError
try:
    print(checkpoints.resolve("cait_xxs24_224").path)
except CaitVizError as error:
    print(type(error).__name__, error)
"""

LOCATE = """
from cait_viz.weights import resolve as checkpoints
from cait_viz.weights import registry as variants
print(checkpoints.locate(variants.VARIANTS["cait_xxs24_224"]))
"""


def test_fetched_weights_are_found_again_without_asking_the_hub(server, cache, content):
    assert checkpoints.locate(XXS24) is None
    path = fetch(progress=False)
    assert path.read_bytes() == content
    server.forget()
    assert checkpoints.locate(XXS24).path == path
    assert fetch(progress=False) == path
    assert server.requests == []


def test_only_the_one_file_is_asked_for(server, cache):
    fetch(progress=False)
    assert {path.rpartition("/")[2] for _, path in server.requests} == {"model.safetensors"}


@pytest.mark.parametrize("name", ["cait_xxs24_384", "cait_xs24_384"])
def test_other_published_shapes_are_served_and_fetched(server, cache, name):
    variant = VARIANTS[name]
    server.files = {variant.repo_id: checkpoint(variant.config)}
    resolved = checkpoints.resolve(name, progress=False)
    assert (resolved.name, resolved.config, resolved.as_published) == (name, variant.config, True)


def test_progress_is_reported_up_to_the_last_byte(server, cache, content):
    reports = []
    fetch(progress=lambda done, total: reports.append((done, total)))
    assert (reports[0], reports[-1]) == ((0, len(content)), (len(content), len(content)))
    assert reports == sorted(reports)


def test_what_progress_raises_ends_the_download_and_passes_through(server, cache):
    def cancel(done, _total):
        if done > 3_000_000:
            raise RuntimeError("the person changed their mind")

    with pytest.raises(RuntimeError, match="changed their mind"):
        fetch(progress=cancel)
    assert leftovers(cache) == []
    assert fetch(progress=False).is_file()


def test_a_download_whose_connection_is_closed_is_resumed(server, cache, content):
    server.fault, server.fault_after = "close", 15_000_000
    done = []
    path = fetch(progress=lambda here, _total: done.append(here))
    assert path.read_bytes() == content
    assert server.ranges[0] is None
    assert server.ranges[1] > 0
    assert done == sorted(done)


@pytest.mark.parametrize(
    ("fault", "words"), [("reset", "broke off"), ("head reset", "broke off"), ("error once", "answers 503")]
)
def test_after_a_passing_fault_a_second_fetch_gets_it(server, cache, content, fault, words):
    assert words in refusal(server, fault)
    assert leftovers(cache) == []
    assert fetch(progress=False).read_bytes() == content


def test_a_connection_that_breaks_every_time_is_one_sentence_and_leaves_nothing(server, cache):
    assert re.search(
        r"the connection to http://127.0.0.1:\d+ broke off .*; fetch it again", refusal(server, "dead")
    )
    assert leftovers(cache) == []


def test_content_other_than_announced_is_removed(server, cache, content):
    assert "not the announced" in refusal(server, "other content")
    assert leftovers(cache) == []
    server.fault = None
    assert fetch(progress=False).read_bytes() == content


def test_content_shorter_than_announced_leaves_nothing(server, cache):
    assert "should be of size 23955832 but has size 23954832" in refusal(server, "short")
    assert leftovers(cache) == []


@pytest.mark.parametrize(
    ("body", "reason"),
    [
        (b"<!DOCTYPE html><html>moved</html>", "web page"),
        (b"", "empty"),
        (b"\x00" * 5000, "not a whole safetensors file"),
        (b"version https://git-lfs.github.com/spec/v1\noid sha256:00\nsize 1\n", "git lfs pull"),
    ],
)
def test_file_that_is_no_safetensors_is_removed(server, cache, body, reason):
    server.files[REPOSITORY] = body
    message = refusal(server, None)
    assert "is not this model and was removed" in message
    assert reason in message
    assert leftovers(cache) == []


def test_file_of_another_model_is_removed(server, cache):
    server.files[REPOSITORY] = checkpoint(replace(XXS24.config, sa_ffn_layers=2))
    message = refusal(server, None)
    assert "missing: blocks.2-23.gamma_1" in message
    assert leftovers(cache) == []


@pytest.mark.parametrize(
    ("fault", "advice"),
    [
        ("unknown", "timm/cait_xxs24_224.fb_dist_in1k is not there, or private"),
        ("not found", "timm/cait_xxs24_224.fb_dist_in1k is not there, or private"),
        ("gated", "accept them at http://127.0.0.1"),
        ("forbidden", "refuses access (403)"),
        ("bad token", "log in with `hf auth login` or unset HF_TOKEN"),
        ("no file", "has no file model.safetensors"),
        ("error", "answers 500; try again in a few minutes"),
        ("error at the CDN", "answers 503; try again in a few minutes"),
        ("portal", "perhaps the login page of a network"),
    ],
)
def test_refusal_of_the_hub_is_a_sentence_with_a_way_out(server, cache, fault, advice):
    assert advice in refusal(server, fault)
    assert leftovers(cache) == []


def test_no_network_is_told_with_the_address_to_download_from(server, cache):
    server.stop()
    message = refusal(server, None)
    assert "cannot be reached" in message
    assert f"download {server.endpoint}/{REPOSITORY}/resolve/main/model.safetensors elsewhere" in message


def test_endpoint_that_is_no_address_is_told(server, cache, monkeypatch):
    from huggingface_hub import constants

    monkeypatch.setattr(constants, "ENDPOINT", "nonsense")
    monkeypatch.setattr(constants, "HUGGINGFACE_CO_URL_TEMPLATE", "nonsense/{repo_id}/{revision}/{filename}")
    assert "HF_ENDPOINT is 'nonsense', which is no web address" in refusal(server, None)


def test_full_disk_is_told_before_the_download(server, cache, monkeypatch):
    monkeypatch.setattr(shutil, "disk_usage", lambda _path: SimpleNamespace(free=5_000_000))
    message = refusal(server, None)
    assert "takes 24 MB" in message
    assert "has 5 MB left" in message
    assert server.ranges == []


@pytest.mark.parametrize(
    ("number", "advice"),
    [(errno.ENOSPC, "is full; make room"), (errno.EROFS, "cannot be written (Read-only")],
)
def test_cache_that_takes_no_file_is_told(server, cache, monkeypatch, number, advice):
    import huggingface_hub

    def fail(*_, **__):
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(huggingface_hub, "hf_hub_download", fail)
    assert advice in refusal(server, None)


def test_cache_below_a_file_is_told(server, cache):
    cache.write_text("not a folder")
    assert "cannot be written" in refusal(server, None)


def test_truncated_file_in_the_cache_is_not_located_and_fetched_anew(server, cache, content):
    path = fetch(progress=False)
    os.truncate(path, len(content) // 2)
    assert checkpoints.locate(XXS24) is None
    assert fetch(progress=False).read_bytes() == content


def test_a_file_damaged_in_the_cache_is_not_used(server, cache, content):
    path = fetch(progress=False)
    damaged = bytearray(content)
    damaged[-1] ^= 1
    path.resolve().write_bytes(damaged)
    with pytest.raises(CheckpointError, match="download it with `cait-viz fetch cait_xxs24_224`"):
        checkpoints.resolve("cait_xxs24_224", download=False)
    assert checkpoints.resolve("cait_xxs24_224", progress=False).path.read_bytes() == content


def test_link_out_of_the_cache_is_removed_and_not_followed(server, cache, content, tmp_path):
    path = fetch(progress=False)
    own = tmp_path / "own.safetensors"
    own.write_bytes(b"somebody's work")
    path.unlink()
    path.symlink_to(own)
    assert checkpoints.locate(XXS24) is None
    assert fetch(progress=False).read_bytes() == content
    assert own.read_bytes() == b"somebody's work"


def test_killed_download_leaves_no_weights_and_the_next_one_starts_over(server, content, tmp_path):
    environment = server.environment(tmp_path)
    server.fault = "slow"
    process = python(FETCH, environment)
    while not list(tmp_path.rglob("*.incomplete")):
        assert process.poll() is None, process.communicate()
        time.sleep(0.02)
    process.send_signal(signal.SIGKILL)
    process.communicate()
    assert python(LOCATE, environment).communicate()[0].strip() == "None"
    server.fault = None
    out, err = python(FETCH, environment).communicate()
    assert Path(out.strip()).read_bytes() == content
    assert err == ""


def test_interrupted_download_leaves_nothing(server, tmp_path):
    server.fault = "slow"
    process = python(FETCH, server.environment(tmp_path))
    while not list(tmp_path.rglob("*.incomplete")):
        assert process.poll() is None, process.communicate()
        time.sleep(0.02)
    process.send_signal(signal.SIGINT)
    process.communicate()
    assert leftovers(tmp_path) == []


def test_two_processes_that_fetch_at_once_both_get_it(server, content, tmp_path):
    processes = [python(FETCH, server.environment(tmp_path)) for _ in range(2)]
    for process in processes:
        out, err = process.communicate()
        assert Path(out.strip()).read_bytes() == content
        assert err == ""


def test_offline_switch_is_respected_and_told(server, tmp_path):
    offline = server.environment(tmp_path) | {"HF_HUB_OFFLINE": "1"}
    out, err = python(FETCH, offline).communicate()
    assert out.startswith("DownloadError cait_xxs24_224: it is not on this machine and HF_HUB_OFFLINE is set")
    assert (err, server.requests) == ("", [])
    python(FETCH, server.environment(tmp_path)).communicate()
    server.forget()
    out, _ = python(FETCH, offline).communicate()
    assert Path(out.strip()).is_file()
    assert server.requests == []


def test_bar_on_a_terminal_is_named_after_the_model(server, tmp_path):
    terminal, other_end = pty.openpty()
    fcntl.ioctl(other_end, termios.TIOCSWINSZ, struct.pack("4H", 24, 80, 0, 0))
    process = subprocess.Popen(
        [sys.executable, "-c", FETCH],
        env=os.environ | server.environment(tmp_path),
        stdout=subprocess.DEVNULL,
        stderr=other_end,
        cwd=ROOT,
    )
    process.wait()
    os.close(other_end)
    shown = os.read(terminal, 100_000).decode()
    os.close(terminal)
    assert "cait_xxs24_224: 100%" in shown


def test_available_models_are_those_that_are_here(server, cache):
    assert checkpoints.available() == {"bundled"}
    path = fetch(progress=False)
    assert checkpoints.available() == {"bundled", "cait_xxs24_224"}
    os.truncate(path, 1_000_000)
    assert checkpoints.available() == {"bundled"}


def test_looking_for_weights_imports_no_http_client(tmp_path):
    code = (
        "import sys; from cait_viz.weights import registry as variants, resolve as checkpoints\n"
        "assert 'huggingface_hub' not in sys.modules\n"
        "assert checkpoints.locate(variants.VARIANTS['cait_m48_448']) is None\n"
        "assert checkpoints.available() == {'bundled'}\n"
        "print([name for name in ('httpx', 'httpx2', 'keras', 'tensorflow', 'torch') if name in sys.modules])"
    )
    out, err = python(code, {"HF_HOME": str(tmp_path)}).communicate()
    assert (out.strip(), err) == ("[]", "")
