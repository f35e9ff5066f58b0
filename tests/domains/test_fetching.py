import hashlib
import io
import os
import tarfile
import threading
import zipfile
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from throughline.core.errors import ThroughlineError
from throughline.domains.fetching.sources import Package, files_by_hash, obtain
from throughline.domains.fetching.unpacking import unpack

CONTENT = bytes(range(256)) * 400


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


@pytest.fixture
def server():
    server = Server({"archive.zip": CONTENT})
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    yield server
    server.shutdown()
    server.server_close()


def package(*sources: str, content: bytes = CONTENT) -> Package:
    return Package("pictures", hashlib.sha256(content).hexdigest(), len(content), sources)


def test_a_dead_address_leads_to_the_next_one_and_the_file_is_kept(server, tmp_path):
    wanted = package(server.address("gone"), "http://127.0.0.1:9/closed", server.address("archive.zip"))
    assert obtain(wanted, tmp_path).read_bytes() == CONTENT
    asked = len(server.ranges)
    assert obtain(wanted, tmp_path).read_bytes() == CONTENT
    assert len(server.ranges) == asked
    assert len(list(tmp_path.iterdir())) == 1


def test_a_cut_download_goes_on_where_it_stopped(server, tmp_path):
    server.cuts = [1000, 2000]
    assert obtain(package(server.address("archive.zip")), tmp_path).read_bytes() == CONTENT
    assert server.ranges == [None, "bytes=1000-", "bytes=3000-"]


def test_a_server_without_ranges_begins_again(server, tmp_path):
    server.cuts, server.takes_ranges = [1000], False
    assert obtain(package(server.address("archive.zip")), tmp_path).read_bytes() == CONTENT


def test_what_one_command_left_is_continued_by_the_next(server, tmp_path):
    wanted = package(server.address("archive.zip"))
    (tmp_path / f"{wanted.sha256}.part").write_bytes(CONTENT[:5000])
    assert obtain(wanted, tmp_path).read_bytes() == CONTENT
    assert server.ranges == ["bytes=5000-"]


@pytest.mark.parametrize("other", [CONTENT[::-1], CONTENT + b"more", CONTENT[:-1]])
def test_other_bytes_than_the_pinned_ones_are_refused_and_not_kept(server, tmp_path, other):
    server.files["other.zip"] = other
    with pytest.raises(ThroughlineError, match=r"cannot get the archive pictures \[http.*: .*--archives") as raised:
        obtain(package(server.address("other.zip")), tmp_path)
    assert "\n" not in str(raised.value)
    assert obtain(package(server.address("archive.zip")), tmp_path).read_bytes() == CONTENT


def test_a_file_that_the_user_has_is_found_by_its_bytes(tmp_path):
    folder = tmp_path / "downloads"
    folder.mkdir()
    (folder / "any name").write_bytes(CONTENT)
    assert obtain(package("npm:nothing@1"), tmp_path / "cache", files_by_hash(folder)) == folder / "any name"
    assert not (tmp_path / "cache").exists()
    with pytest.raises(ThroughlineError, match="no files"):
        files_by_hash(tmp_path / "none")


@pytest.mark.parametrize("kind", ["npm", "apt-get"])
def test_a_package_client_writes_one_file_and_its_fault_is_told(tmp_path, monkeypatch, kind):
    client = tmp_path / "bin" / kind
    client.parent.mkdir()
    monkeypatch.setenv("PATH", f"{client.parent}{os.pathsep}{os.environ['PATH']}")
    wanted = package(f"{kind.removesuffix('-get')}:pictures@1.0")
    client.write_text("#!/bin/sh\necho 'first line' >&2; echo 'no such package' >&2; exit 1\n")
    client.chmod(0o755)
    with pytest.raises(ThroughlineError, match=r"pictures@1.0: no such package\]"):
        obtain(wanted, tmp_path / "cache")
    (tmp_path / "content").write_bytes(CONTENT)
    client.write_text(f"#!/bin/sh\n[ \"$3\" = pictures@1.0 ] && cp '{tmp_path}/content' pictures.tgz\n")
    assert obtain(wanted, tmp_path / "cache").read_bytes() == CONTENT
    client.unlink()
    with pytest.raises(ThroughlineError, match=f"{kind} is not installed"):
        monkeypatch.setenv("PATH", str(client.parent))
        obtain(package(wanted.sources[0], content=b"another"), tmp_path / "cache")


