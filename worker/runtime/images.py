"""Image files of unikernels and WASM modules: local paths, file:// and http(s):// URLs; a download happens once."""

from __future__ import annotations

import asyncio
import hashlib
import http.client
import threading
import time
import urllib.error
import urllib.request
from pathlib import Path
from typing import Final
from urllib.parse import unquote, urlsplit

from worker.runtime.base import Progress, RuntimeFailure, is_disk_full

MAX_IMAGE_BYTES: Final = 4 * 1024**3
MAX_DOWNLOAD_S: Final = 1800.0
_STALL_S: Final = 15.0
_CHUNK: Final = 256 * 1024


class ImageCache:
    """A folder with what was downloaded, by the hash of its address."""

    def __init__(self, folder: Path, *, max_bytes: int = MAX_IMAGE_BYTES, max_s: float = MAX_DOWNLOAD_S) -> None:
        self._folder = folder
        self._max_bytes = max_bytes
        self._max_s = max_s
        self._locks: dict[str, asyncio.Lock] = {}

    async def fetch(self, image: str, progress: Progress) -> Path:
        """The image as a local file; it is downloaded unless it is there. Raises RuntimeFailure."""
        parts = urlsplit(image)
        if parts.scheme in ("http", "https"):
            async with self._locks.setdefault(image, asyncio.Lock()):
                return await self._download_once(image, progress)
        path = self.path(image)
        if not path.is_file():
            raise RuntimeFailure(f"no image file {path} on this node", is_final=True)
        return path

    def path(self, image: str) -> Path:
        """Where an image lies, or will."""
        parts = urlsplit(image)
        if parts.scheme in ("http", "https"):
            return self._folder / (hashlib.sha256(image.encode()).hexdigest()[:32] + Path(parts.path).suffix[:16])
        if parts.scheme == "file":
            return Path(unquote(parts.path))
        return Path(image).resolve()

    async def _download_once(self, url: str, progress: Progress) -> Path:
        target = self.path(url)
        if target.exists():
            return target
        cancelled = threading.Event()
        loop = asyncio.get_running_loop()

        def report(words: str) -> None:
            loop.call_soon_threadsafe(progress, words)

        try:
            await asyncio.to_thread(self._download, url, target, cancelled, report)
        except urllib.error.HTTPError as error:
            error.close()
            raise RuntimeFailure(f"cannot download {url}: {error}") from None
        except (OSError, http.client.HTTPException) as error:
            why = "the node's disk is full" if isinstance(error, OSError) and is_disk_full(error) else str(error)
            raise RuntimeFailure(f"cannot download {url}: {why}") from None
        finally:
            cancelled.set()
        return target

    def _download(self, url: str, target: Path, cancelled: threading.Event, progress: Progress) -> None:
        self._folder.mkdir(parents=True, exist_ok=True)
        part = target.with_name(target.name + ".part")
        try:
            self._fill(part, url, cancelled, progress)
            part.replace(target)
        finally:  # half an image is of no use, and on a full disk it takes the room of everything else
            part.unlink(missing_ok=True)

    def _fill(self, part: Path, url: str, cancelled: threading.Event, progress: Progress) -> None:
        deadline, done, told = time.monotonic() + self._max_s, 0, time.monotonic()
        with urllib.request.urlopen(url, timeout=_STALL_S) as answer, part.open("wb") as file:  # noqa: S310 - scheme checked
            total = int(answer.headers.get("Content-Length") or 0)
            while chunk := answer.read(_CHUNK):
                done += len(chunk)
                if done > self._max_bytes or time.monotonic() > deadline or cancelled.is_set():
                    raise RuntimeFailure(
                        f"{url} is larger than {self._max_bytes} bytes or takes too long", is_final=True
                    )
                file.write(chunk)
                if time.monotonic() - told >= 1:
                    told = time.monotonic()
                    progress(f"downloading: {done} of {total or '?'} bytes")
        if total and done < total:
            raise OSError(f"the answer ended after {done} of {total} bytes")
