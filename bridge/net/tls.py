"""Whom a TLS connection to a server trusts, and what to do where it does not."""

import base64
import hashlib
import ssl
from dataclasses import dataclass
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat


@dataclass(frozen=True, slots=True)
class Trust:
    """What a server must show: a certificate for its name, signed by who is trusted, and one of the pinned keys if any.

    ca_file  certificates that are trusted, PEM; None: the system's.
    pins     SHA-256 of public keys (SPKI, RFC 7469 §2.4) in base64; none: any key.
    """

    ca_file: Path | None = None
    pins: tuple[str, ...] = ()

    def context(self) -> ssl.SSLContext:
        """For clients, TLS 1.2 and newer. Blocks: it reads files. Raises OSError if `ca_file` cannot be used."""
        context = ssl.create_default_context(cafile=self.ca_file)
        context.minimum_version = ssl.TLSVersion.TLSv1_2
        return context

    def accepts(self, certificate_der: bytes) -> bool:
        """Whether a certificate that was verified holds a pinned key, where there are pins."""
        return not self.pins or spki_pin(certificate_der) in self.pins


def spki_pin(certificate_der: bytes) -> str:
    """SHA-256 of a certificate's public key, in base64."""
    key = x509.load_der_x509_certificate(certificate_der).public_key()
    spki = key.public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
    return base64.b64encode(hashlib.sha256(spki).digest()).decode()


# X509_V_ERR_… of OpenSSL, by what the operator can do about them.
_ADVICE = {
    **dict.fromkeys((9, 10), "the server must renew it, unless the clock of this machine is wrong"),
    **dict.fromkeys((18, 19, 20, 21), "if it is the right server, put its CA's certificate into tls_ca_file"),
    **dict.fromkeys((62, 64), "write the URL with a name that the certificate is for"),
}


def explain(error: ssl.SSLCertVerificationError) -> str:
    """Why a server's certificate was refused, and what to do about it."""
    advice = _ADVICE.get(error.verify_code)
    return f"{error.verify_message}{f'; {advice}' if advice else ''}"
