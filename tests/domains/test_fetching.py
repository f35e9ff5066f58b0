import hashlib
import os
from pathlib import Path

import pytest
from tests.domains.small_archives import debian_of, qt_resource_of, tar_of, zip_of

from throughline.core.errors import ThroughlineError
from throughline.domains.fetching import sources
from throughline.domains.fetching.sources import Package, files_by_hash, obtain
from throughline.domains.fetching.unpacking import read_files, unpack

CONTENT = bytes(range(256)) * 400


@pytest.fixture(autouse=True)
def archive_on(server):
    server.files["archive.zip"] = CONTENT


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


def test_wrong_bytes_that_were_left_cost_one_more_download(server, tmp_path):
    wanted = package(server.address("archive.zip"))
    (tmp_path / f"{wanted.sha256}.part").write_bytes(b"a page that says no" * 9)
    assert obtain(wanted, tmp_path).read_bytes() == CONTENT
    assert server.ranges == ["bytes=171-", None]


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


def test_without_a_pip_of_its_own_any_pip_will_do_and_none_is_one_line(tmp_path, monkeypatch):
    """As in an environment that uv made."""
    monkeypatch.setattr(sources, "find_spec", lambda name: None)
    client = tmp_path / "bin" / "pip"
    client.parent.mkdir()
    (tmp_path / "content").write_bytes(CONTENT)
    client.write_text(f"#!/bin/sh\n[ \"$1 $5\" = 'download pictures==1.0' ] && cp '{tmp_path}/content' pictures.whl\n")
    client.chmod(0o755)
    monkeypatch.setenv("PATH", f"{client.parent}{os.pathsep}{os.environ['PATH']}")
    assert obtain(package("pip:pictures==1.0"), tmp_path / "cache").read_bytes() == CONTENT
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(ThroughlineError, match=r"pip is not installed: python\S* -m ensurepip"):
        obtain(package("pip:pictures==1.0", content=b"another"), tmp_path / "cache")


def test_without_a_checksum_a_file_is_taken_as_it_comes_unless_its_size_is_another_or_it_is_a_page(server, tmp_path):
    server.files["page"] = b"\n<html>please confirm</html>"
    wanted = Package("pictures", "", 0, (server.address("page"), server.address("archive.zip")))
    assert obtain(wanted, tmp_path).read_bytes() == CONTENT
    with pytest.raises(ThroughlineError, match=r"it is a web page.*102,400 bytes instead of 102,401"):
        obtain(Package("pictures", "", len(CONTENT) + 1, wanted.sources), tmp_path)


def test_without_a_checksum_no_source_continues_what_another_gave(server, tmp_path):
    server.files["other"], server.cuts = CONTENT[::-1], [1000, 0]
    wanted = Package("pictures", sources=(server.address("archive.zip"), server.address("other")))
    assert obtain(wanted, tmp_path).read_bytes() == CONTENT
    assert server.ranges == [None, None, "bytes=1000-"]


def test_an_md5_is_checked_where_no_sha256_is_known(server, tmp_path):
    wanted = Package("pictures", md5=hashlib.md5(CONTENT).hexdigest(), sources=(server.address("archive.zip"),))
    assert obtain(wanted, tmp_path).name == wanted.md5
    server.files["archive.zip"] = CONTENT[::-1]
    with pytest.raises(ThroughlineError, match="pinned by MD5"):
        obtain(wanted, tmp_path / "elsewhere")


# archives -------------------------------------------------------------------------------------------------------------


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


def test_files_that_are_read_are_bounded_one_by_one_and_together(tmp_path):
    archive = tmp_path / "archive"
    archive.write_bytes(zip_of({"a": bytes(1000), "b": bytes(3000), "../c": b"x"}))
    with pytest.raises(ThroughlineError, match="b has 3,000 bytes, more than 2,000"):
        list(read_files(archive, largest=2000))
    with pytest.raises(ThroughlineError, match="more than 1 files"):
        list(read_files(archive, limits=(1, 9999)))
    with pytest.raises(ThroughlineError, match="outside its folder"):
        list(read_files(archive))


def test_a_zip_that_holds_more_than_it_says_is_refused(tmp_path):
    archive, content = tmp_path / "archive", zip_of({"a": bytes(5000)})
    size = (5000).to_bytes(4, "little")
    assert content.count(size) == 2  # before the file, and in the list at the end
    archive.write_bytes(content.replace(size, (10).to_bytes(4, "little")))
    with pytest.raises(ThroughlineError, match="cannot be unpacked"):
        list(read_files(archive))


@pytest.mark.parametrize("form", [tar_of, zip_of, debian_of])
def test_a_broken_archive_is_one_line(tmp_path, form):
    archive = tmp_path / "archive"
    whole = form({"a": os.urandom(5000)})
    archive.write_bytes(whole[: len(whole) // 2])
    with pytest.raises(ThroughlineError, match="cannot be unpacked"):
        unpack(archive, tmp_path / "out")


def test_a_qt_resource_file_is_unpacked(tmp_path):
    archive = Path(tmp_path / "small.rcc")
    archive.write_bytes(qt_resource_of({"pictures/a.txt": b"one", "pictures/long.txt": b"two " * 40}))
    assert [str(name) for name in unpack(archive, tmp_path / "out")] == ["pictures/a.txt", "pictures/long.txt"]
    assert (tmp_path / "out/pictures/a.txt").read_bytes() == b"one"
    assert (tmp_path / "out/pictures/long.txt").read_bytes() == b"two " * 40
