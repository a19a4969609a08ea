"""Things that are named as images and are none, or never end: pipes, devices, texts."""

import asyncio
import base64
import gzip
import io
import os
import socket
import struct
import threading
import time
import warnings
import zipfile

import numpy as np
import pytest
from PIL import Image

import levit.pictures.pipes
from levit.errors import InputError
from levit.pictures.label_files import read_label_file
from levit.pictures.reading import file_contents, load_image


@pytest.fixture
def png():
    out = io.BytesIO()
    Image.linear_gradient("L").convert("RGB").save(out, "PNG")
    return out.getvalue()


def message_of(image, **options):
    with pytest.raises(InputError) as caught:
        load_image(image, **options)
    message = str(caught.value)
    assert message.isprintable()
    assert len(message) < 400
    return message


# ------------------------------------------------------------------ pipes, sockets, devices


def special(kind, folder):
    path = folder / "special.png"
    if kind == "fifo":
        os.mkfifo(path)
    elif kind == "socket":
        with socket.socket(socket.AF_UNIX) as end:
            end.bind(str(path))
    else:
        path.symlink_to(kind)
    return path


@pytest.mark.parametrize("kind", ["fifo", "socket", "/dev/zero", "/dev/tty", "/dev/null"])
def test_paths_of_what_may_never_end_are_refused(tmp_path, kind):
    path = special(kind, tmp_path)
    assert message_of(path).startswith(f"{path}: cannot be opened (")


@pytest.mark.parametrize("kind", ["fifo", "/dev/zero"])
def test_label_files_that_never_end_are_refused(tmp_path, kind):
    with pytest.raises(InputError, match=r"labels cannot be read .*no plain file"):
        read_label_file(special(kind, tmp_path), tmp_path, ["cat"], decisions=True)


@pytest.mark.parametrize("buffering", [-1, 0])
@pytest.mark.parametrize("first", [b"", b"\x89PNG\r\n\x1a\n and no more"])
def test_pipe_that_says_no_more_is_given_up(monkeypatch, buffering, first):
    monkeypatch.setattr(levit.pictures.pipes, "STALL_S", 0.2)
    reader, writer = os.pipe()
    os.write(writer, first)
    with os.fdopen(reader, "rb", buffering=buffering) as file:
        assert "nothing has come for 0.2 s" in message_of(file)
    os.close(writer)


def test_socket_that_says_nothing_is_given_up(monkeypatch):
    monkeypatch.setattr(levit.pictures.pipes, "STALL_S", 0.2)
    ours, theirs = socket.socketpair()
    with ours, theirs, ours.makefile("rb") as file:
        assert "nothing has come for 0.2 s" in message_of(file)


@pytest.mark.parametrize("buffering", [-1, 0])
def test_slow_pipe_is_read(monkeypatch, png, buffering):
    monkeypatch.setattr(levit.pictures.pipes, "STALL_S", 10)
    reader, writer = os.pipe()

    def write():
        with os.fdopen(writer, "wb", buffering=0) as end:
            for at in range(0, len(png), 100):
                end.write(png[at : at + 100])
                time.sleep(0.01)

    thread = threading.Thread(target=write)
    thread.start()
    with os.fdopen(reader, "rb", buffering=buffering) as file:
        image = load_image(file)
    thread.join()
    assert image.tobytes() == load_image(png).tobytes()


@pytest.mark.parametrize("kind", ["/dev/zero", "/dev/urandom"])
def test_endless_device_is_no_image(kind):
    with open(kind, "rb") as file:
        assert "not an image" in message_of(file)
    with open(kind, "rb") as file:
        assert len(file_contents(file).getbuffer()) <= 2**20


def test_endless_picture_in_a_pipe_has_a_limit(monkeypatch, png):
    monkeypatch.setattr(levit.pictures.reading, "MAX_BYTES", 10**6)
    reader, writer = os.pipe()
    written = []

    def write():
        with open(writer, "wb", buffering=0) as end:
            written.append(end.write(png))
            try:
                while True:
                    written.append(end.write(bytes(2**16)))
            except BrokenPipeError:
                pass

    thread = threading.Thread(target=write)
    thread.start()
    with os.fdopen(reader, "rb") as file:
        assert "has more than 0 MiB" in message_of(file)
    thread.join()
    assert sum(written) < 4 * 10**6


