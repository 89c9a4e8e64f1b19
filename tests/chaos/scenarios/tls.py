"""TLS faults on the database connection, with sslmode=verify-full.

The embedded PostgreSQL is built without TLS, so PgBouncer terminates it, as Neon's
pooler does.
"""

import datetime
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

from tests.chaos.environment import Environment, Route
from tests.chaos.proxy import proxy
from tests.chaos.runner import Run, Scenario
from tests.chaos.servers import Pooler
from tools.postgres import chown_to_server_user

HOST = "localhost"
DAY = datetime.timedelta(days=1)


class Authority:
    """A certificate authority that signs server certificates."""

    def __init__(self) -> None:
        self._key = ec.generate_private_key(ec.SECP256R1())
        self._name = _name("The authority of make chaos")
        self._certificate = (
            _builder(self._name, self._key)
            .issuer_name(self._name)
            .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
            .sign(self._key, hashes.SHA256())
        )

    def write(self, path: Path) -> None:
        path.write_bytes(self._certificate.public_bytes(serialization.Encoding.PEM))

    def certify(self, host: str, key_file: Path, certificate_file: Path) -> None:
        """Write a new key and a certificate for `host`."""
        key = ec.generate_private_key(ec.SECP256R1())
        certificate = (
            _builder(_name(host), key)
            .issuer_name(self._name)
            .add_extension(x509.SubjectAlternativeName([x509.DNSName(host)]), critical=False)
            .sign(self._key, hashes.SHA256())
        )
        private = key.private_bytes(
            serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
        )
        certificate_file.write_bytes(certificate.public_bytes(serialization.Encoding.PEM))
        key_file.touch(0o600)
        key_file.write_bytes(private)
        chown_to_server_user(key_file, certificate_file)


def _name(common: str) -> x509.Name:
    return x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, common)])


def _builder(subject: x509.Name, key: ec.EllipticCurvePrivateKey) -> x509.CertificateBuilder:
    now = datetime.datetime.now(datetime.UTC)
    return (
        x509.CertificateBuilder()
        .subject_name(subject)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - DAY)
        .not_valid_after(now + DAY)
    )


class Encrypted(Route):
    """The service reaches PgBouncer through a proxy that can close its connections."""

    authority: Authority

    def certify(self, host: str) -> None:
        assert self.pooler is not None
        home = self.pooler.home
        self.authority.certify(host, home / "server.key", home / "server.crt")

    def reload(self) -> None:
        """Reload PgBouncer's configuration and force the service to reconnect."""
        assert self.pooler is not None
        assert self.proxy is not None
        self.pooler.reload()
        self.proxy.close_connections()

    def switch(self, mode: str) -> None:
        assert self.pooler is not None
        home = self.pooler.home
        self.pooler.configure(
            client_tls_sslmode=mode,
            client_tls_key_file=str(home / "server.key"),
            client_tls_cert_file=str(home / "server.crt"),
        )


@contextmanager
def encrypted(environment: Environment) -> Iterator[Route]:
    """The service verifies the certificate and its host name."""
    root = environment.folder("root.crt")
    with ExitStack() as stack:
        pooler = Pooler(environment.folder("pgbouncer"), environment.postgres.url)
        stack.callback(pooler.kill)
        tcp_proxy = stack.enter_context(proxy(pooler.url, environment.seed))
        query = {"hostaddr": "127.0.0.1", "sslmode": "verify-full", "sslrootcert": str(root)}
        route = Encrypted(
            environment.postgres, tcp_proxy.url.set(host=HOST).update_query_dict(query), pooler, tcp_proxy
        )
        route.authority = Authority()
        route.authority.write(root)
        route.certify(HOST)
        route.switch("require")
        pooler.start()
        yield route


def _route(run: Run) -> Encrypted:
    assert isinstance(run.route, Encrypted)
    return run.route


def _hold_while_refused(run: Run) -> None:
    before = run.count(503)
    run.sleep(4)
    run.expect(run.count(503) > before, "the service connected nevertheless")


@contextmanager
def rotated(run: Run) -> Iterator[None]:
    _route(run).certify(HOST)
    _route(run).reload()
    yield


@contextmanager
def wrong_name(run: Run) -> Iterator[None]:
    _route(run).certify("elsewhere.example")
    _route(run).reload()
    _hold_while_refused(run)
    _route(run).certify(HOST)
    _route(run).reload()
    yield


@contextmanager
def no_tls(run: Run) -> Iterator[None]:
    _route(run).switch("disable")
    _route(run).reload()
    _hold_while_refused(run)
    _route(run).switch("require")
    _route(run).reload()
    yield


SCENARIOS = [
    Scenario("TLS certificate rotated", rotated, encrypted),
    Scenario("TLS with a wrong name", wrong_name, encrypted),
    Scenario("no TLS", no_tls, encrypted),
]
