"""Images, audio and files leave as stubs, in the forms of all providers."""

from __future__ import annotations

import base64
import hashlib
import time

import pytest

from nodespan.spans.content_json import UserValue, encode_json, fit_json
from nodespan.spans.media import media_stub
from nodespan.spans.message_parts import content_parts

RAW = bytes(range(256)) * 4
DATA = base64.b64encode(RAW).decode()
SHA256 = hashlib.sha256(RAW).hexdigest()


def blob(modality="image", mime_type: str | None = "image/png"):
    return {
        "type": "blob",
        "modality": modality,
        "mime_type": mime_type,
        "content": "",
        "size_bytes": len(RAW),
        "sha256": SHA256,
    }


@pytest.mark.parametrize(
    ("block", "stub"),
    [
        ({"type": "image_url", "image_url": {"url": f"data:image/png;base64,{DATA}"}}, blob()),
        ({"type": "image_url", "image_url": f"data:image/png;base64,{DATA}"}, blob()),
        ({"type": "input_image", "image_url": f"data:image/png;base64,{DATA}"}, blob()),
        ({"type": "image", "base64": DATA, "mime_type": "image/png"}, blob()),
        ({"type": "image", "source_type": "base64", "data": DATA, "mime_type": "image/png"}, blob()),
        ({"type": "image", "source": {"type": "base64", "media_type": "image/png", "data": DATA}}, blob()),
        ({"type": "image", "data": RAW}, blob(mime_type=None)),
        (
            {"type": "image", "base64": base64.urlsafe_b64encode(RAW).decode(), "mime_type": "image/png"},
            blob(),
        ),
        ({"type": "input_audio", "input_audio": {"data": DATA, "format": "wav"}}, blob("audio", "audio/wav")),
        (
            {"type": "file", "file": {"file_data": f"data:application/pdf;base64,{DATA}", "filename": "a"}},
            blob("document", "application/pdf"),
        ),
        ({"type": "media", "mime_type": "video/mp4", "data": DATA}, blob("video", "video/mp4")),
        (
            {"type": "image_url", "image_url": {"url": "https://example.com/a.png"}},
            {"type": "uri", "modality": "image", "mime_type": None, "uri": "https://example.com/a.png"},
        ),
        (
            {"type": "document", "source": {"type": "url", "url": "https://example.com/a.pdf"}},
            {"type": "uri", "modality": "document", "mime_type": None, "uri": "https://example.com/a.pdf"},
        ),
        (
            {"type": "file", "file": {"file_id": "file-1"}},
            {"type": "file", "modality": "document", "mime_type": None, "file_id": "file-1"},
        ),
    ],
)
def test_every_provider_s_form_becomes_a_part_of_the_conventions(block, stub):
    assert media_stub(block) == stub
    [part] = content_parts([block])
    assert fit_json([part], 4096) == [stub]
    assert fit_json(UserValue({"deep": [block]}), 4096) == {"deep": [stub]}  # as in the result of a tool
    assert DATA not in encode_json(fit_json(UserValue({"deep": [block]}), 1 << 20)).decode()


@pytest.mark.parametrize(
    "block",
    [
        {"type": "text", "text": "a"},
        {"type": "document", "source": {"type": "text", "media_type": "text/plain", "data": "plain"}},
        {"type": ["image"]},
        {},
        {"type": "image"},
    ],
)
def test_other_values_have_no_stub(block):
    assert media_stub(block) is None


def test_a_data_url_in_a_text_becomes_a_description():
    text = f"![a](data:image/png;base64,{DATA}) and more"
    described = f"[image/png: {len(RAW)} bytes, sha256 {SHA256}]"
    assert fit_json(UserValue(text), 4096) == f"![a]({described}) and more"


def test_a_large_image_is_described_in_time():
    data = "A" * 20_000_000
    address = f"data:image/png;base64,{data}"
    took_s = []
    for _ in range(3):
        started = time.thread_time()
        [image] = fit_json(UserValue([{"type": "image", "base64": data}]), 4096)
        text = fit_json(UserValue(address), 4096)
        took_s.append(time.thread_time() - started)
    assert min(took_s) < 0.005  # 0.0002; a copy of the data takes 0.005, a hash 0.01
    assert image["size_bytes"] == 15_000_000
    assert "sha256" not in image
    assert text == "[image/png: 15000000 bytes]"


def test_invalid_media_are_described():
    stub = media_stub({"type": "image", "base64": "=" + DATA[:5], "mime_type": "no type at all"})
    assert stub is not None
    assert (stub["type"], stub["mime_type"]) == ("blob", None)
