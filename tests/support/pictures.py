"""Pictures as people have them, and a web server that gives them to the world."""

from __future__ import annotations

import functools
import io
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

from PIL import Image


def picture(
    seed: int = 0, kind: str = "JPEG", size: tuple[int, int] = (64, 48), noisy: bool = False
) -> bytes:
    """A picture unlike those of other seeds."""
    image = Image.effect_noise(size, 90).convert("RGB") if noisy else Image.new("RGB", size)
    image.putpixel((0, 0), (seed % 256, seed // 256 % 256, 77))
    for x in range(8):
        image.putpixel((x, 1), (seed * 37 % 256, x * 30, seed // 7 % 256))
    out = io.BytesIO()
    image.save(out, kind, **({"quality": 100, "subsampling": 0} if kind == "JPEG" else {}))
    return out.getvalue()


@dataclass
class PublicFolder:
    """A folder that anyone can read over HTTP; `asked` has each path that was asked for."""

    folder: Path
    url: str
    asked: list[str] = field(default_factory=list)
    refuses: bool = False


@contextmanager
def public_folder(folder: Path) -> Iterator[PublicFolder]:
    """Serve a folder to the world, which is this machine."""
    folder.mkdir(parents=True, exist_ok=True)

    class Handler(SimpleHTTPRequestHandler):
        def do_GET(self) -> None:
            served.asked.append(self.path)
            if served.refuses:
                self.send_error(403)
                return
            super().do_GET()

        def log_message(self, *_: object) -> None:
            pass

    handler = functools.partial(Handler, directory=str(folder))
    server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
    served = PublicFolder(folder, f"http://127.0.0.1:{server.server_address[1]}")
    serving = threading.Thread(target=server.serve_forever, daemon=True)
    serving.start()
    try:
        yield served
    finally:
        server.shutdown()
        server.server_close()
        serving.join()
