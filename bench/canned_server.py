"""A server that repeats one recorded llama-server stream, as fast as it is read."""

from __future__ import annotations

import json
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

CHUNKS = 2000
_CHUNK = {"id": "chatcmpl-1", "created": 1, "model": "canned", "object": "chat.completion.chunk"}


def stream() -> bytes:
    """The chunks that llama-server sends for an answer of ``CHUNKS`` tokens, with its timings in each."""
    events = [{**_CHUNK, "choices": [], "prompt_progress": {"total": 9, "cache": 0, "processed": 0, "time_ms": 0}}]
    for number in range(1, CHUNKS + 1):
        timings = {
            "cache_n": 0, "prompt_n": 9, "prompt_ms": 20.5, "prompt_per_token_ms": 2.3, "prompt_per_second": 439.0,
            "predicted_n": number, "predicted_ms": number * 0.1, "predicted_per_token_ms": 0.1,
            "predicted_per_second": 10_000.0,
        }  # fmt: skip
        choice = {"index": 0, "delta": {"content": " word"}, "finish_reason": None}
        events.append({**_CHUNK, "choices": [choice], "timings": timings})
    events.append({**_CHUNK, "choices": [{"index": 0, "delta": {}, "finish_reason": "stop"}]})
    usage = {"completion_tokens": CHUNKS, "prompt_tokens": 9, "total_tokens": CHUNKS + 9}
    events.append({**_CHUNK, "choices": [], "usage": usage})
    return b"".join(b"data: %b\n\n" % json.dumps(event).encode() for event in events) + b"data: [DONE]\n\n"


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    stream = stream()

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002
        pass

    def do_GET(self) -> None:
        self._send(json.dumps({"default_generation_settings": {"n_ctx": 4096}, "total_slots": 4}).encode())

    def do_POST(self) -> None:
        self.rfile.read(int(self.headers["Content-Length"]))
        self._send(self.stream)

    def _send(self, body: bytes) -> None:
        self.send_response(200)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)


def main() -> None:
    server = ThreadingHTTPServer(("127.0.0.1", 0), _Handler)
    print(server.server_address[1], flush=True)
    server.serve_forever()


if __name__ == "__main__":
    main()
