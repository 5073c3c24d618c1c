"""The clinician's page in a real browser, in front of a real service."""

import http.server
import json
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from primia.data.preprocess import load_image
from primia.diagnosis.viewer.app import FILES

pytestmark = pytest.mark.system  # a service, a viewer and a browser

PATIENCE_MS = 300_000.0
STEPS = ("preprocess", "encrypt", "send", "compute", "decrypt")


class Opened:
    """A page, whatever it asked for, and whatever its console complained of."""

    def __init__(self, page: Any) -> None:
        self.page = page
        self.asked: list[str] = []
        self.complaints: list[str] = []
        page.set_default_timeout(PATIENCE_MS)
        page.on("request", lambda request: self.asked.append(request.url))
        page.on("console", lambda said: self.complaints.append(said.text) if said.type == "error" else None)
        page.on("pageerror", lambda error: self.complaints.append(str(error)))

    def visit(self, address: str) -> None:
        self.page.goto(address, timeout=PATIENCE_MS)

    def wait(self, **data: str) -> None:
        """Until the body says so: its data-phase, its data-model."""
        self.page.wait_for_selector("body" + "".join(f"[data-{name}={value}]" for name, value in data.items()))

    def choose(self, image: Path) -> None:
        self.page.set_input_files("#file:enabled", image)

    def text(self, selector: str) -> str:
        return self.page.inner_text(selector)

    def shows(self, selector: str) -> bool:
        return self.page.is_visible(selector)

    def diagnose(self, image: Path) -> None:
        self.choose(image)
        self.wait(phase="ready")
        self.page.click("#diagnose")
        self.wait(phase="answered")

    def shares(self) -> dict[str, float]:
        rows = self.page.eval_on_selector_all(
            "#bars li", "rows => rows.map(row => [row.children[0].textContent, row.children[1].textContent])"
        )
        return {name: float(share.removesuffix(" %")) for name, share in rows}


@pytest.fixture
def opened(chromium: Any) -> Iterator[Opened]:
    context = chromium.new_context()
    yield Opened(context.new_page())
    context.close()


def test_a_chosen_image_is_seen_diagnosed_and_answered(small, service, viewer, opened, radiograph) -> None:
    opened.visit(viewer.address)
    opened.wait(phase="empty", model="known")
    assert opened.text("#model-name") == "chest, version 7"
    assert opened.text("[data-step=send] .where") == f"only ciphertext leaves, to {service.url}"
    assert opened.text("#model-marks") == "unfit for patients"
    assert opened.text("#disclaimer") == (
        "Research software, not a medical device: no diagnosis may rest on this answer."
    )
    assert opened.page.is_disabled("#diagnose")

    opened.choose(radiograph)
    opened.wait(phase="ready")
    assert opened.shows("#original")
    assert opened.shows("#prepared")
    assert "radiograph.png" in opened.text("#file-name")
    opened.page.click("#diagnose")
    opened.wait(phase="answered")

    for step in STEPS:
        row = f"[data-step={step}]"
        assert opened.page.get_attribute(row, "data-state") == "done"
        seconds, size = opened.text(f"{row} .figures").splitlines()
        assert float(seconds.removesuffix(" s")) >= 0
        assert size.split()[1] in ("bytes", "kB", "MB")
    tensor = load_image(radiograph, pixels=16)
    logits = small.network(small.network.inputs(tensor[None]))[0]
    expected = dict(zip(small.bundle.specification.classes, torch.softmax(logits, 0).tolist(), strict=True))
    shown = opened.shares()
    assert {name: share / 100 for name, share in shown.items()} == pytest.approx(expected, abs=5e-3)
    assert sum(shown.values()) == pytest.approx(100, abs=0.2)
    assert list(shown) == sorted(expected, key=expected.__getitem__, reverse=True)
    for fact in ("chest, version 7", small.bundle.specification.model_digest[:12], "unfit for patients"):
        assert fact in opened.text("#facts")
    assert opened.shows("#disclaimer")


