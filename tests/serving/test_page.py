"""The page in Chromium: a picture dropped, its classes read, and nothing asked of another host."""

import io
import re

import numpy as np
import pytest
from PIL import Image

import gcn_flax
from tests.serving.processes import encoded, png

pytestmark = pytest.mark.slow

DROP = """async ([name, numbers]) => {
  const data = new DataTransfer();
  data.items.add(new File([new Uint8Array(numbers)], name));
  for (const kind of ["dragover", "drop"]) {
    document.body.dispatchEvent(new DragEvent(kind, { bubbles: true, cancelable: true, dataTransfer: data }));
  }
}"""
# Colour and opacity of the classes at a pixel, as shares of the width and height of what is shown.
PIXEL = """([x, y]) => {
  const canvas = document.getElementById("classes");
  const copy = new OffscreenCanvas(1, 1).getContext("2d", { willReadFrequently: true });
  copy.drawImage(canvas, -Math.floor(x * canvas.width), -Math.floor(y * canvas.height));
  return Array.from(copy.getImageData(0, 0, 1, 1).data);
}"""


class Page:
  """An open page of the server, which may ask nothing of another host and say nothing on the console."""

  def __init__(self, browser, server):
    self.messages, self.requests = [], []
    self.opened = browser.new_page(viewport={"width": 1240, "height": 900}, accept_downloads=True)
    self.opened.on("console", lambda message: self.messages.append(message.text))
    self.opened.on("pageerror", lambda error: self.messages.append(str(error)))
    self.opened.on("request", lambda request: self.requests.append(request.url))
    self.opened.goto(server.address, wait_until="networkidle")
    self.address = server.address

  def text(self, name):
    return self.opened.inner_text(f"#{name}")

  def drop(self, data, name="photo.png"):
    self.opened.evaluate(DROP, [name, list(data)])

  def await_text(self, name, text):
    self.opened.locator(f"#{name}").filter(has_text=text).wait_for(state="attached")

  def await_result(self):
    self.opened.wait_for_selector("#tools:not([hidden])")

  def await_refusal(self):
    self.opened.wait_for_selector("#alert:not([hidden])")
    return self.text("alert")

  def download(self, button):
    with self.opened.expect_download() as started:
      self.opened.click(f"#{button}")
    return started.value.suggested_filename, started.value.path().read_bytes()

  def check_quiet(self):
    assert self.messages == []
    others = [url for url in self.requests if not url.startswith((self.address, "data:", f"blob:{self.address}"))]
    assert others == []


@pytest.fixture
def page(browser, server):
  opened = Page(browser, server)
  yield opened
  opened.opened.close()


@pytest.fixture(scope="module")
def model(run):
  return gcn_flax.load(run)


def test_a_dropped_picture_shows_its_classes(page, model):
  data = png(64, 96)
  label = model.predict(np.asarray(Image.open(io.BytesIO(data))))
  page.drop(data)
  page.await_result()
  counts = np.bincount(label.ravel(), minlength=len(model.classes))
  rows = [re.split(r"\n+", row) for row in page.opened.locator("#legend li").all_inner_texts()]
  expected = [(model.classes[index], 100 * counts[index] / label.size) for index in np.argsort(-counts, kind="stable")]
  assert rows == [[name, f"{share:.1f} %" if share >= 0.05 else "< 0.1 %"] for name, share in expected if share]
  absent = [name for name, count in zip(model.classes, counts, strict=True) if not count]
  assert page.text("legend-note") == (f"Not found: {', '.join(absent)}" if absent else "")
  assert page.text("status") == "96 × 64 pixels" and "11 classes" in page.text("network")
  top = int(counts.argmax())
  row, column = np.argwhere(label == top)[0]
  place = [(column + 0.5) / 96, (row + 0.5) / 64]
  assert page.opened.evaluate(PIXEL, place) == [*model.palette[top], 255]

  page.opened.locator("#legend button").first.click()
  page.opened.mouse.move(0, 0)
  assert page.opened.evaluate(PIXEL, place)[3] == 0
  assert page.opened.locator("#legend button").first.get_attribute("aria-pressed") == "false"
  page.opened.locator("#legend button").first.click()
  page.opened.locator("#legend button").last.hover()
  assert page.opened.evaluate(PIXEL, place)[3] == (45 if len(rows) > 1 else 255)
  page.opened.hover("#layers", position={"x": 5, "y": 5})
  assert page.text("under") == model.classes[label[0, 0]]
  page.check_quiet()


def test_label_map_and_overlay_are_downloaded(page, server, model):
  data = png(40, 50, seed=1)
  page.drop(data, "my.photo.png")
  page.await_result()
  name, labels = page.download("save-labels")
  assert name == "my.photo_labels.png" and labels == server.ask("predict", data)[2]
  page.opened.fill("#opacity", "25")
  assert page.text("percent") == "25 %"
  name, overlay = page.download("save-overlay")
  image, numbers = np.asarray(Image.open(io.BytesIO(data))), np.asarray(Image.open(io.BytesIO(labels)))
  mixed = 0.75 * image + 0.25 * np.array(model.palette)[numbers]
  assert name == "my.photo_overlay.png"
  np.testing.assert_allclose(np.asarray(Image.open(io.BytesIO(overlay)).convert("RGB")), mixed, atol=2)
  page.check_quiet()


