"""Markers of a JPEG: libjpeg's own decoding is the judge."""

import io
import random
import struct

import numpy as np
import pytest
from jpeg_parts import FAKE, jpeg, one_component_at_a_time, repeat_last_scan, segment, segments
from PIL import Image

from levit.errors import InputError
from levit.pictures.jpeg_markers import Spliced, read_outline, splice
from levit.pictures.limits import MAX_SCANS
from levit.pictures.reading import load_image


def outline(data, **limits):
    limits = {"most_scans": 1000, "most_segments": 10**6, "most_odd": 10**9, **limits}
    return read_outline(io.BytesIO(data), **limits)


def decoded_by_libjpeg(data, size=(64, 48)):
    """Pixels by Pillow's binding alone, which reads no header itself; None where it fails."""
    decoder = Image._getdecoder("RGB", "jpeg", ("RGB", ""), ())
    core = Image.core.new("RGB", size)
    decoder.setimage(core, (0, 0, *size))
    consumed, status = decoder.decode(data)
    if status < 0 or consumed >= 0:  # -1 is the end
        return None
    return bytes(Image.Image()._new(core).tobytes())


@pytest.mark.parametrize("mode", ["L", "RGB", "CMYK"])
@pytest.mark.parametrize("options", [{}, {"exif": b"Exif\0\0" + bytes(60_000)}, {"optimize": True}])
def test_a_photo_has_one_scan(mode, options):
    data = jpeg(mode=mode, **options)
    found = outline(data)
    assert (found.scans, found.width, found.height) == (1, 64, 48)
    first_scan = next(part for marker, part in segments(data) if marker == 0xDA)
    assert found.scan_at == data.index(first_scan)
    assert found.odd_bytes == 0


def test_scans_of_a_progressive_picture_are_counted():
    data = jpeg(progressive=True)
    assert sum(marker == 0xDA for marker, _ in segments(data)) == 10
    assert outline(data).scans == 10
    assert outline(repeat_last_scan(data, 20)).scans == 30


def test_markers_across_two_readings_are_found(monkeypatch):
    data = jpeg((640, 480), progressive=True, comment=b"\xff" * 70)
    data = data[:2] + b"\xff" * 100 + segment(0xE5, FAKE) + data[2:]
    whole = outline(data)
    assert whole.scans == 10
    for size in (1, 2, 3, 100):
        monkeypatch.setattr("levit.pictures.jpeg_markers._CHUNK", size)
        found = outline(data)
        assert (found.scans, found.segments, found.width) == (10, whole.segments, 640)


def test_reading_stops_where_there_is_enough():
    data = repeat_last_scan(jpeg(progressive=True), 10**5)
    assert outline(data, most_scans=MAX_SCANS).scans == MAX_SCANS + 1
    many = data[:2] + segment(0xFE, b"") * 1000 + data[2:]
    assert outline(many, most_segments=50).segments == 51
    for junk in (b"\xff", b"\0", b"\xff\xd0"):
        filled = data[:2] + junk * 10**6 + data[2:]
        assert outline(filled, most_odd=10**5).odd_bytes > 10**5
    filled = data[:-2] + b"\xff" * 10**6 + data[-2:]
    assert outline(filled, most_scans=10**6, most_odd=10**5).odd_bytes > 10**5


@pytest.mark.parametrize("data", [b"", b"\xff\xd8", b"\xff\xd8\xff", b"\xff\xd8" + bytes(50)])
def test_what_is_no_jpeg_has_no_scans(data):
    assert outline(data).scans == 0


def odd_bytes(rng):
    """Bytes that may stand between two segments, or a segment that hides others."""
    scan = segment(0xDA, b"\1\1\0\0\x3f\0")
    noise = bytes(rng.choices(b"\x00\x01\xd9\xda\xc0\xff" + bytes(range(50)), k=rng.randrange(40)))
    return rng.choice(
        [
            b"",
            b"\xff" * rng.choice([1, 2, 31, 32, 33, 300]),
            bytes([0xFF, rng.choice([1, *range(0xD0, 0xD8)])]) * rng.randrange(1, 4),
            b"\xff\0" * rng.randrange(1, 4),
            bytes(rng.choices(range(255), k=rng.randrange(1, 9))),
            segment(rng.choice([0xE0, 0xE5, 0xEE, 0xFE]), FAKE),
            segment(rng.choice([0xE1, 0xED, 0xDC]), noise + scan + b"\xff\xd9" + noise),
            struct.pack(">BBH", 0xFF, rng.choice([0xE5, 0xFE]), rng.randrange(2)),
            # Swallows a part of what follows.
            struct.pack(">BBH", 0xFF, rng.choice([0xE5, 0xFE]), rng.randrange(2, 400)),
        ]
    )