def test_what_is_seen_as_prepared_is_what_the_preprocessing_gives(viewer, opened, radiograph) -> None:
    opened.visit(viewer.address)
    opened.choose(radiograph)
    opened.wait(phase="ready")
    pixels = opened.page.evaluate(
        """async () => {
            const image = document.getElementById("prepared");
            await image.decode();
            const canvas = new OffscreenCanvas(image.naturalWidth, image.naturalHeight).getContext("2d");
            canvas.drawImage(image, 0, 0);
            const { data, width, height } = canvas.getImageData(0, 0, image.naturalWidth, image.naturalHeight);
            return { width, height, red: [...data].filter((_, place) => place % 4 === 0) };
        }"""
    )
    expected = load_image(radiograph, pixels=16).float()
    assert (pixels["width"], pixels["height"]) == (16, 16)
    np.testing.assert_allclose(np.reshape(pixels["red"], (1, 16, 16)) / 255, expected, atol=0.003)


def test_nothing_is_asked_of_another_machine_and_nothing_is_kept(viewer, opened, radiograph) -> None:
    opened.visit(viewer.address)
    opened.diagnose(radiograph)
    opened.wait(phase="answered", model="known")
    local = ("blob:" + viewer.origin, viewer.origin + "/", "data:image/png;base64,")
    assert [url for url in opened.asked if not url.startswith(local)] == []
    assert {viewer.origin + path for path in ("/page.js", "/page.css", "/api/preview", "/api/diagnosis")} <= {
        *opened.asked
    }
    assert opened.complaints == []  # a breach of the content security policy is one
    kept = "async () => [localStorage.length, sessionStorage.length, (await caches.keys()).length, document.cookie]"
    assert opened.page.evaluate(kept) == [0, 0, 0, ""]
    assert opened.page.context.cookies() == []
    assert list((viewer.folder / "tmp").rglob("*")) == []


def test_a_dicom_file_is_drawn_by_the_viewer_in_its_own_proportions(viewer, opened, tmp_path, make_dicom) -> None:
    make_dicom(tmp_path / "image", rows=120, columns=80)  # no suffix: the content says what it is
    opened.visit(viewer.address)
    opened.choose(tmp_path / "image")
    opened.wait(phase="ready")
    size = "image => image.decode().then(() => [image.naturalWidth, image.naturalHeight])"
    assert opened.page.eval_on_selector("#original", size) == [80, 120]
    opened.page.click("#diagnose")
    opened.wait(phase="answered")
    assert sum(opened.shares().values()) == pytest.approx(100, abs=0.2)


def test_an_unusable_file_is_refused_in_one_sentence(viewer, opened, radiograph, tmp_path) -> None:
    colours = np.zeros((50, 50, 3), dtype=np.uint8)
    colours[..., 0] = 200
    Image.fromarray(colours).save(tmp_path / "colours.png")
    opened.visit(viewer.address)
    opened.choose(tmp_path / "colours.png")
    opened.wait(phase="refused")
    way_out = "give a grey PNG or JPEG file, or an uncompressed DICOM radiograph"
    assert opened.text("#trouble-text") == f"colours.png: The image is a colour image; {way_out}."
    assert opened.page.is_disabled("#diagnose")
    assert not opened.shows("#pictures")
    opened.diagnose(radiograph)  # a good one goes on
    assert not opened.shows("#trouble")
    assert opened.page.is_enabled("#diagnose")


def test_a_page_left_open_sends_nothing_to_another_program_at_its_address(viewer, opened, radiograph) -> None:
    opened.visit(viewer.address)
    opened.wait(model="known")
    # Whoever took the port after the viewer ended does not know the token.
    opened.page.route("**/hello*", lambda route: route.fulfill(json={"proof": "00" * 32}))
    opened.asked.clear()
    opened.choose(radiograph)
    opened.wait(phase="refused")
    assert "nothing was sent" in opened.text("#trouble-text")
    assert [address for address in opened.asked if "/api/" in address] == []


