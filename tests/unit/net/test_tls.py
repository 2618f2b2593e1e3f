"""Trust: what a server must show."""

import datetime
import ssl

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding

from bridge.net.tls import Trust, explain, spki_pin

# openssl x509 -pubkey -noout | openssl pkey -pubin -outform der | openssl dgst -sha256 -binary | base64
# of a key whose private number is 1: the generator of P-256.
PIN_OF_ONE = "XNJS+wzokyQ2+vjM0QQJgbie5K1rn+niorfnGqyyfNM="


def certificate(private_number: int, serial_number: int = 1) -> bytes:
    """A certificate, DER, for the key of this private number."""
    key = ec.derive_private_key(private_number, ec.SECP256R1())
    name = x509.Name([])
    day = datetime.datetime(2026, 1, 1, tzinfo=datetime.UTC)
    unsigned = x509.CertificateBuilder(name, name, key.public_key(), serial_number, day, day)
    return unsigned.sign(key, hashes.SHA256()).public_bytes(Encoding.DER)


def test_a_pin_is_of_the_key_and_outlives_its_certificate() -> None:
    assert spki_pin(certificate(1)) == spki_pin(certificate(1, serial_number=2)) == PIN_OF_ONE
    assert spki_pin(certificate(2)) != PIN_OF_ONE


def test_any_of_several_pins_will_do_and_without_pins_any_key() -> None:
    assert Trust().accepts(certificate(1))
    assert Trust(pins=("other", PIN_OF_ONE)).accepts(certificate(1))
    assert not Trust(pins=(PIN_OF_ONE,)).accepts(certificate(2))


def test_certificates_and_names_are_verified_by_tls_1_2_and_newer() -> None:
    context = Trust().context()

    assert (context.verify_mode, context.check_hostname) == (ssl.CERT_REQUIRED, True)
    assert context.minimum_version == ssl.TLSVersion.TLSv1_2


@pytest.mark.parametrize(("code", "advice"), [(10, "renew"), (18, "tls_ca_file"), (62, "name"), (26, "")])
def test_a_refusal_says_what_to_do_where_something_can_be_done(code: int, advice: str) -> None:
    error = ssl.SSLCertVerificationError()
    error.verify_code, error.verify_message = code, "certificate has a fault"

    assert explain(error).startswith("certificate has a fault")
    assert advice in explain(error)
