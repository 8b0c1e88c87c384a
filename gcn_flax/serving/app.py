"""The web application: a page to try a network on, and the routes that it uses."""

import base64
import hashlib
import pathlib
import re
from collections.abc import Collection, Sequence
from typing import Any

import numpy as np
from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import HTMLResponse, JSONResponse, Response
from starlette.routing import Route
from starlette.types import ASGIApp

from gcn_flax.input_pipeline.canvas import canvas_of
from gcn_flax.printable import printable
from gcn_flax.segmenter import Segmenter
from gcn_flax.serving.guards import EarlyAnswers, OwnPagesOnly, RequestLog, error_response
from gcn_flax.serving.turns import Turns, unless_hung_up
from gcn_flax.serving.uploads import MAX_BYTES, MAX_PIXELS, MAX_SIDE, check_headers, read_body, read_picture
from gcn_flax.visualize import overlay

_PAGE = pathlib.Path(__file__).parent / "page.html"
_PLACES = 16  # For pictures that arrive, wait or are predicted: they take at most 16 * MAX_BYTES of memory.
_MAX_PROGRAMS = 32
_MEMORY_FIX = "Send a smaller one, or start the server with --config.eval.tile='(512, 512)'."
_ROUTES = "GET /, GET /health, GET /samples and POST /predict"


class Service:
  """State of the server; no request reads or writes a file.

  Args:
    segmenter: the network.
    samples: PNG files of pictures to try.

  Attributes:
    turns: the queue of the predictions.
  """

  def __init__(self, segmenter: Segmenter, samples: Sequence[bytes] = ()):
    self._segmenter, self._samples, self.turns = segmenter, samples, Turns(_PLACES)
    self._classes = [printable(name) for name in segmenter.classes]
    self._canvases = set()  # A program is compiled for each.
    self._page, self._policy = _load_page()

  def app(self, hosts: Collection[str] = ()) -> ASGIApp:
    """Returns the application; `hosts` are the names that it may be called by, () for any."""
    routes = [
      Route("/", self._get_page),
      Route("/health", self._get_health),
      Route("/samples", self._get_samples),
      Route("/samples/{number:int}", self._get_sample),
      Route("/predict", self._post_predict, methods=["POST"]),
    ]
    handlers = {HTTPException: _refuse, Exception: _fail}
    return RequestLog(EarlyAnswers(OwnPagesOnly(Starlette(routes=routes, exception_handlers=handlers), hosts)))

  async def _get_page(self, _: Request) -> Response:
    return HTMLResponse(self._page, headers={"Content-Security-Policy": self._policy})

  async def _get_health(self, _: Request) -> Response:
    model = self._segmenter.config.model
    return JSONResponse({
      "status": "ok",
      "waiting": self.turns.taken,
      "step": int(self._segmenter.trained.step),
      "classes": self._classes,
      "network": f"{model.backbone}, {model.head}, k = {model.kernel_size}",
      "max_bytes": MAX_BYTES,
      "max_pixels": MAX_PIXELS,
      "max_side": MAX_SIDE,
    })  # fmt: skip

  async def _get_samples(self, _: Request) -> Response:
    return JSONResponse([f"samples/{number}" for number in range(1, 1 + len(self._samples))])

  async def _get_sample(self, request: Request) -> Response:
    number = request.path_params["number"]
    if not 1 <= number <= len(self._samples):
      raise HTTPException(404)
    return Response(self._samples[number - 1], media_type="image/png")

  async def _post_predict(self, request: Request) -> Response:
    check_headers(request)
    with self.turns.place():
      data = await read_body(request)
      label, png = await unless_hung_up(request, self.turns.run(self._predict, data))
    if "application/json" not in request.headers.get("accept", ""):
      return Response(png, media_type="image/png")
    return JSONResponse(self._describe(label) | {"label_map": base64.b64encode(png).decode()})

  def _predict(self, data: bytes) -> tuple[np.ndarray, bytes]:
    """Returns the label map of an encoded picture, uint8 `[H, W]`, and its PNG. Raises HTTPException."""
    image = read_picture(data)
    self._limit_programs(image.shape[:2])
    try:
      label = self._segmenter.predict(image)
    except ValueError as error:
      raise HTTPException(422, str(error)) from error
    except RuntimeError as error:  # JAX's.
      if "RESOURCE_EXHAUSTED" not in str(error):
        raise
      raise HTTPException(
        413, f"the picture is {image.shape[0]} x {image.shape[1]}, too large for the memory here. {_MEMORY_FIX}"
      ) from error
    return label, overlay.encode_labels(label, self._segmenter.palette)

  def _limit_programs(self, size: Sequence[int]) -> None:
    """Drops the compiled programs, each of which takes megabytes, if the next one would be too many."""
    canvas = canvas_of(size, self._segmenter.config.data.eval_size)
    if canvas not in self._canvases and len(self._canvases) == _MAX_PROGRAMS:
      self._segmenter.trained.setup.eval_step.clear_cache()
      self._canvases.clear()
    self._canvases.add(canvas)

  def _describe(self, label: np.ndarray) -> dict[str, Any]:
    """Returns size, and name, colour, number and share of the pixels of each class, for JSON."""
    counts = np.bincount(label.ravel(), minlength=len(self._classes))
    rows = zip(self._classes, self._segmenter.palette, counts.tolist(), strict=False)
    classes = [{"name": name, "color": color, "pixels": n, "share": n / label.size} for name, color, n in rows]
    return {"height": label.shape[0], "width": label.shape[1], "classes": classes}


def _refuse(_: Request, error: HTTPException) -> Response:
  known = {404: f"there is no such page. Use {_ROUTES}.", 405: f"the method is not allowed here. Use {_ROUTES}."}
  return error_response(error.status_code, known.get(error.status_code, error.detail), error.headers)


def _fail(_: Request, error: Exception) -> Response:
  return error_response(500, f"{type(error).__name__} on the server; its log says more. Try another picture.")


def _load_page() -> tuple[str, str]:
  """Returns the page, and the content security policy that lets it run its own script and style, and nothing else."""
  page = _PAGE.read_text()
  policy = ["default-src 'none'", "connect-src 'self'", "img-src 'self' blob: data:"]
  policy += [f"{tag}-src 'sha256-{_digest(page, tag)}'" for tag in ("script", "style")]
  return page, "; ".join([*policy, "base-uri 'none'", "form-action 'none'", "frame-ancestors 'none'"])


def _digest(page: str, tag: str) -> str:
  content = re.search(f"<{tag}>(.*?)</{tag}>", page, re.DOTALL)[1]
  return base64.b64encode(hashlib.sha256(content.encode()).digest()).decode()
