"""Small archives in every form that is unpacked, and a server on loopback that can break off."""

import io
import struct
import tarfile
import zipfile
import zlib
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer


class Server(ThreadingHTTPServer):
    """Files on loopback. `cuts` says after how many bytes of an answer the connection breaks, answer by answer."""

    def __init__(self, files: dict[str, bytes]) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.files, self.cuts, self.ranges = files, list[int](), list[str | None]()
        self.takes_ranges = True

    def address(self, name: str) -> str:
        return f"http://127.0.0.1:{self.server_port}/{name}"


class Handler(BaseHTTPRequestHandler):
    server: Server

    def do_GET(self) -> None:
        content, asked = self.server.files.get(self.path[1:]), self.headers["Range"]
        self.server.ranges.append(asked)
        if content is None:
            self.send_error(404)
            return
        start = int(asked.removeprefix("bytes=").rstrip("-")) if asked and self.server.takes_ranges else 0
        self.send_response(206 if start else 200)
        self.send_header("Content-Length", str(len(content) - start))
        self.end_headers()
        cut = self.server.cuts.pop(0) if self.server.cuts else None
        self.wfile.write(content[start:][:cut])

    def log_message(self, *_: object) -> None:
        pass


def tar_of(files: dict[str, bytes], mode: str = "w:gz", links: dict[str, str] | None = None) -> bytes:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode=mode) as tar:
        for name, target in (links or {}).items():
            link = tarfile.TarInfo(name)
            link.type, link.linkname = tarfile.SYMTYPE, target
            tar.addfile(link)
        for name, content in files.items():
            member = tarfile.TarInfo(name)
            member.size = len(content)
            tar.addfile(member, io.BytesIO(content))
    return buffer.getvalue()


def zip_of(files: dict[str, bytes]) -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, content in files.items():
            archive.writestr(name, content)
    return buffer.getvalue()


def debian_of(files: dict[str, bytes]) -> bytes:
    members = {"debian-binary": b"2.0\n", "control.tar.xz": b"odd", "data.tar.xz": tar_of(files, "w:xz")}
    parts = [b"!<arch>\n"]
    for name, content in members.items():
        parts += [f"{name:<16}{0:<12}{0:<6}{0:<6}{'100644':<8}{len(content):<10}`\n".encode(), content]
        parts += [b"\n"] if len(content) % 2 else []
    return b"".join(parts)


def qt_resource_of(files: dict[str, bytes]) -> bytes:
    """As `rcc --binary` writes it, version 2; every second file compressed."""
    folders: dict[str, list[str]] = {"": []}
    for path in files:
        parts = path.split("/")
        for depth in range(len(parts)):
            parent, child = "/".join(parts[:depth]), "/".join(parts[: depth + 1])
            if child not in folders.setdefault(parent, []):
                folders[parent].append(child)
    order, queue = [""], [""]
    while queue:  # the children of a folder stand behind one another
        queue = [child for folder in queue for child in folders.get(folder, ())]
        order += queue
    names, contents, tree = b"", b"", b""
    for path in order:
        name = path.rsplit("/", 1)[-1]
        place, names = len(names), names + struct.pack(">HI", len(name), 0) + name.encode("utf-16-be")
        if path in folders:
            children = folders[path]
            entry = struct.pack(">IHII", place, 2, len(children), order.index(children[0]))
        else:
            content, packed = files[path], len(contents) > 0
            body = struct.pack(">I", len(content)) + zlib.compress(content) if packed else content
            entry = struct.pack(">IHII", place, int(packed), 0, len(contents))
            contents += struct.pack(">I", len(body)) + body
        tree += entry + bytes(8)
    start = 24
    places = (2, start, start + len(tree), start + len(tree) + len(contents), 0)
    return b"qres" + struct.pack(">5I", *places) + tree + contents + names
