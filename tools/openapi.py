"""`make openapi`: write the application's OpenAPI document to specs/openapi.json."""

import json
from pathlib import Path

from main import create_app
from settings import Settings

PATH = Path(__file__).parent.parent / "specs" / "openapi.json"


def render() -> str:
    """The text of specs/openapi.json. It does not depend on any setting."""
    settings = Settings.model_construct(cors_origins=())
    return json.dumps(create_app(settings).openapi(), indent=2, ensure_ascii=False) + "\n"


if __name__ == "__main__":
    PATH.write_text(render())