def test_a_sample_is_predicted_by_keyboard(page):
  page.opened.locator("#samples button").nth(1).focus()
  page.opened.keyboard.press("Enter")
  page.await_result()
  assert page.text("name") == "sample_2.png" and page.opened.locator("#samples [aria-current]").count() == 1
  page.opened.focus("#opacity")
  page.opened.keyboard.press("End")
  assert page.text("percent") == "100 %"
  page.opened.locator("#legend button").first.focus()
  page.opened.keyboard.press("Space")
  assert page.opened.locator("#legend [aria-pressed=false]").count() == 1
  page.check_quiet()


def test_a_chosen_file_and_one_that_the_browser_cannot_show(page):
  tiff = encoded(Image.new("RGB", (60, 40), (9, 90, 9)), "TIFF")
  page.opened.set_input_files("#file", {"name": "scan.tif", "mimeType": "image/tiff", "buffer": tiff})
  page.await_result()
  assert page.text("status").startswith("This browser cannot show such pictures")
  assert page.opened.evaluate("document.getElementById('classes').style.opacity") == "1"
  page.opened.set_input_files("#file", {"name": "a.png", "mimeType": "image/png", "buffer": png(64, 96)})
  page.await_text("status", "96 × 64 pixels")
  assert page.opened.is_visible("#picture")
  page.check_quiet()


def test_refusals_stand_on_the_page_and_the_next_picture_removes_them(page):
  page.drop(b"no picture", "<b>notes</b>.txt")
  assert page.await_refusal().startswith("<b>notes</b>.txt: the picture is damaged or truncated, or not an 8-bit grey")
  assert page.opened.is_visible("#invitation") and not page.opened.is_visible("#bar")
  page.opened.evaluate("limits.max_bytes = 100")  # The page does not even send what is too large.
  sent = len(page.requests)
  page.drop(png(64, 96))
  page.await_text("alert", "MiB")
  assert [url for url in page.requests[sent:] if not url.startswith("blob:")] == []
  page.opened.evaluate("limits.max_bytes = 2 ** 25")
  page.drop(png(64, 96))
  page.await_result()
  assert not page.opened.is_visible("#alert")
  assert [message for message in page.messages if "status of 422" not in message] == []


def test_a_busy_server_is_asked_again(page):
  answers = [
    {"status": 503, "headers": {"Retry-After": "1"}, "json": {"error": "16 pictures are waiting already."}},
    {"status": 503, "headers": {"Retry-After": "1"}, "json": {"error": "16 pictures are waiting already."}},
  ]
  page.opened.route("**/predict", lambda route: route.fulfill(**answers.pop()) if answers else route.continue_())
  page.drop(png(64, 96))
  page.await_text("status", "Many pictures")
  page.await_result()
  assert not answers


def test_a_picture_can_be_cancelled_and_the_next_one_replaces_it(page):
  page.opened.route("**/predict", lambda route: None)  # No answer ever comes.
  page.drop(png(64, 96))
  page.opened.click("#cancel")
  page.await_text("status", "Cancelled.")
  assert not page.opened.is_visible("#progress")
  page.drop(png(64, 96))
  page.opened.wait_for_selector("#progress:not([hidden])")
  page.opened.unroute("**/predict")
  page.drop(png(40, 50), "second.png")
  page.await_result()
  assert page.text("name") == "second.png" and page.text("status") == "50 × 40 pixels"
  assert not page.opened.is_visible("#alert")


def test_a_server_that_is_gone_is_named(page):
  page.opened.route("**/predict", lambda route: route.abort())
  page.drop(png(64, 96))
  assert page.await_refusal() == "photo.png: the server does not answer. Is it still running?"


@pytest.mark.parametrize("width, height", [(1240, 900), (390, 844)])
@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_nothing_is_wider_than_the_window_and_texts_stand_out(browser, server, width, height, scheme):
  opened = browser.new_page(viewport={"width": width, "height": height}, color_scheme=scheme)
  opened.goto(server.address, wait_until="networkidle")
  opened.locator("#samples button").first.click()
  opened.wait_for_selector("#tools:not([hidden])")
  assert opened.evaluate("document.documentElement.scrollWidth") <= width
  for name in ("h1", "#network", "#legend-title", ".share", "#choose-another", "#save-labels"):
    assert contrast(*opened.eval_on_selector(name, COLOURS)) >= 4.5, name
  for name in ("#file", "#opacity", "#cancel", "#progress"):
    assert opened.locator(name).count() == 1
  unnamed = "Array.from(document.querySelectorAll('button, input, img')).filter(each => !each.textContent.trim() && "
  unnamed += "!each.alt && !each.ariaLabel && !each.querySelector('img') && !each.labels?.length).map(each => each.id)"
  assert opened.evaluate(unnamed) == []
  opened.close()


COLOURS = """element => {
  let behind = element;
  while (getComputedStyle(behind).backgroundColor === "rgba(0, 0, 0, 0)") behind = behind.parentElement;
  return [getComputedStyle(element).color, getComputedStyle(behind).backgroundColor];
}"""


def contrast(one, other):
  """The contrast ratio of two CSS colours (WCAG 2.2, 1.4.3)."""

  def luminance(colour):
    channels = [int(value) / 255 for value in re.findall(r"\d+", colour)[:3]]
    linear = [value / 12.92 if value <= 0.04045 else ((value + 0.055) / 1.055) ** 2.4 for value in channels]
    return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]

  low, high = sorted((luminance(one), luminance(other)))
  return (high + 0.05) / (low + 0.05)
