"""Pictures that hold more than a model sees: an error, or what the caller has said."""

import io
import struct
import zlib

import numpy as np
import pytest
from drawn_pictures import MODES, encoded, picture
from PIL import Image, ImageColor, ImageDraw

from levit.errors import ConfigError, InputError
from levit.pictures.preparation import Preparation, to_tensor
from levit.pictures.preprocess import PreprocessSpec
from levit.pictures.reading import load_image


def deep(form="PNG", shift=0):
    """Grey of 16 bits on all of their range."""
    values = np.random.default_rng(1).integers(0, 65536 >> shift, (20, 30)).astype(np.uint16)
    if form == "I":
        return values, Image.fromarray(values.astype(np.int32))
    if form == "PIL":
        return values, Image.fromarray(values)
    if form == "PGM":
        return values, b"P5\n30 20\n65535\n" + values.astype(">u2").tobytes()
    if form == "PGM of 12 bits":
        return values, b"P5\n30 20\n4095\n" + (values >> 4).astype(">u2").tobytes()
    if form == "TIFF, big-endian":
        image = Image.frombytes("I;16B", (30, 20), values.astype(">u2").tobytes())
        return values, encoded(image, "TIFF")
    return values, encoded(Image.fromarray(values), form)


FORMS = ["PNG", "TIFF", "TIFF, big-endian", "JPEG2000", "PGM", "I", "PIL"]


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("mode", ["L", "RGB", "RGBA"])
def test_grey_of_16_bits_is_never_clipped_in_silence(form, mode):
    values, source = deep(form)
    with pytest.raises(InputError, match=r"grey of 16 bits, .*pass grey16='scale' \(--grey16 sca"):
        load_image(source, mode=mode)
    scaled = np.asarray(load_image(source, mode=mode, grey16="scale").convert("L"))
    assert np.array_equal(scaled, values >> 8)
    clipped = np.asarray(load_image(source, mode=mode, grey16="clip").convert("L"))
    assert np.array_equal(clipped, np.minimum(values, 255))
    kept = load_image(source, mode="I;16")
    assert np.array_equal(np.asarray(kept), values)


def test_grey_of_12_bits_too():
    values, source = deep("PGM of 12 bits")
    with pytest.raises(InputError, match="grey of 16 bits"):
        load_image(source)
    scaled = np.asarray(load_image(source, mode="L", grey16="scale"))
    assert np.abs(scaled.astype(int) - (values >> 8)).max() <= 1


@pytest.mark.parametrize("source", ["TIFF", "PFM", "PIL"])
def test_fractions_are_refused_but_for_clipping(source):
    image = Image.fromarray(np.random.default_rng(0).random((9, 12)).astype(np.float32))
    data = {"TIFF": encoded(image, "TIFF"), "PFM": encoded(image, "PPM"), "PIL": image}[source]
    for grey16 in (None, "scale"):
        with pytest.raises(InputError, match=r"no known white; scale it to 0\.\.255 and pass an"):
            load_image(data, grey16=grey16)
    assert load_image(data, grey16="clip").size == (12, 9)


@pytest.mark.parametrize("value", [-1, 65536])
def test_values_beyond_16_bits_have_no_scale(value):
    with pytest.raises(InputError, match=f"from {value} to {value}, not from 0 to 65535"):
        load_image(Image.new("I", (4, 4), value), grey16="scale")


@pytest.mark.parametrize("grey16", [None, "scale", "clip"])
@pytest.mark.parametrize("mode", [kind for kind in MODES if kind != "I;16"])
def test_pictures_of_8_bits_stay_as_pillow_converts_them(mode, grey16):
    image = picture(mode, (40, 30))
    for to in ("L", "RGB", "RGBA"):
        found = load_image(image, mode=to, grey16=grey16)
        assert found.tobytes() == image.convert(to).tobytes()


def test_colours_of_16_bits_need_no_word():
    def chunk(kind, body):
        packed = struct.pack(">I", len(body)) + kind + body
        return packed + struct.pack(">I", zlib.crc32(kind + body))

    values = np.random.default_rng(0).integers(0, 65536, (4, 6, 3)).astype(">u2")
    rows = zlib.compress(b"".join(b"\0" + row.tobytes() for row in values))
    header = chunk(b"IHDR", struct.pack(">IIBBBBB", 6, 4, 16, 2, 0, 0, 0))
    data = b"\x89PNG\r\n\x1a\n" + header + chunk(b"IDAT", rows) + chunk(b"IEND", b"")
    assert np.array_equal(np.asarray(load_image(data)), values >> 8)


# ------------------------------------------------------------------ opacity


