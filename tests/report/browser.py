"""A real browser for tests of pages: Chromium as Debian packages it, driven by Playwright. Skips aloud where there is none."""

import contextlib
import os
import shutil
from collections.abc import Iterator
from typing import Any

import pytest

CHROMIUM = next(
    (path for name in ("chromium", "chromium-browser", "google-chrome") if (path := shutil.which(name))), None
)


@contextlib.contextmanager
def browser() -> Iterator[Any]:
    """Playwright's browser."""
    sync = pytest.importorskip("playwright.sync_api", reason="Playwright is not installed (extra dev)")
    if CHROMIUM is None:
        pytest.skip("no Chromium here: `apt-get install chromium`, and pages are tested in it, too")
    with sync.sync_playwright() as playwright:
        sandbox = [] if os.geteuid() else ["--no-sandbox"]
        found = playwright.chromium.launch(executable_path=CHROMIUM, args=sandbox)
        try:
            yield found
        finally:
            found.close()


class Watched:
    """A page of which every request and every error is kept. `home`: what it may ask for."""

    def __init__(self, browser: Any, home: str, **context: Any):
        self.context = browser.new_context(**{"viewport": {"width": 1200, "height": 900}, **context})
        self.page = self.context.new_page()
        self.page.set_default_timeout(60_000)
        self.outside: list[str] = []
        self.wrong: list[str] = []
        self.page.on(
            "request",
            lambda request: request.url.startswith((home, "data:", "blob:")) or self.outside.append(request.url),
        )
        self.page.on("pageerror", lambda error: self.wrong.append(str(error)))
        self.page.on(
            "console", lambda told: self.wrong.append(told.text) if told.type in ("error", "warning") else None
        )

    def harmless(self) -> None:
        assert not self.outside, self.outside
        assert not self.wrong, self.wrong

    def accessible(self) -> None:
        """axe-core finds nothing serious."""
        axe = pytest.importorskip("axe_playwright_python.sync_playwright")
        found = axe.Axe().run(self.page).response["violations"]
        serious = [
            f"{one['id']}: {one['help']} {[node['html'][:120] for node in one['nodes'][:3]]}"
            for one in found
            if one["impact"] in ("serious", "critical")
        ]
        assert not serious, serious
