"""Pictures that come with a request: their bytes, and their pixels, within limits that are checked before slow work."""

import asyncio
import contextlib
from collections.abc import AsyncIterator

import numpy as np
from starlette.exceptions import HTTPException
from starlette.requests import Request

from gcn_flax.input_pipeline import pictures

MAX_BYTES = 2**25  # 32 MiB.
MAX_PIXELS = 2**24  # About 4096 x 4096: a photo of 12 million pixels fits, one of 48 million does not.
MAX_SIDE = 2**13
_MAX_SECONDS = 60  # For a body to arrive.
_NAME = "the picture"  # In messages; what the client calls it is not looked at.


async def read_body(request: Request) -> bytes:
  """Reads the body of a request.

  Raises:
    HTTPException: 413 if it is larger than `MAX_BYTES`, as soon as that is known; 408 if it arrives too slowly; 415 for
      the form of a page, 400 if it is empty.
    starlette.requests.ClientDisconnect: if the client hangs up.
  """
  check_headers(request)
  body = bytearray()
  async with _deadline():
    async for chunk in request.stream():
      body += chunk
      if len(body) > MAX_BYTES:
        raise _too_large()
  if not body:
    raise HTTPException(400, "the body is empty. Send the bytes of a picture: curl --data-binary @photo.jpg URL.")
  return bytes(body)


def check_headers(request: Request) -> None:
  """Raises HTTPException, 413 or 415, if the headers of a request already say that its body cannot be used."""
  length = request.headers.get("content-length", "")
  if length.isdecimal() and int(length) > MAX_BYTES:
    raise _too_large()
  if request.headers.get("content-type", "").startswith("multipart/"):
    raise HTTPException(
      415, "the body is a form. Send the bytes of the picture alone: curl --data-binary @photo.jpg URL."
    )


@contextlib.asynccontextmanager
async def _deadline() -> AsyncIterator[None]:
  try:
    async with asyncio.timeout(_MAX_SECONDS):
      yield
  except TimeoutError as error:
    raise HTTPException(408, f"the picture did not arrive within {_MAX_SECONDS} s. Send a smaller one.") from error


def _too_large() -> HTTPException:
  return HTTPException(413, f"the picture has more than {MAX_BYTES // 2**20} MiB. Make it smaller.")


def read_picture(data: bytes) -> np.ndarray:
  """Decodes a picture as `pictures.read_picture` does, RGB uint8 `[H, W, 3]`.

  Raises:
    HTTPException: 413 if it has more than `MAX_PIXELS` pixels, or more than `MAX_SIDE` along a side, before it is
      decoded; 422 if it cannot be read.
  """
  try:
    height, width = pictures.encoded_size(data)
    if height * width > MAX_PIXELS or max(height, width) > MAX_SIDE:
      raise HTTPException(
        413,
        f"the picture is {height} x {width}, and may have {MAX_PIXELS:,} pixels and {MAX_SIDE:,} along a side. "
        "Make it smaller.",
      )
    return pictures.decode_rgb(data, _NAME)
  except ValueError as error:
    raise HTTPException(422, str(error)) from error