# ------------------------------------------------------------------ objects like files


class Named(io.BytesIO):
    """A file of any name."""

    def __init__(self, data, name):
        super().__init__(data)
        self._name = name

    @property
    def name(self):
        if isinstance(self._name, Exception):
            raise self._name
        return self._name


ODD_NAMES = [None, 0, 7, -1, b"\xff.png", "", "x" * 999, object(), ["a"], RuntimeError("no name")]


@pytest.mark.parametrize("name", ODD_NAMES, ids=lambda name: repr(name)[:12])
def test_files_of_any_name_are_read(png, name):
    assert load_image(Named(png, name)).size == (256, 256)
    assert file_contents(Named(png, name)).getvalue() == png
    assert "not an image" in message_of(Named(b"no image", name))


class Asynchronous:
    async def read(self, size=-1):
        return b""

    async def seek(self, offset, whence=0):
        return 0


class AsynchronousInside:
    def read(self, size=-1):
        async def later():
            return b""

        return later()


@pytest.mark.parametrize("kind", [Asynchronous, AsynchronousInside])
def test_asynchronous_files_are_named_as_such(kind):
    with warnings.catch_warnings():
        warnings.simplefilter("error")  # of a coroutine that was never awaited
        assert "asynchronously; pass the bytes" in message_of(kind())
        with pytest.raises(InputError, match="asynchronously"):
            file_contents(kind())


def test_uploads_of_fastapi_are_named_as_such(png):
    starlette = pytest.importorskip("starlette.datastructures")
    upload = starlette.UploadFile(io.BytesIO(png), filename="cat.png")
    assert "a UploadFile is read asynchronously; pass the bytes" in message_of(upload)
    assert load_image(upload.file).size == (256, 256)
    asyncio.run(upload.seek(0))
    assert load_image(asyncio.run(upload.read())).size == (256, 256)


class Reading:
    """Gives what it is given."""

    def __init__(self, *chunks):
        self.chunks = list(chunks)

    def read(self, size=-1):
        return self.chunks.pop(0) if self.chunks else b""


def test_whatever_a_file_gives_is_bytes_or_an_error(png):
    assert load_image(Reading(bytearray(png))).size == (256, 256)
    assert load_image(Reading(png[:7], memoryview(png)[7:])).size == (256, 256)
    assert "has no bytes yet" in message_of(Reading(None))
    assert "is open as text" in message_of(Reading("text"))
    assert "is open as text" in message_of(Reading(7))


def test_files_within_archives_are_read(tmp_path, png):
    with zipfile.ZipFile(tmp_path / "pictures.zip", "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("cat.png", png)
    with zipfile.ZipFile(tmp_path / "pictures.zip") as archive, archive.open("cat.png") as file:
        assert load_image(file).size == (256, 256)
    with gzip.open(io.BytesIO(gzip.compress(png))) as file:  # cannot seek from its end
        assert load_image(file).size == (256, 256)


# ------------------------------------------------------------------ texts that are no paths


@pytest.mark.parametrize(
    "address",
    ["https://example.com/cat.png", "http://x/" + "y" * 999, "s3://bucket/key", "HTTPS://X/Y"],
)
def test_addresses_are_not_fetched(address):
    message = message_of(address)
    assert "addresses are not fetched: download it, and pass its bytes or its path" in message
    assert "y" * 200 not in message


def test_other_addresses_are_named(png):
    assert "pass the path in it" in message_of("file:///tmp/cat.png")
    text = base64.b64encode(png).decode()
    message = message_of(f"data:image/png;base64,{text}")
    assert "decode its base64 and pass bytes" in message
    assert text[:100] not in message


@pytest.mark.parametrize("form", ["PNG", "JPEG", "GIF", "WEBP", "TIFF", "BMP"])
def test_base64_is_named_and_not_repeated(form):
    out = io.BytesIO()
    noise = np.random.default_rng(0).integers(0, 256, (30, 40, 3), dtype=np.uint8)
    Image.fromarray(noise).save(out, form)
    text = base64.b64encode(out.getvalue()).decode()
    message = message_of(text)
    assert "it looks like base64 text: pass base64.b64decode(text)" in message
    assert text[20:60] not in message
    if form != "BMP":  # two letters are no sign
        assert "looks like base64 text" in message_of(text.encode())


@pytest.mark.parametrize("path", ["a" * 999, "b/" * 3000, "c" * 250 + "/cat.png"])
def test_long_paths_are_shortened(path):
    message = message_of(path)
    assert path not in message
    assert path[-40:] in message
    assert "base64" not in message


def test_file_that_is_called_like_an_address_is_read(tmp_path, monkeypatch, png):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "https:").mkdir()
    (tmp_path / "https:" / "cat.png").write_bytes(png)
    assert load_image("https://cat.png").size == (256, 256)


