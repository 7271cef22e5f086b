"""``illava serve`` on the command line: settings, one-line errors, what is imported, and a real process."""

from __future__ import annotations

import json
import os
import shutil
import signal
import socket
import subprocess
import sys

import pytest

import illava
from illava.cli import serve as command
from illava.serving.settings import Settings
from tests.cli.conftest import SRC, assert_error, call, invoke

from .conftest import data_url


@pytest.fixture
def ran(monkeypatch):
    """What the command would serve."""
    from illava.serving import running

    calls = []
    monkeypatch.setattr(running, "serve", lambda *given: calls.append(given))
    return calls


def test_defaults(ran):
    result = invoke("serve", "zoo/S")
    assert result.exit_code == 0, result.output
    assert ran == [("zoo/S", Settings("zoo/S"), "127.0.0.1", 8000, "auto", "auto", False)]


def test_every_setting_has_an_option(ran):
    words = (
        "--keep 1/9 --method fastv --min-keep 0.05 --max-keep 1/2 --allow-method tome --allow-method fastv"
    )
    words += (
        " --name it --host ::1 --port 0 --api-key secret --allow-host a.example --allow-host b.example:81"
    )
    words += (
        " --temperature 0.5 --max-batch 2 --max-wait-ms 5 --max-queue 3 --max-tokens 6 --max-prompt-tokens 7"
    )
    words += " --max-pictures 1 --max-frames 9 --max-megapixels 0.5 --max-picture-mb 1.5 --max-request-mb 2.5"
    words += " --timeout 10 --device cpu --dtype float32 --trust-remote-code"
    result = invoke("serve", "zoo/S", *words.split())
    assert result.exit_code == 0, result.output
    settings = Settings(
        name="it",
        keep=1 / 9,
        method="fastv",
        min_keep=0.05,
        max_keep=0.5,
        allowed_methods=("tome", "fastv"),
        temperature=0.5,
        max_tokens=6,
        max_prompt_tokens=7,
        max_request_mb=2.5,
        max_picture_mb=1.5,
        max_pictures=1,
        max_frames=9,
        max_megapixels=0.5,
        timeout=10,
        max_batch=2,
        max_wait_ms=5,
        max_queue=3,
        api_key="secret",
        allowed_hosts=("a.example", "b.example:81"),
    )
    assert ran == [("zoo/S", settings, "::1", 0, "cpu", "float32", True)]


def test_the_key_from_the_environment(ran, monkeypatch):
    monkeypatch.setenv("ILLAVA_API_KEY", "from there")
    invoke("serve", "zoo/S")
    assert ran[0][1].api_key == "from there"


def test_a_folder_is_served_under_its_own_name(ran, folder):
    invoke("serve", folder)
    assert ran[0][1].name == "micro"


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("--keep", "2"), "--keep 2: give a number above 0"),
        (("--min-keep", "0"), "--min-keep 0: give a number above 0"),
        (("--max-keep", "x"), "--max-keep x: give a number above 0"),
        (("--min-keep", "1/2", "--max-keep", "1/3"), "in this order"),
        (("--method", "magic"), "magic: unknown method"),
        (("--allow-method", "magic"), "magic: unknown method"),
        (("--timeout", "0"), "timeout must be above 0"),
        (("--host", "no.such.host.invalid"), "--host no.such.host.invalid --port 8000"),
    ],
)
def test_what_is_refused_before_the_model_is_loaded(words, said, monkeypatch):
    from illava.serving import running

    monkeypatch.setattr(running, "load", lambda *_: pytest.fail("the model was loaded"))

    def resolve(host, *_, **__):
        if host.endswith(".invalid"):
            raise socket.gaierror(-2, "Name or service not known")
        pytest.fail("the options were accepted")

    monkeypatch.setattr(socket, "getaddrinfo", resolve)
    assert_error(invoke("serve", "zoo/S", *words), said)


