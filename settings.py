"""Settings from environment variables, validated once at start-up.

No other module of the service reads the environment, and this module imports no other
module of the service. Secrets are `SecretStr` and URLs with passwords are
`sqlalchemy.URL`, so that printing a settings object does not reveal them.
"""

import ipaddress
import re
import sys
from collections.abc import Iterator
from typing import Annotated, ClassVar, Literal, Self
from urllib.parse import SplitResult, urlsplit

import limits
from pydantic import (
    AfterValidator,
    BeforeValidator,
    Field,
    InstanceOf,
    ModelWrapValidatorHandler,
    SecretStr,
    ValidationError,
    model_validator,
)
from pydantic_core import InitErrorDetails, PydanticCustomError
from pydantic_settings import BaseSettings, SettingsConfigDict
from sqlalchemy import URL, make_url
from sqlalchemy.exc import ArgumentError

# The format of the Origin header that browsers send: lower case, with a host, without a path.
_ORIGIN = re.compile(r"https?://([a-z0-9_-]+(\.[a-z0-9_-]+)*|\[[0-9a-f:.]+\])(:[0-9]{1,5})?")
_HOST = re.compile(r"[A-Za-z0-9_-]+(\.[A-Za-z0-9_-]+)*|[0-9A-Fa-f:.]+")

MINIMUM_SECRET_BYTES = 32
"""HS256 keys must be at least as long as the hash output (RFC 7518, section 3.2)."""

BETTER_AUTH_DEFAULT_SECRET = "better-auth-secret-12345678901234567890"  # noqa: S105
"""The default secret in Better Auth's public source code, used if no secret is configured."""


def fault(message: str) -> PydanticCustomError:
    """A validation error with `message` that does not contain the invalid value."""
    return PydanticCustomError("setting", "{message}", {"message": message})


def _split_url(value: str) -> SplitResult:
    try:
        parts = urlsplit(value)
        _ = parts.port  # The port is validated only on access.
    except ValueError:
        raise fault("is not a URL") from None
    return parts


def is_loopback(host: str) -> bool:
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host.strip("[]")).is_loopback
    except ValueError:
        return False


def _database_url(value: object) -> URL:
    """Convert a Neon, Heroku or libpq style URL to one for psycopg2.

    Requires TLS unless every host in the URL is local or the URL sets `sslmode`. libpq
    ignores `sslmode` for Unix sockets.
    """
    if isinstance(value, URL):
        return value
    try:
        url = make_url(str(value))
    except (ArgumentError, ValueError):
        raise fault("is not a database URL") from None
    if url.drivername not in {"postgres", "postgresql", "postgresql+psycopg2"}:
        raise fault("must begin with postgres:// or postgresql://")
    if not url.database:
        raise fault("has no database name")
    if "options" in url.query:
        raise fault("must not contain options: transaction-mode poolers reject them")
    if "service" in url.query:
        raise fault("must not contain service: the service file could point to another host")
    if "sslmode" not in url.query and not all(map(_is_on_this_machine, _hosts(url))):
        url = url.update_query_dict({"sslmode": "require"})
    return url.set(drivername="postgresql+psycopg2")


def _hosts(url: URL) -> list[str]:
    """All hosts that libpq may connect to. Query parameters take precedence over the authority.

    Without a host libpq uses PGHOST or PGSERVICE, which may name any host.
    """
    given = url.query.get("hostaddr") or url.query.get("host") or url.host or ""
    names = given if isinstance(given, tuple) else (given,)
    return [host for name in names for host in name.split(",")]


def _is_on_this_machine(host: str) -> bool:
    return host.startswith("/") or is_loopback(host)


def _http_url(value: str) -> str:
    parts = _split_url(value)
    if parts.scheme not in {"http", "https"} or not parts.hostname:
        raise fault("is not an http or https URL")
    if parts.username or parts.query or parts.fragment:
        raise fault("must not contain credentials, a query string or a fragment")
    if parts.scheme == "http" and not is_loopback(parts.hostname):
        raise fault("must use https: an attacker who can replace these keys can sign tokens")
    return value.rstrip("/")


