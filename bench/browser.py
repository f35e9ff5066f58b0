"""A headless Chromium driven over its DevTools pipe: opens a page, plays its reader, and tells what the page asked of
the network and complained of in the console."""

from __future__ import annotations

import base64
import json
import os
import select
import shutil
import subprocess
import time
from pathlib import Path
from types import TracebackType
from typing import Any

BROWSERS = ("chromium", "chromium-browser", "google-chrome")
BROWSER = next(filter(None, map(shutil.which, BROWSERS)), None)
PATIENCE = 60.0


class Browser:
    """One browser with one tab. `complaints` are console errors, `requests` all addresses but the page's own."""

    def __init__(self, profile: Path) -> None:
        assert BROWSER is not None
        self.complaints: list[str] = []
        self.requests: list[str] = []
        self._number = 0
        self._left = b""
        self._loaded = False
        their_in, self._out = os.pipe()
        self._in, their_out = os.pipe()
        # the browser reads commands from descriptor 3 and answers on 4; the shell puts ours there
        # whatever a page asks for is refused at once: nobody listens on port 1
        options = [
            "--headless", "--disable-gpu", "--remote-debugging-pipe", "--disable-background-networking",
            "--disable-component-update", "--disable-sync", "--no-first-run", f"--user-data-dir={profile}",
            "--proxy-server=http://127.0.0.1:1", "--proxy-bypass-list=<-loopback>",
        ]  # fmt: skip
        if os.geteuid() == 0:
            options.append("--no-sandbox")  # a browser run by root refuses to start otherwise
        moved = f'exec "$@" 3<&{their_in} 4>&{their_out}'
        self._process = subprocess.Popen(
            ["bash", "-c", moved, "bash", BROWSER, *options],
            pass_fds=(their_in, their_out),
            stderr=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
        )
        os.close(their_in)
        os.close(their_out)
        self._session: str | None = None
        target = self._call("Target.createTarget", url="about:blank")["targetId"]
        self._session = self._call("Target.attachToTarget", targetId=target, flatten=True)["sessionId"]
        for domain in ("Page", "Runtime", "Log", "Network"):
            self._call(f"{domain}.enable")

    def __enter__(self) -> Browser:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._process.terminate()
        self._process.wait(10)
        os.close(self._in)
        os.close(self._out)

    def open(self, page: Path, width: int = 1100, height: int = 900, view: str = "") -> None:
        """Opens a file, with what stands after the "#" of its address, and waits until it is loaded; forgets what was
        heard before."""
        self.complaints.clear()
        self.requests.clear()
        self._loaded = False
        self._call(
            "Emulation.setDeviceMetricsOverride", width=width, height=height, deviceScaleFactor=1, mobile=width < 600
        )
        self._call("Page.navigate", url=page.resolve().as_uri() + (f"#{view}" if view else ""))
        while not self._loaded:
            self._read()
        self.requests.remove(page.resolve().as_uri())

    def evaluate(self, script: str) -> Any:
        """The value of an expression in the page; a promise is awaited."""
        found = self._call("Runtime.evaluate", expression=script, awaitPromise=True, returnByValue=True)
        assert "exceptionDetails" not in found, found["exceptionDetails"]
        return found["result"].get("value")

    def point_at(self, selector: str) -> None:
        """Moves the mouse onto the first element of a selector."""
        x, y = self.evaluate(
            f"""(() => {{ const element = document.querySelector({json.dumps(selector)});
            element.scrollIntoView({{block: "center"}}); const box = element.getClientRects()[0];
            return [box.x + box.width / 2, box.y + box.height / 2]; }})()"""
        )
        self._call("Input.dispatchMouseEvent", type="mouseMoved", x=x, y=y)

    def press(self, key: str) -> None:
        """One key, such as Tab or ArrowRight."""
        codes = {"Tab": 9, "ArrowRight": 39, "ArrowLeft": 37, "End": 35, "Home": 36}
        for kind in ("rawKeyDown", "keyUp"):
            self._call("Input.dispatchKeyEvent", type=kind, key=key, code=key, windowsVirtualKeyCode=codes[key])

    def hide_scrollbars(self) -> None:
        """On pages opened from now on."""
        self._call("Emulation.setScrollbarsHidden", hidden=True)

    def emulate(self, media: str = "", scheme: str = "light") -> None:
        """`media` print, or a colour scheme."""
        features = [{"name": "prefers-color-scheme", "value": scheme}]
        self._call("Emulation.setEmulatedMedia", media=media, features=features)

    def picture(self, path: Path) -> None:
        """What is seen, as PNG."""
        found = self._call("Page.captureScreenshot", format="png")
        path.write_bytes(base64.b64decode(found["data"]))

    def _call(self, method: str, **parameters: Any) -> dict[str, Any]:
        number = self._send(method, parameters)
        while True:
            answer = self._read()
            if answer.get("id") == number:
                assert "error" not in answer, answer["error"]
                result: dict[str, Any] = answer["result"]
                return result

    def _send(self, method: str, parameters: dict[str, Any]) -> int:
        self._number += 1
        message: dict[str, Any] = {"id": self._number, "method": method, "params": parameters}
        if self._session:
            message["sessionId"] = self._session
        os.write(self._out, json.dumps(message).encode() + b"\0")
        return self._number

    def _read(self) -> dict[str, Any]:
        ends = time.monotonic() + PATIENCE
        while b"\0" not in self._left:
            ready, _, _ = select.select([self._in], [], [], max(0.0, ends - time.monotonic()))
            piece = os.read(self._in, 1 << 16) if ready else b""
            assert piece, "the browser does not answer"
            self._left += piece
        line, _, self._left = self._left.partition(b"\0")
        message: dict[str, Any] = json.loads(line)
        self._hear(message)
        return message

    def _hear(self, message: dict[str, Any]) -> None:
        method, said = message.get("method"), message.get("params", {})
        if method == "Page.loadEventFired":
            self._loaded = True
        elif method == "Network.requestWillBeSent":
            address = said["request"]["url"]
            if not address.startswith("data:"):
                self.requests.append(address)
        elif method == "Page.javascriptDialogOpening":
            self.complaints.append(said["message"])
            self._send("Page.handleJavaScriptDialog", {"accept": True})  # the page stands still until somebody does
        elif method == "Runtime.exceptionThrown":
            self.complaints.append(str(said["exceptionDetails"]))
        elif method == "Runtime.consoleAPICalled" and said["type"] in {"error", "warning"}:
            self.complaints.append(str(said["args"]))
        elif method == "Log.entryAdded" and said["entry"]["level"] in {"error", "warning"}:
            self.complaints.append(said["entry"]["text"])