def test_a_port_in_use(monkeypatch):
    from illava.serving import running

    monkeypatch.setattr(running, "load", lambda *_: pytest.fail("the model was loaded"))
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        assert_error(invoke("serve", "zoo/S", "--port", port), f"--port {port}: Address already in use")


def test_a_method_that_does_not_fit_the_model(folder, tmp_path):
    model = shutil.copytree(folder, tmp_path / "model")
    illava.FastV(layer=9).save_pretrained(model)
    assert_error(invoke("serve", model, "--port", 0), "method fastv: ")


def test_without_the_extra(monkeypatch):
    missing = lambda name: None if name in ("fastapi", "uvicorn") else object()  # noqa: E731
    monkeypatch.setattr("importlib.util.find_spec", missing)
    assert_error(invoke("serve", "zoo/S"), "this command needs fastapi, uvicorn: pip install 'illava[serve]'")
    assert set(command.PACKAGES) == {"fastapi", "uvicorn", "httpx", "prometheus_client"}


def test_help_imports_no_server():
    check = (
        "import atexit, sys, illava\n"
        "names = {'fastapi', 'uvicorn', 'starlette', 'prometheus_client', 'torch'}\n"
        "atexit.register(lambda: print('imported:', sorted(names & set(sys.modules))))"
    )
    for words in (("--help",), ("serve", "--help")):
        result = call(*words, before=check)
        assert result.returncode == 0, result.stderr
        assert result.stdout.endswith("imported: []\n")


@pytest.mark.parametrize(
    ("module", "unknown"),
    [("app", ("uvicorn", "illava.cli")), ("proxying", ("torch", "transformers"))],
)
def test_what_a_part_does_not_import(module, unknown):
    """The application may run under another server, and Ray's proxies do without models."""
    code = f"import sys, illava.serving.{module}; print(set({unknown}) & set(sys.modules))"
    paths = [str(SRC), *filter(None, [os.environ.get("PYTHONPATH")])]
    env = {**os.environ, "PYTHONPATH": os.pathsep.join(paths)}
    result = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, env=env, timeout=300
    )
    assert result.stdout == "set()\n", result.stderr


@pytest.mark.skipif(shutil.which("curl") is None, reason="there is no curl")
def test_a_process_that_curl_asks(folder):
    code = "import sys; sys.argv[0] = 'illava'\nfrom illava.cli import main; main()"
    paths = [str(SRC), *filter(None, [os.environ.get("PYTHONPATH")])]
    env = {**os.environ, "PYTHONPATH": os.pathsep.join(paths), "OMP_NUM_THREADS": "1"}
    words = [str(folder), "--keep", "1/3", "--port", "0", "--max-tokens", "4"]
    process = subprocess.Popen(
        [sys.executable, "-c", code, "serve", *words],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env=env,
        # Shells that start tests in the background make them ignore Ctrl-C, and children inherit that.
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.default_int_handler),
    )
    try:
        assert process.stdout is not None
        line = process.stdout.readline()
        assert line.startswith("Serving micro on http://127.0.0.1:"), process.stderr.read()
        url = line.split()[3].rstrip(";")
        from PIL import Image

        content = [
            {"type": "image_url", "image_url": {"url": data_url(Image.new("RGB", (96, 96), "red"))}},
            {"type": "text", "text": "What is it?"},
        ]
        body = json.dumps(
            {"model": "micro", "messages": [{"role": "user", "content": content}], "stream": True}
        )
        header = "Content-Type: application/json"
        curl = [
            "curl",
            "--silent",
            "--show-error",
            "--noproxy",
            "*",
            f"{url}/chat/completions",
            "-H",
            header,
            "-d",
            "@-",
        ]
        said = subprocess.run(curl, input=body, capture_output=True, text=True, timeout=300)
        assert said.stdout.endswith("data: [DONE]\n\n"), said
        process.send_signal(signal.SIGINT)
        out, errors = process.communicate(timeout=120)
    finally:
        process.kill()
    assert process.returncode == 0, errors
    assert "Traceback" not in errors
    assert out == ""
