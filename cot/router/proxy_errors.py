"""Errors that the proxy answers by itself, in the shape of OpenAI's, so that its clients raise what they know."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field

TYPES = {401: "authentication_error", 404: "not_found_error", 502: "upstream_error", 503: "overloaded_error"}


@dataclass
class Refusal(Exception):
    """A request that ends here."""

    status: int
    message: str
    code: str
    headers: Mapping[str, str] = field(default_factory=dict)

    def body(self) -> bytes:
        """The error object."""
        kind = TYPES.get(self.status, "invalid_request_error" if self.status < 500 else "server_error")
        error = {"message": self.message, "type": kind, "param": None, "code": self.code}
        return json.dumps({"error": error}).encode()
