"""The page: one HTML file with an import map, and the modules and styles in the package's folder ``page``."""

from __future__ import annotations

import base64
import hashlib
import json
from pathlib import Path
from typing import Final

from nodespan.errors import ConfigurationError

FOLDER: Final = Path(__file__).with_name("page")
_TYPES: Final = {".js": "text/javascript", ".css": "text/css", ".svg": "image/svg+xml"}
_MAP_BEGIN: Final = '<script type="importmap">'
_MAP_END: Final = "</script>"


class Page:
    """The files of the page, read once.

    Attributes:
        files: Content and media type of each file below ``/static/``, by name.
        html: ``index.html`` with the import map of the modules in the folder.
        policy: Its Content-Security-Policy.
    """

    def __init__(self, folder: Path = FOLDER) -> None:
        self.files: dict[str, tuple[bytes, str]] = {
            file.name: (file.read_bytes(), f"{_TYPES[file.suffix]}; charset=utf-8")
            for file in sorted(folder.iterdir())
            if file.suffix in _TYPES
        }
        imports = {name: f"/static/{name}.js" for name in self.modules}
        self.source = (folder / "index.html").read_text(encoding="utf-8")
        self.html, map_text = with_import_map(self.source, imports)
        self.policy = "; ".join(
            (
                "default-src 'self'",
                f"script-src 'self' {hash_source(map_text)}",
                "img-src 'self' data:",
                "object-src 'none'",
                "base-uri 'none'",
                "form-action 'none'",
                "frame-ancestors 'none'",
            )
        )

    @property
    def modules(self) -> list[str]:
        """Bare names of the modules."""
        return [name.removesuffix(".js") for name in self.files if name.endswith(".js")]


def with_import_map(html: str, imports: dict[str, str]) -> tuple[str, str]:
    """Fills the import map of a page.

    Returns:
        The page, and the text of the map.

    Raises:
        ConfigurationError: The page has no import map.
    """
    before, begin, rest = html.partition(_MAP_BEGIN)
    _, end, after = rest.partition(_MAP_END)
    if not end:
        raise ConfigurationError(f"index.html of the viewer has no {_MAP_BEGIN}. Install nodespan again.")
    text = json.dumps({"imports": imports}, separators=(",", ":"))
    return f"{before}{begin}{text}{end}{after}", text


def hash_source(text: str) -> str:
    """The source of an inline script or style in a Content-Security-Policy."""
    return f"'sha256-{base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()}'"
