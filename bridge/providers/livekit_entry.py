"""What opens a LiveKit room: its server, and the token, which is given, minted, or renewed by the server."""

import time
from collections.abc import Callable
from dataclasses import dataclass, field

from bridge.errors import ProviderRejected
from bridge.protocols.livekit_token import LEEWAY_S, BadToken, Grant, mint, read
from bridge.redact import Secret

# It opens the door once: who is in stays in, and gets a newer one from the server.
TOKEN_LIFETIME_S = 600
# A server takes one that is about to run out, but the way there takes its time.
_LEAST_LEFT_S = 5


@dataclass(frozen=True, slots=True)
class MintedToken:
    """An API key of the room's server, and what tokens that are made with it say."""

    api_key: str
    api_secret: Secret
    grant: Grant


@dataclass
class Entry:
    """url: of the server, ws or http. source: a token, or what one is made with. key: under which both are configured.

    The newest token that a server has sent is used in place of an older one, as long as it holds.
    """

    url: Secret
    source: Secret | MintedToken
    now_s: Callable[[], float] = time.time
    key: str = "avatar"
    _renewed: Secret | None = field(default=None, repr=False)

    @property
    def advice(self) -> str:
        """What to do where the server refuses the token."""
        is_minted = isinstance(self.source, MintedToken)
        return f"check {self.key}.api_key and {self.key}.api_secret" if is_minted else f"check {self.key}.token"

    def renew(self, token: str) -> None:
        """The server has sent a newer token."""
        self._renewed = Secret(token, is_passing=True)

    def token(self, where: str) -> Secret:
        """For the next connection. Raises ProviderRejected when there is none that could open anything."""
        if self._renewed is not None and self._holds(self._renewed):
            return self._renewed
        if isinstance(self.source, MintedToken):
            minted, now_s = self.source, self.now_s()
            grant = minted.grant
            expires_s = int(now_s) + TOKEN_LIFETIME_S
            lasting = Grant(grant.identity, grant.room, grant.kind, grant.may_publish, grant.attributes, expires_s)
            return Secret(mint(lasting, minted.api_key, minted.api_secret.reveal(), now_s), is_passing=True)
        try:
            expires_s = read(self.source.reveal()).expires_s
        except BadToken as error:
            raise ProviderRejected(f"{where}: {self.key}.token is of no use: {error}", reason="refused") from None
        if expires_s and expires_s + LEEWAY_S <= self.now_s():
            ago_s = self.now_s() - expires_s
            what = f"{where}: {self.key}.token has expired {ago_s:.0f} s ago: give a new one, or api_key and api_secret"
            raise ProviderRejected(what, reason="refused")
        return self.source

    def _holds(self, token: Secret) -> bool:
        try:
            expires_s = read(token.reveal()).expires_s
        except BadToken:
            return False
        return not expires_s or expires_s >= self.now_s() + _LEAST_LEFT_S
