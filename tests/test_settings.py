"""Settings: validation, defaults and error messages."""

from pathlib import Path

import pytest

from settings import DatabaseSettings, Settings
from tests.environment import ROOT, environment_variables
from tests.support import SECRET

GOOD = {"DATABASE_URL": "postgres://app:hunter2@localhost/tasks", "BETTER_AUTH_SECRET": SECRET}
ORIGIN = "https://app.example.com"


@pytest.fixture(autouse=True)
def _no_env_file(tmp_path: object, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(str(tmp_path))


def faults(**changes: str) -> list[str]:
    """The error messages for these settings."""
    with environment_variables(**{**GOOD, **changes}), pytest.raises(SystemExit) as ended:
        Settings.load()
    first, *rest = str(ended.value).splitlines()
    assert first == "Invalid settings:"
    for secret in ("hunter2", SECRET, changes.get("BETTER_AUTH_SECRET") or SECRET):
        assert secret not in str(ended.value)
    return [line.strip() for line in rest]


def load(**changes: str) -> Settings:
    with environment_variables(**{**GOOD, **changes}):
        return Settings.load()


@pytest.mark.spec("process.settings")
@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("DATABASE_URL", ""),
        ("DATABASE_URL", "not a url"),
        ("DATABASE_URL", "mysql://app:hunter2@localhost/tasks"),
        ("DATABASE_URL", "postgres://app:hunter2@localhost"),
        ("DATABASE_URL", "postgres://app:hunter2@localhost:port/tasks"),
        ("DATABASE_URL", "postgres://app:hunter2@localhost/tasks?options=-csearch_path%3Dx"),
        ("DATABASE_URL", "postgres:///tasks?service=production"),
        ("DATABASE_URL_UNPOOLED", "mysql://localhost/tasks"),
        ("BETTER_AUTH_SECRET", "x" * 31),
        ("BETTER_AUTH_SECRET", f"{SECRET},short"),
        ("BETTER_AUTH_SECRET", f"{SECRET}\n"),
        ("BETTER_AUTH_SECRET", "better-auth-secret-12345678901234567890"),
        ("BETTER_AUTH_SECRET", f" {SECRET}"),
        ("BETTER_AUTH_SECRET", f"{SECRET},"),
        ("RATE_LIMIT_REQUESTS", "many"),
        ("RATE_LIMIT_AUTH_FAILURES", "5"),
        ("RATE_LIMIT_REQUESTS", "0/minute"),
        ("RATE_LIMIT_REQUESTS", "600/minute;10/second"),
        ("RATE_LIMIT_STORAGE_URL", "mongodb://localhost"),
        ("RATE_LIMIT_STORAGE_URL", "redis://localhost:port"),
        ("RATE_LIMIT_STORAGE_URL", "redis://[localhost"),
        ("CORS_ORIGINS", "https://"),
        ("CORS_ORIGINS", "https://*.example.com"),
        ("CORS_ORIGINS", "https://App.example.com"),
        ("CORS_ORIGINS", "https://u:p@app.example.com"),
        ("CORS_ORIGINS", "https://[app"),
        ("HOST", "bad host"),
        ("TRUSTED_PROXY_HOPS", "-1"),
        ("CORS_ORIGINS", "*"),
        ("CORS_ORIGINS", f"{ORIGIN}/"),
        ("CORS_ORIGINS", "app.example.com"),
        ("CORS_ORIGINS", "null"),
        ("DB_POOL_SIZE", "0"),
        ("DB_POOL_TIMEOUT", "0"),
        ("DB_STATEMENT_TIMEOUT", "soon"),
        ("DB_CONNECT_TIMEOUT", "1.5"),
        ("LOG_LEVEL", "loud"),
        ("PORT", "65536"),
        ("WEB_CONCURRENCY", "0"),
    ],
)
def test_an_invalid_setting_is_reported_by_name(name: str, value: str) -> None:
    [line] = faults(**{name: value})
    assert line.startswith(f"{name}: ")
    assert "value error" not in line


