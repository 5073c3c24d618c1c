"""Reading a body: refused by what it announces before a byte is read, then held to it, to a pace and to a time."""

import asyncio
import contextlib
import time
from collections.abc import AsyncIterator

from starlette.requests import ClientDisconnect, Request

from primia.diagnosis.service.limits import Memory
from primia.diagnosis.service.refusals import Refusal
from primia.diagnosis.service.settings import ServiceSettings


@contextlib.asynccontextmanager
async def body_of_request(
    request: Request, *, most: int, settings: ServiceSettings, memory: Memory
) -> AsyncIterator[bytes]:
    """The body, of at most `most` bytes, with its memory held for the block.

    Raises:
        Refusal: 411 without a length; 413 too long; 415 compressed; 422 empty; 408 too slow; 503 no memory; 400 when
            the client went away.
    """
    size = announced_size(request, most=most)
    with memory.for_body(3 * size):  # as it arrives, as it is, and its parts
        yield await _read(request, size, settings)


def announced_size(request: Request, *, most: int) -> int:
    """The length that the headers announce, if this service takes such a body."""
    encoding = request.headers.get("content-encoding", "identity").strip().lower()
    if encoding != "identity":
        raise Refusal(415, "The body is compressed, which this service does not read; send it as it is.")
    announced = request.headers.get("content-length")
    if announced is None:
        raise Refusal(411, "The body comes without its length; send it with a content-length.")
    size = int(announced) if announced.isascii() and announced.isdigit() and len(announced) < 19 else most + 1
    if size > most:
        raise Refusal(413, f"The body is longer than the {most} bytes this model can need; check what was sent.")
    if size == 0:
        raise Refusal(422, "The body is empty; send a message of this version.")
    return size


async def _read(request: Request, size: int, settings: ServiceSettings) -> bytes:
    content = bytearray()
    started = time.monotonic()
    chunks = request.stream()
    try:
        while len(content) < size:
            # By when the next bytes must be there: an upload that falls behind the pace ends.
            by = settings.pace_slack_s + len(content) / settings.pace_bytes_per_s
            left = min(by, settings.body_s) - (time.monotonic() - started)
            async with asyncio.timeout(max(left, 0.0)):
                content += await anext(chunks)
    except TimeoutError as error:
        raise Refusal(408, "The body arrives too slowly; send it again over a faster line.") from error
    except (ClientDisconnect, StopAsyncIteration) as error:
        raise Refusal(400, "The connection ended before the whole body had arrived; send it again.") from error
    if len(content) != size:
        raise Refusal(400, "The body is longer than it announced; send it again.")
    return bytes(content)