@pytest.mark.parametrize("name", [b"\xff\xfe.png", "grün.png".encode("latin-1"), b"\x80"])
def test_paths_that_are_not_utf8_are_paths(tmp_path, png, name):
    path = os.fsencode(tmp_path) + b"/" + name
    with open(path, "wb") as file:
        file.write(png)

    class Path(os.PathLike):
        def __fspath__(self):
            return path

    assert load_image(os.fsdecode(path)).size == (256, 256)
    assert load_image(Path()).size == (256, 256)
    os.truncate(path, 100)
    assert "damaged or truncated" in message_of(Path())
    os.remove(path)  # noqa: PTH107
    assert "no such file" in message_of(os.fsdecode(path))
    assert "cannot be opened" in message_of("\ud800.png")


# ------------------------------------------------------------------ formats by name


def iso_media(brand, *others):
    brands = b"".join([brand, bytes(4), *others])
    return struct.pack(">I", len(brands) + 8) + b"ftyp" + brands + bytes(100)


@pytest.mark.parametrize(
    "data",
    [
        iso_media(b"heic", b"mif1", b"heic"),
        iso_media(b"heix"),
        iso_media(b"mif1", b"mif1", b"heic"),
        iso_media(b"msf1", b"hevc", b"miaf"),
    ],
)
@pytest.mark.parametrize("way", ["bytes", "path"])
def test_heic_names_its_plugin(tmp_path, data, way):
    (tmp_path / "photo.heic").write_bytes(data)
    message = message_of(data if way == "bytes" else tmp_path / "photo.heic")
    assert "pip install pillow-heif, and call pillow_heif.register_heif_opener()" in message


def test_heic_goes_to_a_plugin_where_there_is_one(monkeypatch):
    class Opener(Image.Image):
        pass

    def opened(file, filename):
        return Image.new("RGB", (3, 2), "teal")

    opened.__module__ = "pillow_heif.plugin"
    monkeypatch.setattr(Image, "OPEN", dict(Image.OPEN))
    monkeypatch.setattr(Image, "ID", list(Image.ID))
    Image.register_open("HEIF", opened, lambda prefix: prefix[4:12] == b"ftypheic")
    assert load_image(iso_media(b"heic")).size == (3, 2)


def test_avif_is_no_heic(png):
    out = io.BytesIO()
    try:
        Image.open(io.BytesIO(png)).save(out, "AVIF")
    except (KeyError, OSError):
        pytest.skip("this Pillow writes no AVIF")
    assert load_image(out.getvalue()).size == (256, 256)


@pytest.mark.parametrize(
    ("data", "words"),
    [
        (b"\xff\x0a" + bytes(40), "JPEG XL"),
        (b"<svg xmlns='http://www.w3.org/2000/svg'/>", "SVG; render it"),
        (b"<!DOCTYPE html><html>", "a web page"),
        (b"version https://git-lfs.github.com/spec/v1\noid sha256:00\n", "run git lfs pull"),
        (b"https://example.com/cat.png", "not fetched"),
        (b"%PDF-1.7 and so on", "PDF"),
    ],
)
def test_contents_that_are_no_picture_are_named(data, words):
    assert words in message_of(data)


def test_views_of_bytes_in_steps_and_released_ones():
    stream = io.BytesIO()
    Image.new("RGB", (20, 10), "red").save(stream, "PNG")
    data = stream.getvalue()
    spread = bytearray(2 * len(data))
    spread[::2] = data
    expected = np.asarray(load_image(data))
    assert (np.asarray(load_image(memoryview(spread)[::2])) == expected).all()
    released = memoryview(data)
    released.release()
    with pytest.raises(InputError, match="released"):
        load_image(released)