@pytest.mark.parametrize("seed", range(300))
def test_scans_are_those_that_libjpeg_decodes(seed):
    rng = random.Random(seed)
    noise = np.random.default_rng(0).integers(0, 256, (48, 64, 3), dtype=np.uint8)
    out = io.BytesIO()
    Image.fromarray(noise).save(out, "JPEG", progressive=True, quality=90)
    clean = out.getvalue()
    parts = [part for _, part in segments(clean)]
    odd = clean[:2] + b"".join(
        (odd_bytes(rng) if rng.random() < 0.3 else b"") + part for part in parts
    )
    found = outline(odd)
    pixels = decoded_by_libjpeg(odd)
    if pixels is None:
        return  # libjpeg refuses it
    assert (found.width, found.height) == (64, 48)
    # A picture of fewer scans is another picture.
    heads = [i for i, (marker, _) in enumerate(segments(clean)) if marker == 0xDA]
    fewer = [decoded_by_libjpeg(clean[:2] + b"".join(parts[: i + 1]) + parts[-1]) for i in heads]
    assert len(set(fewer)) == 10
    if pixels in fewer:
        assert found.scans == fewer.index(pixels) + 1


def test_most_odd_files_are_decoded():
    """The test above would pass where libjpeg refused all of them."""
    clean = jpeg(progressive=True)
    whole = decoded_by_libjpeg(clean)
    rng = random.Random(1)
    decoded = [
        decoded_by_libjpeg(clean[:2] + odd_bytes(rng) + clean[2:]) == whole for _ in range(100)
    ]
    assert sum(decoded) > 50


ODD = {
    "plain": b"",
    "fill bytes": b"\xff" * 20,
    "bare markers": b"\xff\xd0\xff\xd7",
    "fill and bare markers before a fake": b"\xff\xff\xd0" + segment(0xE5, FAKE),
    "a fake alone": segment(0xE5, FAKE),
    "a length of nothing": b"\xff\xe5\0\0\xff\xd0",
    "a length of one, then a fake": b"\xff\xfe\0\1" + segment(0xE5, FAKE),
    "bytes that say nothing": b"\xff\0\0\xff\0" + bytes(range(200)),
}


@pytest.mark.parametrize("odd", ODD)
@pytest.mark.parametrize("way", ["bytes", "file", "path", "lazy"])
def test_picture_of_endless_scans_is_refused(tmp_path, odd, way):
    data = repeat_last_scan(jpeg(progressive=True), MAX_SCANS)
    data = data[:2] + ODD[odd] + data[2:]
    assert decoded_by_libjpeg(data) is not None
    path = tmp_path / "picture.jpg"
    path.write_bytes(data)
    source = {
        "bytes": data,
        "file": io.BytesIO(data),
        "path": path,
        "lazy": io.BytesIO(data),
    }[way]
    if way == "lazy":
        source = Image.open(source)
    with pytest.raises(InputError, match="a JPEG of more than 100 scans"):
        load_image(source)


def test_scans_of_an_opened_picture_that_is_decoded_already_do_not_matter():
    image = Image.open(io.BytesIO(repeat_last_scan(jpeg(progressive=True), MAX_SCANS)))
    image.load()
    assert load_image(image).size == (64, 48)


def test_second_of_a_stereo_picture_is_judged_by_its_own_scans():
    out = io.BytesIO()
    picture = Image.linear_gradient("L").convert("RGB")
    picture.save(out, "MPO", save_all=True, append_images=[picture.rotate(90)])
    with Image.open(out) as image:
        image.seek(1)
        start = image.tile[0][2]
        assert load_image(image).size == picture.size
    endless = repeat_last_scan(jpeg(progressive=True), MAX_SCANS)
    data = out.getvalue()[:start] + endless
    with Image.open(io.BytesIO(data)) as image:
        load_image(image)
    with Image.open(io.BytesIO(data)) as image:
        image.seek(1)
        with pytest.raises(InputError, match="more than 100 scans"):
            load_image(image)


