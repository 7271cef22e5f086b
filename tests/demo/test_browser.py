"""The demo page and the page of ``illava look`` in a real browser: Chromium, driven by Playwright."""

from __future__ import annotations

import os
import re
import shutil
import socket
import subprocess
import sys
from pathlib import Path

import illava_lab.demo
import pytest
from PIL import Image
from playwright.sync_api import Browser, Page, sync_playwright

import illava
from illava.ask import ask, load
from illava.viz import html_page

NUMBER = illava_lab.demo.path("demo/number.png")
QUIET = [
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
]
PATIENCE = 120_000


def chromium() -> str:
    """Chromium's path; as root on Debian it is installed where it is missing."""
    found = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
    if found is None and hasattr(os, "geteuid") and os.geteuid() == 0 and shutil.which("apt-get"):
        for words in (("update", "-qq"), ("install", "-y", "-qq", "--no-install-recommends", "chromium")):
            subprocess.run(["apt-get", *words], capture_output=True, timeout=600, check=False)
        found = shutil.which("chromium")
    if found is None:
        pytest.skip("browser tests need Chromium: apt-get install chromium")
    return found


@pytest.fixture(scope="module")
def browser():
    path = chromium()
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=path, args=QUIET)
        yield browser
        browser.close()


@pytest.fixture(scope="module")
def demo(tmp_path_factory):
    """The served page's address, and the folder of its temporary files."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    temporary = tmp_path_factory.mktemp("temporary")
    words = [sys.executable, "-m", "illava", "demo", "--model", "zoo/S", "--port", str(port)]
    environment = {**os.environ, "TMPDIR": str(temporary)}
    with subprocess.Popen(words, stdout=subprocess.PIPE, text=True, env=environment) as process:
        assert process.stdout is not None
        line = process.stdout.readline()
        assert f"http://127.0.0.1:{port}/" in line
        yield f"http://127.0.0.1:{port}/", temporary
        process.terminate()
        try:
            process.wait(60)
        finally:
            process.kill()
    assert not list(temporary.iterdir()), "uploads are left behind"


def opened(browser: Browser, address: str) -> tuple[Page, list[str]]:
    """A new visitor, and a list that takes in what goes wrong and every request to elsewhere."""
    page = browser.new_context(viewport={"width": 1300, "height": 1100}).new_page()
    page.set_default_timeout(PATIENCE)
    wrong: list[str] = []
    page.on("pageerror", lambda error: wrong.append(str(error)))
    page.on("request", lambda request: wrong.append(request.url) if away(request.url) else None)
    page.goto(address)
    return page, wrong


def away(url: str) -> bool:
    return not re.match(r"(http://127\.0\.0\.1|data:|blob:|file:)", url)


def put(page: Page, *files: Path) -> None:
    page.set_input_files("#files input[type=file]", [str(file) for file in files])
    page.wait_for_selector(f"#files >> text={files[0].stem[:8]}")


def wait(page: Page, word: str) -> str:
    page.wait_for_function("word => document.querySelector('#status').innerText.includes(word)", arg=word)
    return page.inner_text("#status")


def answers(page: Page) -> tuple[str, str]:
    return page.input_value("#plain textarea"), page.input_value("#merged textarea")


def test_upload_ask_slide_and_see(browser, demo) -> None:
    page, wrong = opened(browser, demo[0])
    put(page, NUMBER)
    page.fill("#question textarea", "What colour is the heart?")
    page.click("#ask button, button#ask")
    wait(page, "Done")
    model, processor = load("zoo/S")
    told = ask(
        model, processor, [NUMBER], "What colour is the heart?", illava.Illava.best(1 / 3), 128, True, 1
    )
    assert answers(page) == (told.plain_text, told.text)
    facts = page.inner_text("#facts")
    assert "144" in facts
    assert "48" in facts
    assert "3.00x" in facts
    page.wait_for_function("document.querySelector('#steps img')?.naturalWidth > 1000")
    # To the left: more is kept.
    page.locator("#keep input[type=range]").focus()
    page.keyboard.press("ArrowLeft")
    page.wait_for_selector("#kept >> text=1/2")
    before = page.get_attribute("#steps img", "src")
    page.click("#ask button, button#ask")
    page.wait_for_function(
        "old => document.querySelector('#steps img')?.src !== old && "
        "document.querySelector('#facts').innerText.includes('2.00x')",
        arg=before,
    )
    wait(page, "Done")
    assert not wrong


def test_bad_uploads_get_a_sentence_and_the_next_is_answered(browser, demo, tmp_path) -> None:
    page, _ = opened(browser, demo[0])
    page.click("#ask button, button#ask")
    assert "upload an image or a video first" in wait(page, "Error")
    bad = tmp_path / "broken.png"
    bad.write_bytes(NUMBER.read_bytes()[:500])
    put(page, bad)
    page.click("#ask button, button#ask")
    said = wait(page, "broken.png")
    assert "broken or truncated" in said
    assert str(demo[1]) not in said
    page.reload()
    put(page, NUMBER)
    page.click("#ask button, button#ask")
    wait(page, "Done")
    assert all(answers(page))


def test_two_visitors_at_once(browser, demo) -> None:
    pages = [opened(browser, demo[0])[0] for _ in range(2)]
    for page, question in zip(pages, ("What colour is the heart?", "Is there a red diamond?"), strict=True):
        put(page, NUMBER)
        page.fill("#question textarea", question)
    for page in pages:
        page.click("#ask button, button#ask")
    for page in pages:
        wait(page, "Done")
    said = [answers(page)[0] for page in pages]
    assert said[0] != said[1]
    assert said[1] in ("yes", "no")


def test_uploads_go_with_their_visitor(browser, demo, tmp_path) -> None:
    unique = tmp_path / "mine-alone.png"
    Image.new("RGB", (50, 50), "red").save(unique)
    page, _ = opened(browser, demo[0])
    put(page, unique)
    page.click("#ask button, button#ask")
    wait(page, "Done")
    assert list(demo[1].rglob("mine-alone.png"))
    page.close()
    other, _ = opened(browser, demo[0])
    for _ in range(60):
        if not list(demo[1].rglob("mine-alone.png")):
            break
        other.wait_for_timeout(500)
    assert not list(demo[1].rglob("mine-alone.png"))


def test_the_page_of_look_shows_what_a_patch_was_merged_into(browser, tmp_path) -> None:
    model, processor = load("zoo/S")
    told = ask(model, processor, [NUMBER], "What?", illava.Illava.best(1 / 9), 4, True, 1, trace=True)
    with Image.open(NUMBER) as picture:
        page_text = html_page([picture.convert("RGB")], told.report, question="What?")
    file = tmp_path / "page.html"
    file.write_text(page_text, encoding="utf-8")
    page, wrong = opened(browser, file.as_uri())
    assert page.get_attribute("#step", "max") == "4"
    page.wait_for_function("document.querySelector('#canvas').width >= 512")
    page.locator("#step").fill("1")
    assert "encoder block" in page.inner_text("#step-name")
    trace = told.report.traces[0]
    into, source, weight = trace.merge_weights
    # A dropped patch, and the survivor that absorbed it.
    dropped = next(i for i in range(len(trace.boxes)) if i not in trace.kept.tolist())
    at = (source == dropped).nonzero().flatten()
    _, x0, y0, x1, y1 = trace.boxes[dropped].tolist()
    frame = page.locator("#canvas").bounding_box()
    page.mouse.move(frame["x"] + frame["width"] * (x0 + x1) / 2, frame["y"] + frame["height"] * (y0 + y1) / 2)
    _, a0, b0, a1, b1 = trace.boxes[trace.kept[into[at[0]]]].tolist()
    page.wait_for_function("document.querySelector('#details').innerText.includes('Merged into')")
    said = page.inner_text("#details")
    share = f"{100 * float(weight[at[0]]):.{1 if weight[at[0]] < 0.1 else 0}f} %"
    place = f"{round(50 * (a0 + a1))} % across, {round(50 * (b0 + b1))} % down"
    assert said.endswith(f"Merged into the patch at {place} with weight {share}.")
    # By keyboard as well.
    page.locator("#canvas").focus()
    page.keyboard.press("ArrowRight")
    page.wait_for_function("old => document.querySelector('#details').innerText !== old", arg=said)
    assert page.locator("#charts svg").count() == 4
    assert all(page.locator("#charts svg").nth(i).get_attribute("aria-label") for i in range(4))
    assert not wrong