def _origin(value: str) -> str:
    if not _ORIGIN.fullmatch(value):
        raise fault("must be a list of origins such as https://app.example.com, without paths or *")
    return value


def _secret(value: SecretStr) -> SecretStr:
    secret = value.get_secret_value()
    if secret != secret.strip():
        raise fault("has leading or trailing white space, which Better Auth would include in the key")
    if secret == BETTER_AUTH_DEFAULT_SECRET:
        raise fault("is Better Auth's public default, with which anyone can sign tokens")
    if len(secret.encode()) < MINIMUM_SECRET_BYTES:
        raise fault(f"must be at least {MINIMUM_SECRET_BYTES} bytes (each of them, if separated by commas)")
    return value


def _split(value: object) -> object:
    """Split at commas. White space is kept, so that `_secret` rejects it."""
    return value.split(",") if isinstance(value, str) else value


def _split_words(value: object) -> object:
    return [word.strip() for word in value.split(",")] if isinstance(value, str) else value


def _rate(value: object) -> limits.RateLimitItem:
    if isinstance(value, limits.RateLimitItem):
        return value
    try:
        [rate] = limits.parse_many(str(value))
    except ValueError:
        raise fault("is not a single rate such as 600/minute") from None
    if rate.amount < 1:
        raise fault("must allow at least one request")
    return rate


def _host(value: str) -> str:
    if not _HOST.fullmatch(value):
        raise fault("is not an IP address or a host name")
    return value


def _storage_url(value: SecretStr) -> SecretStr:
    if _split_url(value.get_secret_value()).scheme not in {"memory", "redis", "rediss"}:
        raise fault("must be memory://, redis:// or rediss://")
    return value


DatabaseURL = Annotated[InstanceOf[URL], BeforeValidator(_database_url)]
HttpURL = Annotated[str, AfterValidator(_http_url)]
Origin = Annotated[str, AfterValidator(_origin)]
Secret = Annotated[SecretStr, AfterValidator(_secret)]
Rate = Annotated[InstanceOf[limits.RateLimitItem], BeforeValidator(_rate)]
Host = Annotated[str, AfterValidator(_host)]
StorageURL = Annotated[SecretStr, AfterValidator(_storage_url)]


class DatabaseSettings(BaseSettings):
    """Settings that migrations need; base class of `Settings`."""

    model_config = SettingsConfigDict(
        env_file=".env",
        env_ignore_empty=True,
        enable_decoding=False,
        extra="ignore",
        frozen=True,
        hide_input_in_errors=True,
    )

    database_url: DatabaseURL
    database_url_unpooled: DatabaseURL | None = None
    db_connect_timeout: Annotated[int, Field(ge=1, le=60)] = 5
    log_level: Literal["DEBUG", "INFO", "WARNING", "ERROR"] = "INFO"

    @classmethod
    def load(cls, **given: str) -> Self:
        """Load from arguments, environment and `.env`, in order of precedence; exits listing all errors."""
        try:
            return cls(**given)  # type: ignore[arg-type]
        except ValidationError as error:
            sys.exit("\n".join(["Invalid settings:", *dict.fromkeys(_explain(error))]))
        except (OSError, UnicodeDecodeError) as error:
            sys.exit(f"The file .env cannot be read: {type(error).__name__}")

    @property
    def direct_url(self) -> URL:
        """The endpoint without the pooler: migrations hold locks for the whole session."""
        if self.database_url_unpooled is not None:
            return self.database_url_unpooled
        url = self.database_url
        name, dot, domain = (url.host or "").partition(".")
        if dot and name.endswith("-pooler"):
            return url.set(host=f"{name.removesuffix('-pooler')}.{domain}")
        return url


class PurgeSettings(DatabaseSettings):
    """Settings of the purge."""

    trash_retention_days: Annotated[int, Field(ge=1, le=3_650)] = 30