def test_a_file_dropped_anywhere_is_taken_and_does_not_replace_the_page(viewer, opened, radiograph) -> None:
    opened.visit(viewer.address)
    opened.wait(phase="empty")
    drop = """([content]) => {
        const files = new DataTransfer();
        files.items.add(new File([Uint8Array.from(content)], "dropped.png"));
        for (const kind of ["dragenter", "dragover", "drop"]) {
            document.querySelector("footer").dispatchEvent(
                new DragEvent(kind, { dataTransfer: files, bubbles: true, cancelable: true }));
        }
    }"""
    opened.page.evaluate(drop, [list(radiograph.read_bytes())])
    opened.wait(phase="ready")
    assert "dropped.png" in opened.text("#file-name")


def test_the_keyboard_alone_is_enough(viewer, opened, radiograph) -> None:
    # From before the first key on: the browser takes over the system's dialogue some time after it is told to.
    opened.page.on("filechooser", lambda chooser: chooser.set_files(radiograph))
    opened.visit(viewer.address)
    opened.wait(phase="empty", model="known")
    focused = "document.activeElement.id"
    opened.page.keyboard.press("Tab")
    assert opened.page.evaluate(focused) == "file"
    opened.page.keyboard.press("Enter")
    opened.wait(phase="ready")
    assert opened.page.evaluate(focused) == "file"
    opened.page.keyboard.press("Tab")
    assert opened.page.evaluate(focused) == "diagnose"
    opened.page.keyboard.press("Enter")
    opened.wait(phase="answered")
    assert opened.page.evaluate(focused) == "answer"  # a screen reader goes on there
    opened.page.keyboard.press("Shift+Tab")
    opened.page.keyboard.press("Shift+Tab")
    opened.page.keyboard.press("Shift+Tab")
    assert opened.page.evaluate(focused) == "clear"
    opened.page.keyboard.press("Enter")
    opened.wait(phase="empty")
    assert not opened.shows("#answer")


def test_the_steps_are_told_to_a_screen_reader(viewer, opened, radiograph) -> None:
    opened.visit(viewer.address)
    opened.wait(phase="empty", model="known")
    opened.page.evaluate(
        """() => {
            window.heard = [];
            const region = document.querySelector("[aria-live=polite]");
            new MutationObserver(() => heard.push(region.textContent)).observe(region, { childList: true });
        }"""
    )
    opened.diagnose(radiograph)
    heard = opened.page.evaluate("window.heard")
    assert heard[0] == "The image is being prepared on this computer."
    assert "Encrypting on this computer…" in heard
    assert heard[-1].startswith("Done in ")
    assert len(heard) < 12  # not one for every redraw


def test_a_wrong_token_opens_nothing(viewer, opened) -> None:
    opened.visit(f"{viewer.origin}/#{viewer.token[:-1]}")
    opened.wait(phase="refused")
    assert "token" in opened.text("#trouble-text")
    assert not opened.shows("#model")


def test_without_a_token_the_page_is_locked(viewer, opened) -> None:
    opened.visit(f"{viewer.origin}/")
    opened.wait(phase="locked")
    assert opened.page.is_disabled("#file")
    assert opened.page.is_disabled("#diagnose")
    assert [url for url in opened.asked if "/api/" in url] == []


@pytest.fixture
def elsewhere() -> Iterator[str]:
    """Another page on this machine."""

    class Page(http.server.BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(200)
            self.send_header("content-type", "text/html")
            self.end_headers()
            self.wfile.write(b"<!doctype html><title>elsewhere</title>")

        def log_message(self, *_: object) -> None:
            pass

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Page) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        yield f"http://127.0.0.1:{server.server_port}/"
        server.shutdown()
        thread.join()


def test_another_page_cannot_call_the_viewer_even_if_it_learned_the_token(viewer, opened, elsewhere) -> None:
    opened.visit(elsewhere)
    call = """([address, token]) => Promise.all(["cors", "no-cors"].map((mode) =>
        fetch(address, { mode, headers: mode === "cors" ? { "primia-token": token } : {} })
            .then(() => "read", () => "refused")))"""
    assert opened.page.evaluate(call, [viewer.origin + "/api/model", viewer.token]) == ["refused", "refused"]


