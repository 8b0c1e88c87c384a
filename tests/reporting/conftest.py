"""A browser for the tests of pages."""

import os
import shutil

import pytest
from playwright.sync_api import sync_playwright


@pytest.fixture(scope="module")
def browser():
  names = ("chromium", "chromium-browser", "google-chrome")
  installed = os.environ.get("CHROMIUM") or next(filter(None, map(shutil.which, names)), None)
  with sync_playwright() as playwright:
    # Without an installed browser, the one that `playwright install chromium` downloaded.
    options = ["--no-sandbox", "--disable-gpu", "--disable-background-networking", "--no-first-run"]
    started = playwright.chromium.launch(executable_path=installed, args=options)
    yield started
    started.close()