@pytest.mark.spec("process.settings")
def test_all_invalid_settings_are_reported_at_once() -> None:
    lines = faults(
        DATABASE_URL="", BETTER_AUTH_SECRET="tooshort", JWKS_URL="ftp://x", PORT="x", CORS_ORIGINS="*"
    )
    names = sorted(line.partition(":")[0] for line in lines)
    assert names == sorted(
        ["DATABASE_URL", "BETTER_AUTH_SECRET", "BETTER_AUTH_SECRET", "JWKS_URL", "PORT", "CORS_ORIGINS"]
    )


@pytest.mark.spec("process.settings")
def test_exactly_one_key_source_is_required() -> None:
    assert faults(BETTER_AUTH_SECRET="") == [
        "BETTER_AUTH_SECRET: is missing (or set BETTER_AUTH_URL or JWKS_URL)"
    ]
    for name in ("BETTER_AUTH_URL", "JWKS_URL"):
        [line] = faults(**{name: ORIGIN})
        assert line.startswith("BETTER_AUTH_SECRET: cannot be combined with ")


@pytest.mark.spec("process.settings")
def test_jwks_url_requires_an_issuer_and_an_audience() -> None:
    lines = faults(BETTER_AUTH_SECRET="", JWKS_URL=f"{ORIGIN}/jwks")
    assert [line.partition(":")[0] for line in lines] == ["JWT_ISSUER", "JWT_AUDIENCE"]
    bound = load(BETTER_AUTH_SECRET="", JWKS_URL=f"{ORIGIN}/jwks", JWT_ISSUER="i", JWT_AUDIENCE="a")
    assert (bound.keys_url, bound.issuer, bound.audience) == (f"{ORIGIN}/jwks", "i", "a")


@pytest.mark.spec("process.settings")
@pytest.mark.parametrize(
    "url",
    [
        "http://app.example.com",
        "ftp://app.example.com",
        "app.example.com",
        "https://u:p@app.example.com",
        "https://[app",
        f"{ORIGIN}?x=1",
    ],
)
def test_key_urls_require_https_unless_loopback(url: str) -> None:
    [line] = faults(BETTER_AUTH_SECRET="", BETTER_AUTH_URL=url)
    assert line.startswith("BETTER_AUTH_URL: ")


@pytest.mark.spec("auth.jwks.source", "auth.jwks.issuer-default")
@pytest.mark.parametrize("url", [ORIGIN, f"{ORIGIN}/", "http://localhost:3000", "http://127.0.0.1:3000/"])
def test_better_auth_url_sets_keys_issuer_and_audience(url: str) -> None:
    settings = load(BETTER_AUTH_SECRET="", BETTER_AUTH_URL=url)
    base = url.rstrip("/")
    assert (settings.keys_url, settings.issuer, settings.audience) == (f"{base}/api/auth/jwks", base, base)


@pytest.mark.spec("auth.jwks.source")
def test_jwks_url_overrides_better_auth_url() -> None:
    settings = load(BETTER_AUTH_SECRET="", BETTER_AUTH_URL=ORIGIN, JWKS_URL=f"{ORIGIN}/keys.json")
    assert (settings.keys_url, settings.issuer) == (f"{ORIGIN}/keys.json", ORIGIN)


@pytest.mark.spec("schema.url")
@pytest.mark.parametrize("scheme", ["postgres", "postgresql", "postgresql+psycopg2"])
def test_every_url_scheme_selects_psycopg2(scheme: str) -> None:
    url = load(DATABASE_URL=f"{scheme}://app:p%40ss@localhost:5433/tasks").database_url
    assert url.drivername == "postgresql+psycopg2"
    assert (url.username, url.password, url.host, url.port, url.database) == (
        "app",
        "p@ss",
        "localhost",
        5433,
        "tasks",
    )