# archives -------------------------------------------------------------------------------------------------------------


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


@pytest.mark.parametrize("form", [tar_of, zip_of, debian_of])
def test_the_wanted_files_of_every_form_of_archive_are_unpacked(tmp_path, form):
    archive = tmp_path / "archive"
    archive.write_bytes(form({"./a/one.png": b"1", "a/two.txt": b"2", "three.png": b"3"}))
    names = unpack(archive, tmp_path / "out", lambda name: name.endswith(".png"))
    assert [str(name) for name in names] == ["a/one.png", "three.png"]
    found = {
        path.relative_to(tmp_path / "out").as_posix(): path.read_bytes() for path in (tmp_path / "out").rglob("*.*")
    }
    assert found == {"a/one.png": b"1", "three.png": b"3"}


@pytest.mark.parametrize("form", [tar_of, zip_of, debian_of])
@pytest.mark.parametrize("name", ["../out.txt", "/out.txt", "a/../../out.txt", "C:/out.txt", "..\\out.txt"])
def test_a_name_that_leads_out_of_the_folder_is_refused(tmp_path, form, name):
    archive = tmp_path / "archive"
    archive.write_bytes(form({name: b"x"}))
    with pytest.raises(ThroughlineError, match="outside its folder"):
        unpack(archive, tmp_path / "in" / "side")
    assert not [path for path in tmp_path.rglob("*") if path != archive and path.is_file()]


def test_no_link_is_made_and_none_is_written_through(tmp_path):
    archive = tmp_path / "archive"
    archive.write_bytes(tar_of({"link/x.txt": b"x"}, links={"link": str(tmp_path / "elsewhere"), "b": "../c"}))
    (tmp_path / "elsewhere").mkdir()
    assert [str(name) for name in unpack(archive, tmp_path / "out")] == ["link/x.txt"]
    assert not any(path.is_symlink() for path in (tmp_path / "out").rglob("*"))
    assert not list((tmp_path / "elsewhere").iterdir())


def test_size_and_number_of_files_are_bounded(tmp_path):
    archive = tmp_path / "archive"
    archive.write_bytes(zip_of({"a": bytes(1000), "b": bytes(1000)}))
    for limits in ((1, 9999), (2, 1999)):
        with pytest.raises(ThroughlineError, match="more than"):
            unpack(archive, tmp_path / "out", limits=limits)
    assert len(unpack(archive, tmp_path / "out", limits=(2, 2000))) == 2


@pytest.mark.parametrize("form", [tar_of, zip_of, debian_of])
def test_a_broken_archive_is_one_line(tmp_path, form):
    archive = tmp_path / "archive"
    whole = form({"a": os.urandom(5000)})
    archive.write_bytes(whole[: len(whole) // 2])
    with pytest.raises(ThroughlineError, match="cannot be unpacked"):
        unpack(archive, tmp_path / "out")


def test_a_qt_resource_file_is_unpacked(tmp_path):
    archive = Path(tmp_path / "small.rcc")
    archive.write_bytes(QT_RESOURCE)
    assert [str(name) for name in unpack(archive, tmp_path / "out")] == ["pictures/a.txt", "pictures/long.txt"]
    assert (tmp_path / "out/pictures/a.txt").read_bytes() == b"one"
    assert (tmp_path / "out/pictures/long.txt").read_bytes() == b"two " * 40


def _qt_resource() -> bytes:
    import struct
    import zlib

    names, offsets = b"", {}
    for name in ("pictures", "a.txt", "long.txt"):
        offsets[name] = len(names)
        names += struct.pack(">HI", len(name), 0) + name.encode("utf-16-be")
    long = struct.pack(">I", 160) + zlib.compress(b"two " * 40)
    contents = struct.pack(">I", 3) + b"one" + struct.pack(">I", len(long)) + long
    entries = [
        (0, 2, 1, 1),
        (offsets["pictures"], 2, 2, 2),
        (offsets["a.txt"], 0, 0, 0),
        (offsets["long.txt"], 1, 0, 7),
    ]
    tree = b"".join(struct.pack(">IHII", *entry) + bytes(8) for entry in entries)
    start = 24
    places = (2, start, start + len(tree), start + len(tree) + len(contents), 0)
    return b"qres" + struct.pack(">5I", *places) + tree + contents + names


QT_RESOURCE = _qt_resource()