def test_baseline_picture_of_endless_scans_is_refused():
    assert load_image(one_component_at_a_time(10)).size == (64, 48)
    with pytest.raises(InputError, match="a JPEG of more than 100 scans"):
        load_image(one_component_at_a_time(40))


def test_large_pictures_may_have_fewer_scans():
    data = repeat_last_scan(jpeg(progressive=True), 30)
    frame = data.index(b"\xff\xc2") + 5
    large = data[:frame] + struct.pack(">HH", 9000, 9000) + data[frame + 4 :]
    with pytest.raises(InputError, match="9000x9000 pixels in 40 scans"):
        load_image(large)


def test_progressive_picture_is_what_pillow_makes_of_it():
    data = repeat_last_scan(jpeg(progressive=True), 5)
    assert load_image(data).tobytes() == Image.open(io.BytesIO(data)).convert("RGB").tobytes()


def test_size_of_every_frame_is_judged():
    components = b"".join(bytes([i, 0x11, 0]) for i in (1, 2, 3))
    large = segment(0xC2, struct.pack(">BHHB", 8, 60_000, 60_000, 3) + components)
    small = jpeg(progressive=True)
    for data in (small[:2] + large + small[2:], small[:2] + b"\xff\xfe\0\0" + large + small[2:]):
        assert outline(data).width == 60_000
        for source in (data, Image.open(io.BytesIO(data))):
            with pytest.raises(InputError, match="60000x60000 pixels are over the limit"):
                load_image(source)


# ------------------------------------------------------------------ what Pillow gets to see


def test_decoders_see_nothing_but_what_turns_a_picture():
    exif = Image.Exif()
    exif[0x0112] = 6
    xmp = b"http://ns.adobe.com/xap/1.0/\0<x/>"
    data = jpeg(exif=exif, icc_profile=bytes(200_000), comment=b"hello", quality=95)
    more = [
        segment(0xE1, xmp),
        segment(0xE1, b"http://ns.adobe.com/xmp/extension/\0" + bytes(60_000)),
        segment(0xED, b"Photoshop 3.0\0" + b"8BIM\4\4\0\0\0\0\0\0" * 5000),
        segment(0xEE, b"Adobe\0\x64\0\0\0\0\1"),
    ]
    data = data[:2] + b"".join(more) + data[2:]
    found = outline(data)
    head = splice(io.BytesIO(data), found).read(found.scan_at - found.other_bytes)
    kept = [part for marker, part in segments(head + b"\xff\xd9")[:-1]]
    assert head == data[:2] + b"".join(part for _, part in segments(data) if part in kept)
    seen = {part[4:9] for part in kept if part[1] >= 0xE0}
    assert seen == {b"JFIF\0", b"Exif\0", xmp[:5], b"Adobe"}
    assert len(head) < 2000
    with Image.open(io.BytesIO(data)) as opened:
        assert load_image(data).tobytes() == opened.convert("RGB").tobytes()
    assert load_image(data, exif=True).size == (48, 64)


def test_orientation_in_xmp_is_applied():
    xmp = b'http://ns.adobe.com/xap/1.0/\0<rdf tiff:Orientation="6"/>'
    data = jpeg()
    data = data[:2] + segment(0xE1, xmp) + data[2:]
    assert load_image(data, exif=True).size == (48, 64)


@pytest.mark.parametrize("size", [1, 7, 100, 10**6])
def test_spliced_file_is_a_file(size):
    rng = random.Random(size)
    data = bytes(rng.choices(range(256), k=1000))
    whole = io.BytesIO(data[:100] + data[300:])
    spliced = Spliced(data[:100], io.BytesIO(data), 300)
    for _ in range(300):
        assert spliced.tell() == whole.tell()
        if rng.random() < 0.3:
            where, offset = rng.choice([(0, rng.randrange(900)), (1, 0), (1, 3), (2, 0), (2, -5)])
            assert spliced.seek(offset, where) == whole.seek(offset, where)
        count = rng.choice([0, 1, size, -1])
        assert spliced.read(count) == whole.read(count)


@pytest.mark.parametrize("seed", range(100))
def test_odd_files_are_what_libjpeg_makes_of_them(seed):
    rng = random.Random(seed)
    clean = jpeg(progressive=seed % 2 == 0)
    odd = clean[:2] + b"".join(
        (odd_bytes(rng) if rng.random() < 0.3 else b"") + part for _, part in segments(clean)
    )
    try:
        image = load_image(odd)
    except InputError:
        return
    assert image.tobytes() == decoded_by_libjpeg(odd)