class Settings(DatabaseSettings):
    """Settings of the web process."""

    db_pool_size: Annotated[int, Field(ge=1, le=100)] = 5
    db_pool_timeout: Annotated[float, Field(gt=0, le=60)] = 5
    db_statement_timeout: Annotated[float, Field(ge=0.1, le=60)] = 5

    better_auth_secret: Annotated[tuple[Secret, ...], BeforeValidator(_split)] = ()
    better_auth_url: HttpURL | None = None
    jwks_url: HttpURL | None = None
    jwt_issuer: str | None = None
    jwt_audience: str | None = None

    require_if_match: bool = False
    max_tasks_per_user: Annotated[int, Field(ge=1, le=100_000)] = 20_000
    max_waiting_requests: Annotated[int, Field(ge=0, le=100_000)] = 500

    rate_limit_requests: Rate = limits.parse("600/minute")
    rate_limit_auth_failures: Rate = limits.parse("60/minute")
    rate_limit_storage_url: StorageURL = SecretStr("memory://")
    trusted_proxy_hops: Annotated[int, Field(ge=0, le=10)] = 0

    cors_origins: Annotated[tuple[Origin, ...], BeforeValidator(_split_words)] = ()

    host: Host = "0.0.0.0"  # noqa: S104 - a PaaS routes to the container's own address
    port: Annotated[int, Field(ge=1, le=65535)] = 8000
    web_concurrency: Annotated[int, Field(ge=1, le=64)] = 2

    KEY_SOURCES: ClassVar[tuple[str, ...]] = ("better_auth_secret", "better_auth_url", "jwks_url")

    @property
    def keys_url(self) -> str | None:
        """The JWKS URL, or None if tokens are signed with a shared secret."""
        if self.jwks_url is None and self.better_auth_url is not None:
            return f"{self.better_auth_url}/api/auth/jwks"
        return self.jwks_url

    @property
    def issuer(self) -> str | None:
        return self.jwt_issuer or self.better_auth_url

    @property
    def audience(self) -> str | None:
        return self.jwt_audience or self.better_auth_url

    @model_validator(mode="wrap")
    @classmethod
    def _name_all_faults(cls, data: dict[str, object], handler: ModelWrapValidatorHandler[Self]) -> Self:
        """Report errors of single settings together with those of combinations of settings."""
        between = list(cls._faults_between(data))
        try:
            settings = handler(data)
        except ValidationError as error:
            within = [
                InitErrorDetails(
                    type=fault(each["msg"]) if each["type"] != "missing" else "missing",
                    loc=each["loc"],
                    input=None,
                )
                for each in error.errors(include_url=False, include_input=False)
            ]
            raise ValidationError.from_exception_data(cls.__name__, within + between) from None
        if between:
            raise ValidationError.from_exception_data(cls.__name__, between)
        return settings

    @classmethod
    def _faults_between(cls, data: dict[str, object]) -> Iterator[InitErrorDetails]:
        def about(name: str, message: str) -> InitErrorDetails:
            return InitErrorDetails(type=fault(message), loc=(name,), input=None)

        given = {name for name in cls.KEY_SOURCES if data.get(name)}
        if not given:
            yield about("better_auth_secret", "is missing (or set BETTER_AUTH_URL or JWKS_URL)")
        if "better_auth_secret" in given and len(given) > 1:
            yield about("better_auth_secret", "cannot be combined with BETTER_AUTH_URL or JWKS_URL")
        if given == {"jwks_url"}:
            for name in ("jwt_issuer", "jwt_audience"):
                if not data.get(name):
                    yield about(name, "is required with JWKS_URL (or set BETTER_AUTH_URL)")


def _explain(error: ValidationError) -> Iterator[str]:
    for each in error.errors(include_url=False, include_input=False):
        name = str(each["loc"][0]).upper() if each["loc"] else "settings"
        message = "is missing" if each["type"] == "missing" else each["msg"]
        yield f"  {name}: {message[0].lower()}{message[1:]}"