def shape_in_opacity(mode):
    """A disc, of which nothing is seen without its opacity."""
    alpha = Image.new("L", (60, 50), 0)
    ImageDraw.Draw(alpha).ellipse((15, 10, 45, 40), fill=255)
    if mode == "P":  # two colours that are one
        image = alpha.point(lambda value: value > 0).convert("P")
        image.putpalette([0, 0, 0] * 256)
        image.info["transparency"] = b"\0\xff"
        return image, alpha
    image = Image.new("RGB", (60, 50), "navy").convert("L" if mode == "LA" else "RGB")
    image.putalpha(alpha)
    return (image.convert("PA") if mode == "PA" else image), alpha


@pytest.mark.parametrize("mode", ["RGBA", "LA", "P"])
@pytest.mark.parametrize("form", ["PNG", "PIL"])
@pytest.mark.parametrize("to", ["L", "RGB"])
def test_shapes_in_opacity_alone_are_never_lost_in_silence(mode, form, to):
    image, alpha = shape_in_opacity(mode)
    source = image if form == "PIL" else encoded(image, transparency=image.info.get("transparency"))
    with pytest.raises(InputError, match=r"opacity alone: pass background='white' \(--background"):
        load_image(source, mode=to)
    found = np.asarray(load_image(source, mode=to, background="white").convert("L"))
    assert (found[np.asarray(alpha) == 0] == 255).all()
    assert (found[np.asarray(alpha) == 255] < 100).all()
    kept = load_image(source, mode="RGBA")
    assert np.array_equal(np.asarray(kept)[..., 3], np.asarray(alpha))


@pytest.mark.parametrize("colour", ["white", "black", "#12ab00"])
def test_background_is_behind_what_is_not_opaque(colour):
    image = picture("RGBA", (40, 30))
    behind = np.array(ImageColor.getrgb(colour), float)
    values = np.asarray(image, float)
    alpha = values[..., 3:] / 255
    expected = values[..., :3] * alpha + behind * (1 - alpha)
    found = np.asarray(load_image(encoded(image), background=colour), float)
    assert np.abs(found - expected).max() <= 1
    opaque = picture("RGB", (40, 30))
    assert load_image(opaque, background=colour).tobytes() == opaque.tobytes()


@pytest.mark.parametrize("opacity", [0, 128, 255])
def test_pictures_of_one_colour_and_one_opacity_are_pictures(opacity):
    image = Image.new("RGBA", (9, 8), (10, 20, 30, opacity))
    assert load_image(image).getpixel((3, 3)) == (10, 20, 30)


def test_two_colours_far_from_the_points_that_are_looked_at_are_seen():
    image, _ = shape_in_opacity("RGBA")
    image.putpixel((1, 0), (255, 0, 0, 7))
    assert load_image(image).getpixel((1, 0)) == (255, 0, 0)


# ------------------------------------------------------------------ in a spec


def test_a_spec_says_both_and_keeps_them():
    spec = PreprocessSpec(image_size=(8, 8), grey16="scale", background="white")
    values = spec.to_dict()
    assert (values["grey16"], values["background"]) == ("scale", "white")
    assert PreprocessSpec.from_dict(values) == spec
    assert {"grey16", "background"}.isdisjoint(PreprocessSpec(image_size=(8, 8)).to_dict())


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"grey16": "stretch"}, "unknown grey16 'stretch'; known: scale, clip"),
        ({"grey16": "scale", "image_mode": "I;16"}, "leave out grey16"),
        ({"background": "no-colour"}, "background must be the name of a colour, or #rrggbb"),
        ({"background": "#12345"}, "background must be the name of a colour, or #rrggbb"),
        ({"background": "octarine"}, "background must be the name of a colour"),
        ({"background": 7}, "background must be the name of a colour"),
        ({"background": "white", "image_mode": "RGBA"}, "image mode RGBA has no background"),
    ],
)
def test_a_spec_that_cannot_be_is_refused(changes, words):
    with pytest.raises(ConfigError, match=words):
        PreprocessSpec(image_size=(8, 8), **changes)
    with pytest.raises(ConfigError):
        PreprocessSpec.from_dict({"image_size": [8, 8], **changes})


def test_every_way_to_a_tensor_follows_the_spec():
    _, source = deep("PNG")
    shape, _ = shape_in_opacity("RGBA")
    plain = PreprocessSpec(image_size=(16, 16))
    spec = PreprocessSpec(image_size=(16, 16), grey16="scale", background="white")
    frames = io.BytesIO()
    shape.save(frames, "PNG", save_all=True, append_images=[shape.rotate(90)])
    preparation = Preparation(spec=spec, dtype="float32")
    for image in (source, encoded(shape), shape, Image.open(frames), io.BytesIO(source)):
        expected = to_tensor(image, spec, "float32")
        assert expected.std() > 0.1
        row = preparation.allocate(1)[0]
        preparation.prepare(preparation.receive(image), row)
        assert np.array_equal(row, expected)
        with pytest.raises(InputError, match=r"pass (grey16|background)="):
            to_tensor(image, plain, "float32")
