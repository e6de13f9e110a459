"""A signed-in person, as the pages of the desk know them."""

from __future__ import annotations

import hmac
from dataclasses import dataclass

from lineage import keys


@dataclass(frozen=True)
class Visitor:
    """A signed-in person, and the id of the session that they came with."""

    name: str
    role: str
    session: str

    @property
    def csrf(self) -> str:
        """The token that proves that a form came from one of this session's own pages."""
        return hmac.new(keys.key("signin"), f"csrf\n{self.session}".encode(), "sha256").hexdigest()
