"""Headless Chromium for tests: what a page is after its scripts have run, without any network."""

from __future__ import annotations

import base64
import hashlib
import html
import re
import shutil
import subprocess
from html.parser import HTMLParser
from pathlib import Path

import pytest

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
needs_chromium = pytest.mark.skipif(CHROMIUM is None, reason="Chromium is not installed")


def load(address: str, profile: Path, *options: str, wait_ms: int = 5000) -> str:
    """The page as HTML once ``wait_ms`` of its own time are over; only this machine is found."""
    assert CHROMIUM is not None
    command = [
        *(CHROMIUM, "--headless", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage"),
        *(f"--user-data-dir={profile}", "--host-resolver-rules=MAP * ~NOTFOUND, EXCLUDE 127.0.0.1"),
        *("--window-size=1200,900", f"--virtual-time-budget={wait_ms}", *options, "--dump-dom", address),
    ]
    return subprocess.run(command, capture_output=True, text=True, check=True, timeout=90).stdout


def with_driver(page: str, script: str) -> str:
    """The page with a script at its end, which its policy is told to allow; nothing else changes."""
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    policy, n = re.subn("script-src ", f"script-src 'sha256-{digest}' ", page, count=1)
    assert n == 1 and "</body>" in policy
    return policy.replace("</body>", f"<script>{script}</script></body>")


class Dom(HTMLParser):
    """Elements with their attributes, and the text inside of each."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.elements: list[tuple[str, dict[str, str], list[str]]] = []
        self._open: list[tuple[str, list[str]]] = []
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        found: list[str] = []
        self.elements.append((tag, {k: html.unescape(v or "") for k, v in attrs}, found))
        if tag not in ("meta", "img", "br", "input", "link"):
            self._open.append((tag, found))

    def handle_endtag(self, tag: str) -> None:
        while self._open and self._open.pop()[0] != tag:
            pass

    def handle_data(self, data: str) -> None:
        for _, texts in self._open:
            texts.append(data)

    def tags(self, tag: str) -> list[str]:
        """The texts of all elements of a kind."""
        return ["".join(text) for name, _, text in self.elements if name == tag]

    def classes(self, name: str) -> list[str]:
        """The texts of all elements of a class."""
        return ["".join(text) for _, a, text in self.elements if name in a.get("class", "").split()]

    def by_id(self, name: str) -> str:
        """The text of one element."""
        (text,) = ["".join(text) for _, a, text in self.elements if a.get("id") == name]
        return text
