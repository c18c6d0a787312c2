"""`cait-viz` as a program of its own: its streams, signals and terminals, and the app that it starts."""

import contextlib
import json
import logging
import re
import shutil
import signal
import subprocess
import sys
import time
import urllib.request
from pathlib import Path

import pytest
from browser_visitor import free_port
from image_helpers import assert_same_drawing

ROOT = Path(__file__).parent.parent
CAT = ROOT / "assets" / "samples" / "cat.jpg"


@pytest.fixture
def start(environment, tmp_path):
    """Start `python -m cait_viz` in a folder of its own, its output in pipes unless told otherwise."""

    def start(*arguments, **options):
        command = [sys.executable, "-m", "cait_viz", *map(str, arguments)]
        pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
        return subprocess.Popen(command, **{"cwd": tmp_path, "env": environment} | pipes | options)

    return start


@pytest.fixture
def shell(start):
    """Run that process to its end: its (status, standard output, standard error)."""

    def shell(*arguments, **options):
        with start(*arguments, **options) as process:
            out, err = process.communicate()
        return process.returncode, out, err

    return shell


@pytest.fixture
def launched(run_python):
    """Run `cait-viz app` with each list of arguments, and give for each what Streamlit was started with.

    Streamlit is not started; the third is the choice of the model that the app opens on, as text.
    """
    script = """
import json, logging, runpy, sys

started = []
def run_module(name, **_):
    from cait_viz.serving.state import server
    first = server().models[server().first_model].choice
    files = [str(first.checkpoint and first.checkpoint.file.path), str(first.labels)]
    started.append([sys.argv[2:], logging.root.manager.disable, files])
runpy.run_module = run_module
from cait_viz.cli.main import main
for arguments in json.loads(sys.argv[1]):
    assert main(["app", *arguments]) == 0
print(json.dumps(started))
"""

    def launched(*commands):
        words = [[str(word) for word in command] for command in commands]
        out, err = run_python(script, json.dumps(words))
        assert err == ""
        return json.loads(out)

    return launched


def test_app_starts_streamlit_with_what_was_asked_for(launched):
    expected = {
        (): [],
        ("--port", "8502"): ["--server.port=8502"],
        ("--host", "127.0.0.1", "--port", "80"): ["--server.port=80", "--server.address=127.0.0.1"],
        ("--", "--server.headless", "true"): ["--server.headless", "true"],
        ("--port=9", "--", "--theme.base=dark"): ["--server.port=9", "--theme.base=dark"],
    }
    for (arguments, disabled_logs, _), options in zip(launched(*expected), expected.values(), strict=True):
        assert arguments == [str(ROOT / "app.py"), *options]
        assert disabled_logs == logging.NOTSET


def test_app_opens_on_the_weights_that_were_given_with_their_labels(launched, tiny_weights, tmp_path):
    labels = tmp_path / "names.txt"
    labels.write_text("".join(f"name {index}\n" for index in range(10)))
    given = ["--weights", tiny_weights, "--labels", labels]
    [(arguments, _, files)] = launched([*given, "--port", "8502", "--", "--theme.base=dark"])
    assert arguments[1:] == ["--server.port=8502", "--theme.base=dark"]
    assert files == [str(tiny_weights), str(labels)]
    [(_, _, files)] = launched(["--weights", tiny_weights])
    assert files == [str(tiny_weights), "None"]


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_the_app_that_is_told_to_stop_does_so_quietly_and_without_an_error(start, number):
    port = free_port()
    with start("app", "--port", port, "--host", "127.0.0.1") as process:
        while process.poll() is None:
            with contextlib.suppress(OSError), urllib.request.urlopen(f"http://127.0.0.1:{port}/health"):
                break
            time.sleep(0.1)
        process.send_signal(number)
        out, err = process.communicate(timeout=60)
    assert process.returncode == 0
    assert b"Aborted" not in out + err
    assert b"Traceback" not in out + err


def test_a_successful_command_says_nothing_on_standard_error(shell, tmp_path, bundled_cat):
    image = "-Ünïcode  name 猫.jpg"
    shutil.copy(CAT, tmp_path / image)
    status, out, err = shell("predict", "--json", "--", image)
    assert (status, err) == (0, b"")
    told = json.loads(out)
    assert told["image"] == image
    assert told["predictions"][0]["label"] == bundled_cat.predictions[0][0]


def test_render_works_from_any_folder_and_on_a_terminal_that_knows_only_ascii(
    shell, environment, tmp_path, bundled_cat
):
    shutil.copy(CAT, tmp_path / "猫 1.jpg")
    ascii_only = environment | {"PYTHONIOENCODING": "ascii", "KERAS_BACKEND": "jax"}
    status, out, err = shell("render", "猫 1.jpg", "-o", "猫 2.png", env=ascii_only)
    assert (status, err) == (0, b"")
    assert out.startswith(b"\\u732b 2.png: Where bundled looked in \\u732b 1.jpg")
    assert_same_drawing(tmp_path / "猫 2.png", bundled_cat.png())


@pytest.mark.skipif(not Path("/proc/self/maps").exists(), reason="needs /proc")
def test_an_interrupt_while_tensorflow_starts_is_quiet(start):
    with start("predict", CAT, "--engine", "keras") as process:
        while process.poll() is None and "tensorflow" not in Path(f"/proc/{process.pid}/maps").read_text():
            time.sleep(0.05)
        process.send_signal(signal.SIGINT)
        assert process.communicate() == (b"", b"")
    assert process.returncode == 130


def test_a_reader_that_has_seen_enough_is_no_error(start):
    with start("models") as process:
        process.stdout.close()
        assert process.stderr.read() == b""


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs /dev/full")
def test_standard_output_that_cannot_be_written_is_one_line(shell):
    with Path("/dev/full").open("wb") as full:
        status, _, err = shell("models", stdout=full)
    assert status == 1
    assert re.fullmatch(rb"cait-viz: .*No space left on device.*\n", err)


def test_closed_standard_streams_are_no_error(environment, tmp_path):
    script = 'exec "$0" -m cait_viz models <&- >&- 2>&-'
    done = subprocess.run(["sh", "-c", script, sys.executable], env=environment, cwd=tmp_path, check=False)
    assert done.returncode == 0
    assert not list(tmp_path.iterdir())


@pytest.mark.skipif(not Path("/proc/self/task").exists(), reason="needs /proc")
def test_an_interrupt_while_the_graph_is_exported_is_quiet_and_leaves_no_process(
    start, environment, monkeypatch, tmp_path
):
    import psutil

    monkeypatch.setitem(environment, "XDG_CACHE_HOME", str(tmp_path))
    with start("predict", CAT) as process:
        while process.poll() is None and not psutil.Process(process.pid).children():
            time.sleep(0.05)
        export = psutil.Process(process.pid).children()[0]
        process.send_signal(signal.SIGINT)
        assert process.communicate() == (b"", b"")
    assert process.returncode == 130
    export.wait(30)
    assert not list(tmp_path.rglob("*.part"))