def test_another_page_cannot_submit_a_form_to_the_viewer(viewer, opened, elsewhere) -> None:
    opened.visit(elsewhere)
    submit = """(address) => {
        const form = document.createElement("form");
        Object.assign(form, { method: "post", enctype: "text/plain", action: address });
        document.body.append(form);
        form.submit();
    }"""
    with opened.page.expect_navigation() as navigation:
        opened.page.evaluate(submit, viewer.origin + "/api/diagnosis")
    assert navigation.value.status == 403
    assert "other pages" in json.loads(navigation.value.text())["detail"]


def test_another_page_cannot_frame_the_viewer(viewer, opened, elsewhere) -> None:
    opened.visit(elsewhere)
    frame = """(address) => new Promise((loaded) => {
        const frame = document.createElement("iframe");
        frame.addEventListener("load", loaded);
        frame.src = address;
        document.body.append(frame);
    }).then(() => null)"""
    opened.page.evaluate(frame, viewer.address)
    assert all("Encrypted diagnosis" not in frame.content() for frame in opened.page.frames)


def test_a_rebound_name_is_refused(viewer, opened) -> None:
    port = viewer.origin.rsplit(":", 1)[1]
    answer = opened.page.goto(f"http://rebound.example:{port}/#{viewer.token}", timeout=PATIENCE_MS)
    assert answer.status == 403
    assert "local address" in json.loads(answer.text())["detail"]


@pytest.mark.parametrize("width", [320, 400])
def test_a_narrow_page_is_whole_without_scrolling_sideways(viewer, opened, radiograph, width) -> None:
    opened.page.set_viewport_size({"width": width, "height": 800})
    opened.visit(viewer.address)
    opened.diagnose(radiograph)
    assert opened.page.evaluate("document.documentElement.scrollWidth") <= width
    for selector in ("#drop", "#diagnose", "#answer", "#disclaimer", "#original", "#prepared"):
        box = opened.page.locator(selector).bounding_box()
        assert box["x"] >= 0
        assert box["x"] + box["width"] <= width
        assert box["height"] >= 24


# WCAG 2.2, relative luminance and contrast ratio; the least contrast of any visible text with what is behind it.
CONTRAST = """() => {
    const linear = (value) => value <= 0.04045 ? value / 12.92 : ((value + 0.055) / 1.055) ** 2.4;
    const numbers = (colour) => colour.match(/[\\d.]+/g).map(Number);
    const luminance = ([red, green, blue]) =>
        0.2126 * linear(red / 255) + 0.7152 * linear(green / 255) + 0.0722 * linear(blue / 255);
    const behind = (element) => {
        const colour = numbers(getComputedStyle(element).backgroundColor);
        return colour.length === 4 && colour[3] === 0 ? behind(element.parentElement) : colour;
    };
    const texts = [...document.querySelectorAll("body *")].filter((element) =>
        element.checkVisibility() && !element.closest(":disabled") &&
        [...element.childNodes].some((node) => node.nodeType === Node.TEXT_NODE && node.data.trim()));
    return texts.map((element) => {
        const [one, other] = [luminance(numbers(getComputedStyle(element).color)), luminance(behind(element))];
        return [(Math.max(one, other) + 0.05) / (Math.min(one, other) + 0.05), element.textContent.trim()];
    }).sort(([one], [other]) => one - other)[0];
}"""


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_every_text_can_be_read_against_what_is_behind_it(viewer, opened, radiograph, tmp_path, scheme) -> None:
    opened.page.emulate_media(color_scheme=scheme)
    opened.visit(viewer.address)
    opened.diagnose(radiograph)
    contrast, text = opened.page.evaluate(CONTRAST)
    assert contrast >= 4.5, text
    (tmp_path / "none.png").write_bytes(b"none")
    opened.choose(tmp_path / "none.png")
    opened.wait(phase="refused")
    contrast, text = opened.page.evaluate(CONTRAST)
    assert contrast >= 4.5, text


def test_every_file_of_the_page_is_served(viewer, opened) -> None:
    opened.visit(viewer.address)
    for path in FILES:
        answer = opened.page.request.get(viewer.origin + path)
        assert answer.status == 200
        assert answer.body()
