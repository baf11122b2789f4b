"""A headless browser that looks at the page: for its tests and its picture."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from playwright.sync_api import Page

__all__ = ['CHROMIUM', 'do', 'open_page', 'save_screenshot']

# Debian's; playwright's own would be a download.
CHROMIUM = Path('/usr/bin/chromium')
_ARGUMENTS = (
    '--headless', '--no-sandbox', '--disable-gpu', '--disable-quic', '--no-first-run',
    '--disable-background-networking', '--disable-component-update', '--disable-sync',
)  # fmt: skip
_MILLISECONDS = 60_000


@contextmanager
def open_page(url: str, watch: Any = None) -> Iterator['Page']:
    """Open the page and wait until the first image is predicted.

    Args:
        url: Where it is.
        watch: Called with the empty page, to listen to its events.
    """
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=str(CHROMIUM), args=_ARGUMENTS)
        try:
            page = browser.new_page(viewport=dict(width=1500, height=860))
            page.set_default_timeout(_MILLISECONDS)
            if watch is not None:
                watch(page)
            page.goto(url)
            page.wait_for_selector('#rows table')
            yield page
        finally:
            browser.close()


def do(page: 'Page', action: Any, changes: str = '#heat img') -> None:
    """Act, and wait until an image of the page is another one.

    Args:
        page: The page.
        action: What to do.
        changes: Selector of the image.
    """
    before = page.get_attribute(changes, 'src')
    action()
    page.wait_for_function(
        '([where, old]) => { const image = document.querySelector(where);'
        ' return image && image.src != old && image.complete; }',
        arg=[changes, before],
    )


def save_screenshot(
    url: str, path: Path, model: str = 'detector', place: tuple[float, float] = (0.29, 0.43)
) -> None:
    """Save a picture of the page: heat that has spread from a pixel, beside what was found.

    Args:
        url: Where the page is.
        path: PNG file to write.
        model: Start of the title of the model to choose.
        place: The pixel to click, as a share of the image's width and height.
    """
    with open_page(url) as page:
        if not page.input_value('#model input').startswith(model):
            page.click('#model input')
            option = page.locator('[role=option]', has_text=model).first
            do(page, option.click, '#found img')
        image = page.locator('#image img')
        box = image.bounding_box()
        x, y = place[0] * box['width'], place[1] * box['height']
        do(page, lambda: image.click(position=dict(x=x, y=y)))
        do(page, lambda: page.fill('#time input[type=range]', '16'))
        page.screenshot(path=path)
