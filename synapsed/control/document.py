"""`python -m synapsed.control.document` prints the OpenAPI document for docs/openapi.json."""

import json
from collections import deque
from typing import Any, cast

from synapsed.control.api import NodeApi
from synapsed.control.jobs import JobBoard
from synapsed.control.routes import build_app
from synapsed.process.metrics import ProcessMeter


def openapi() -> dict[str, Any]:
    """The document; it takes no daemon to make it."""
    nobody = cast(NodeApi, None)
    app = build_app(nobody, cast(JobBoard, None), ProcessMeter(), deque())
    return app.openapi()


if __name__ == "__main__":
    print(json.dumps(openapi(), indent=1, sort_keys=True))
