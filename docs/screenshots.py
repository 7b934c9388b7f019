"""Take the pictures of the console that the documentation shows: ``make pictures``.

A browser is taken to a console that shows a busy day of a shop (``tests/console/scenery.py``), as the tests do.
"""

from __future__ import annotations

import struct
import sys
import tempfile
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from playwright.sync_api import Browser, Page

from celery_durable.console import Console
from tests.console.browser.chromium import launched
from tests.console.browser.serving import Served
from tests.console.scenery import busy_shop, seed_busy

IMAGES = Path(__file__).parent / "images"
LARGEST, LARGEST_OF_ALL = 200_000, 3_000_000
WIDE, NARROW = 1280, 390
_SIGNATURE = b"\x89PNG\r\n\x1a\n"


@dataclass(frozen=True)
class Picture:
    """A page as it looks on a screen."""

    name: str
    path: str
    width: int = WIDE
    height: int = 860
    dark: bool = False


def pictures() -> Iterator[Picture]:
    report = "/run/report-2026-10"
    for name, path, height in (("runs", "/", 860), ("run", report, 1000)):
        yield Picture(name, path, height=height)
        yield Picture(f"{name}-dark", path, height=height, dark=True)
        yield Picture(f"{name}-narrow", path, width=NARROW, height=844)
    yield Picture("flow", "/run/order-now-0?view=flow", height=1000)
    yield Picture("timeline", f"{report}?view=timeline", height=1000)
    yield Picture("failed-run", "{failed}", height=1000)
    yield Picture("step", f"{report}/step/region[17]", height=900)
    yield Picture("answer", f"{report}/answer", height=860)
    yield Picture("cancel", "/run/order-36/cancel", height=760)
    yield Picture("bulk", "/runs/retry?status=failed", height=760)
    yield Picture("events", "/events", height=760)
    yield Picture("event", "/event/customer-36", height=760)
    yield Picture("emit", "/events/emit", height=760)
    yield Picture("tasks", "/tasks", height=620)
    yield Picture("task", "/task/shop.onboard?span=7d", height=1000)
    yield Picture("start", "/task/shop.order/start", height=900)
    yield Picture("workers", "/workers", height=760)
    yield Picture("deeds", "/deeds", height=620)
    yield Picture("sign-in", "/sign-in", height=480)


def main() -> None:
    wanted = sys.argv[1:]
    IMAGES.mkdir(exist_ok=True)
    with tempfile.TemporaryDirectory() as folder, launched("--hide-scrollbars") as browser:
        path = Path(folder) / "shop.db"
        seed_busy(path)
        app = busy_shop(f"sqlite:///{path}", durable_console_tokens={"ada": "a-token-for-pictures"})
        site = Served(Console(app))
        (failed, *_) = Console(app).durable.runs(task="shop.print_labels", limit=1)
        for picture in pictures():
            if wanted and picture.name not in wanted:
                continue
            take(browser, site, picture, picture.path.format(failed=f"/run/{failed.id}"))
        site.stop()
    total = sum(file.stat().st_size for file in IMAGES.glob("*.png"))
    print(f"{total:,} bytes in all")
    assert total < LARGEST_OF_ALL, f"the pictures are larger than {LARGEST_OF_ALL:,} bytes"


def take(browser: Browser, site: Served, picture: Picture, path: str) -> None:
    """Take one picture, and keep it."""
    context = browser.new_context(
        base_url=site.url,
        viewport={"width": picture.width, "height": picture.height},
        color_scheme="dark" if picture.dark else "light",
        reduced_motion="reduce",
        device_scale_factor=1,
        is_mobile=picture.width == NARROW,
    )
    page = context.new_page()
    if picture.name != "sign-in":
        sign_in(page)
    answer = page.goto(path, wait_until="load")
    assert answer is not None, path
    assert answer.status == 200, f"{path}: {answer.status}"
    shot = page.screenshot(animations="disabled")
    context.close()
    written = optimised(shot)
    assert len(written) < LARGEST, f"{picture.name} is larger than {LARGEST:,} bytes"
    (IMAGES / f"{picture.name}.png").write_bytes(written)
    print(f"{picture.name}: {len(written):,} bytes")


def sign_in(page: Page) -> None:
    page.goto("/sign-in")
    page.get_by_label("Token").fill("a-token-for-pictures")
    page.get_by_role("button", name="Sign in").click()
    page.wait_for_load_state()


def optimised(png: bytes) -> bytes:
    """The same picture, packed as tightly as it goes: a browser packs in a hurry."""
    packed, kept, at = b"", b"", len(_SIGNATURE)
    while at < len(png):
        (length,) = struct.unpack(">I", png[at : at + 4])
        name, data = png[at + 4 : at + 8], png[at + 8 : at + 8 + length]
        at += 12 + length
        if name == b"IDAT":
            packed += data
        elif name == b"IHDR":
            kept += _chunk(name, data)
    return _SIGNATURE + kept + _chunk(b"IDAT", zlib.compress(zlib.decompress(packed), 9)) + _chunk(b"IEND", b"")


def _chunk(name: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))


if __name__ == "__main__":
    main()
