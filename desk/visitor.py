"""The type of a signed-in person, for all pages of the desk. `desk/accounts/signin.py` checks the sign-in."""

from __future__ import annotations

import hmac
from dataclasses import dataclass

from lineage import keys


@dataclass(frozen=True)
class Visitor:
    """A signed-in person and the id of their session."""

    name: str
    role: str
    session: str

    @property
    def csrf(self) -> str:
        """The token that proves that a form was sent from a page of this session."""
        return hmac.new(keys.key("signin"), f"csrf\n{self.session}".encode(), "sha256").hexdigest()
