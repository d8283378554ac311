"""Certificates for servers on loopback, made anew for each, or for each fleet of them."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from ipaddress import IPv4Address
from pathlib import Path
from urllib.parse import quote

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

from .places import HOST


def tls_options(certificates: Path, port: int) -> dict[str, str]:
    """The options of a server with TLS on a port."""
    return {
        "tls-port": str(port),
        "tls-cert-file": str(certificates / "server.crt"),
        "tls-key-file": str(certificates / "server.key"),
        "tls-ca-cert-file": str(certificates / "ca.crt"),
        "tls-auth-clients": "no",
    }


def trust(certificates: Path) -> str:
    """The option of a URL that trusts the authority of these certificates."""
    return f"ssl_ca_certs={quote(str(certificates / 'ca.crt'), safe='/')}"


def write_certificates(directory: Path, host: str = HOST) -> None:
    """Write ca.crt, and server.crt with server.key signed by it, for an address and valid for an hour."""
    authority_key, server_key = (ec.generate_private_key(ec.SECP256R1()) for _ in range(2))
    authority_name, server_name = _name("test authority"), _name("localhost")
    authority = _certificate(authority_name, authority_key, authority_name, authority_key, host, is_authority=True)
    server = _certificate(server_name, server_key, authority_name, authority_key, host, is_authority=False)
    (directory / "ca.crt").write_bytes(authority.public_bytes(serialization.Encoding.PEM))
    (directory / "server.crt").write_bytes(server.public_bytes(serialization.Encoding.PEM))
    (directory / "server.key").write_bytes(
        server_key.private_bytes(
            serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
        )
    )


def _name(common_name: str) -> x509.Name:
    """A distinguished name of one part."""
    return x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, common_name)])


def _certificate(
    subject: x509.Name,
    key: ec.EllipticCurvePrivateKey,
    issuer: x509.Name,
    issuer_key: ec.EllipticCurvePrivateKey,
    host: str,
    *,
    is_authority: bool,
) -> x509.Certificate:
    """Sign one certificate, with the extensions that strict verification (Python 3.13's default) asks for."""
    now = datetime.now(UTC)
    usage = {"digital_signature": not is_authority, "key_cert_sign": is_authority, "crl_sign": is_authority}
    builder = x509.CertificateBuilder(
        issuer_name=issuer,
        subject_name=subject,
        public_key=key.public_key(),
        serial_number=x509.random_serial_number(),
        not_valid_before=now - timedelta(hours=1),
        not_valid_after=now + timedelta(hours=1),
    )
    alternatives = x509.SubjectAlternativeName([x509.DNSName("localhost"), x509.IPAddress(IPv4Address(host))])
    return (
        builder.add_extension(x509.BasicConstraints(ca=is_authority, path_length=None), critical=True)
        .add_extension(_key_usage(**usage), critical=True)
        .add_extension(alternatives, critical=False)
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(key.public_key()), critical=False)
        .add_extension(x509.AuthorityKeyIdentifier.from_issuer_public_key(issuer_key.public_key()), critical=False)
        .sign(issuer_key, hashes.SHA256())
    )


def _key_usage(*, digital_signature: bool, key_cert_sign: bool, crl_sign: bool) -> x509.KeyUsage:
    """A key usage in which everything else is off."""
    return x509.KeyUsage(
        digital_signature=digital_signature,
        key_cert_sign=key_cert_sign,
        crl_sign=crl_sign,
        content_commitment=False,
        key_encipherment=False,
        data_encipherment=False,
        key_agreement=False,
        encipher_only=False,
        decipher_only=False,
    )