@pytest.mark.spec("process.tls")
@pytest.mark.parametrize(
    ("url", "sslmode"),
    [
        ("postgres://app@db.example.com/tasks", "require"),
        ("postgres://app@10.0.0.5/tasks", "require"),
        ("postgres://app@db.example.com/tasks?sslmode=verify-full", "verify-full"),
        ("postgres://app@db.internal/tasks?sslmode=disable", "disable"),
        ("postgres://app@ep-x-pooler.neon.tech/tasks?sslmode=require&channel_binding=require", "require"),
        ("postgres://app@/tasks?host=db.example.com", "require"),
        ("postgres://app@localhost/tasks?host=db.example.com", "require"),
        ("postgres://app@localhost/tasks?hostaddr=10.0.0.5", "require"),
        ("postgres://app@localhost/tasks", None),
        ("postgres://app@127.0.0.1/tasks", None),
        ("postgres://app@[::1]/tasks", None),
        ("postgres://app@localhost/tasks?host=127.0.0.1,::1", None),
        ("postgres:///tasks?host=/tmp,db.example.com", "require"),
        ("postgres:///tasks?host=/tmp&host=db.example.com", "require"),
        ("postgres://app@localhost/tasks?hostaddr=127.0.0.1,10.0.0.5", "require"),
        ("postgres:///tasks", "require"),
        ("postgres:///tasks?host=/var/run/postgresql", None),
    ],
)
def test_remote_databases_require_tls(url: str, sslmode: str | None) -> None:
    assert load(DATABASE_URL=url).database_url.query.get("sslmode") == sslmode


def test_secrets_are_hidden_in_reprs() -> None:
    settings = load(RATE_LIMIT_STORAGE_URL="redis://:hunter2@localhost")
    shown = f"{settings} {settings!r} {settings.direct_url}"
    assert "hunter2" not in shown
    assert SECRET not in shown


@pytest.mark.spec("process.settings")
def test_an_invalid_setting_is_reported_once() -> None:
    assert len(faults(BETTER_AUTH_SECRET="first,second")) == 1


@pytest.mark.spec("process.settings")
@pytest.mark.parametrize("content", [b"\xff\xfe", b"A=\xe9\n"])
def test_an_unreadable_env_file_is_reported(content: bytes) -> None:
    Path(".env").write_bytes(content)
    with environment_variables(**GOOD), pytest.raises(SystemExit, match=r"The file \.env cannot be read"):
        Settings.load()


@pytest.mark.spec("limits.requests", "limits.failures")
def test_rate_limits_have_defaults() -> None:
    settings = load()
    assert str(settings.rate_limit_requests) == "600 per 1 minute"
    assert str(settings.rate_limit_auth_failures) == "60 per 1 minute"


def test_an_empty_variable_counts_as_unset() -> None:
    settings = load(JWKS_URL="", JWT_AUDIENCE="", PORT="", CORS_ORIGINS="")
    assert (settings.jwks_url, settings.jwt_audience, settings.port, settings.cors_origins) == (
        None,
        None,
        8000,
        (),
    )


def test_migrations_need_only_the_database_url() -> None:
    with environment_variables(DATABASE_URL=GOOD["DATABASE_URL"]):
        assert DatabaseSettings.load().direct_url.host == "localhost"


def test_settings_are_read_from_an_env_file() -> None:
    Path(".env").write_text(
        "".join(f"{name}={value!r}\n" for name, value in GOOD.items()) + "PORT=9000\nOTHER=1\n"
    )
    with environment_variables(PORT="9001"):
        assert Settings.load().port == 9001


def test_every_setting_is_documented() -> None:
    page, example = (ROOT / "docs/settings.md").read_text(), (ROOT / ".env.example").read_text()
    for name in Settings.model_fields:
        assert f"| `{name.upper()}` |" in page
        if name not in {"port", "host", "web_concurrency"}:
            assert f"{name.upper()}=" in example
    assert "| `TEST_DATABASE_URL` |" in page
