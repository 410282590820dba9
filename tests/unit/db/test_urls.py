"""Connection strings that users already have, and what they must come to."""

from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from llm_proxy.db import mysql, postgres
from llm_proxy.db.engine import connector_of_settings
from llm_proxy.db.urls import Address, UrlFault, parse
from llm_proxy.settings import Settings, StorageSettings

PLAIN = Settings()


@pytest.mark.parametrize(
    ("text", "wanted"),
    [
        ("postgres://llmproxy:secret@postgres:5432/llmproxy?sslmode=disable",
         Address("postgres", (("postgres", 5432),), "llmproxy", "secret", "llmproxy", None, (("sslmode", "disable"),))),
        ("postgresql://user@localhost/db", Address("postgres", (("localhost", 0),), "user", None, "db")),
        ("postgres://u:p@h", Address("postgres", (("h", 0),), "u", "p", None)),
        ("postgres://u:a/b+c=@h:5/db", Address("postgres", (("h", 5),), "u", "a/b+c=", "db")),
        ("postgres://u:p#q@h/db", Address("postgres", (("h", 0),), "u", "p#q", "db")),
        ("postgres://u:p@q@h/db", Address("postgres", (("h", 0),), "u", "p@q", "db")),
        ("postgres://u:p:q@h/db", Address("postgres", (("h", 0),), "u", "p:q", "db")),
        ("postgres://u:p?q@h/db", Address("postgres", (("h", 0),), "u", "p?q", "db")),
        ("postgres://u:p?q=1@h/db?sslmode=require",
         Address("postgres", (("h", 0),), "u", "p?q=1", "db", None, (("sslmode", "require"),))),
        ("postgres://u:100%@h/db", Address("postgres", (("h", 0),), "u", "100%", "db")),
        ("postgres://u:%40%2F@h/db", Address("postgres", (("h", 0),), "u", "@/", "db")),
        ("postgres://proxy@server:pass@server.postgres.database.azure.com:5432/db",
         Address("postgres", (("server.postgres.database.azure.com", 5432),), "proxy@server", "pass", "db")),
        ("postgres://u:p@/db?host=/cloudsql/project:region:instance",
         Address("postgres", (), "u", "p", "db", None, (("host", "/cloudsql/project:region:instance"),))),
        ("postgres://u:p@[::1]:5433/db", Address("postgres", (("::1", 5433),), "u", "p", "db")),
        ("postgres://u:p@a:1,b:2/db", Address("postgres", (("a", 1), ("b", 2)), "u", "p", "db")),
        ("host=h port=5 dbname=d user=u password='a b'", Address("postgres", (("h", 5),), "u", "a b", "d")),
        ("user:password@tcp(localhost:3306)/dbname?parseTime=true",
         Address("mysql", (("localhost", 3306),), "user", "password", "dbname", None, (("parseTime", "true"),))),
        ("u:p@tcp(h)/d", Address("mysql", (("h", 0),), "u", "p", "d")),
        ("u:p@/d", Address("mysql", (("", 0),), "u", "p", "d")),
        ("u:p@tcp/d", Address("mysql", (("", 0),), "u", "p", "d")),
        ("u@unix(/run/mysqld/mysqld.sock)/d", Address("mysql", (), "u", None, "d", "/run/mysqld/mysqld.sock")),
        ("u:a/b@c:d?e=f#%41@tcp(h:1)/d?tls=true",
         Address("mysql", (("h", 1),), "u", "a/b@c:d?e=f#%41", "d", None, (("tls", "true"),))),
        ("u:a@tcp(evil:1)/x?y=z@tcp(h:1)/d?tls=true",
         Address("mysql", (("h", 1),), "u", "a@tcp(evil:1)/x?y=z", "d", None, (("tls", "true"),))),
        ("u:p@tcp(h:1)/d?loc=Europe/Berlin",
         Address("mysql", (("h", 1),), "u", "p", "d", None, (("loc", "Europe/Berlin"),))),
        ("u:p@tcp([::1]:3306)/d", Address("mysql", (("::1", 3306),), "u", "p", "d")),
        ("mysql://u:p%40@h:3307/d?tls=skip-verify",
         Address("mysql", (("h", 3307),), "u", "p@", "d", None, (("tls", "skip-verify"),))),
        ("mysql+pymysql://u:p@h/d", Address("mysql", (("h", 0),), "u", "p", "d")),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)  # fmt: skip
def test_a_users_string_is_taken_apart(text: str, wanted: Address) -> None:
    """Every form in use comes to the parts that the driver would see."""
    assert parse(text) == wanted
    assert parse(text).password == wanted.password


@pytest.mark.parametrize(
    "text",
    ["oracle://u:s3cret@h/d", "u:s3cret@udp(h:1)/d", "u:s3cret@tcp(h:1)", "postgres://u:s3cret@h:99999/d",
     "postgres://u:s3cret@h/d?a=1&a=2", "u:s3cret@unix/d", "justtext-s3cret"],
)  # fmt: skip
def test_what_cannot_be_read_is_refused_without_the_secret(text: str) -> None:
    """A string of an unknown form is a fault whose text does not repeat it."""
    with pytest.raises(UrlFault) as caught:
        parse(text)
    assert "s3cret" not in str(caught.value)
    assert str(caught.value).startswith("DATABASE_URL: ")


@given(st.text(st.characters(min_codepoint=33, max_codepoint=126), min_size=1, max_size=24))
def test_any_password_survives_a_go_dsn(password: str) -> None:
    """Whatever printable ASCII the password is, Go's form gives it back as it stands."""
    found = parse(f"user:{password}@tcp(db:3306)/proxy?parseTime=true&tls=false")
    assert (found.password, found.user, found.database) == (password, "user", "proxy")


@given(st.text(st.characters(min_codepoint=33, max_codepoint=126, exclude_characters="%?"), min_size=1, max_size=24))
def test_any_raw_password_survives_a_url(password: str) -> None:
    """Raw secrets pasted into a URL, `/`, `#`, `:`, `@`, `+` and `=` among them, come out as they went in."""
    found = parse(f"postgres://user:{password}@db:5432/proxy?sslmode=disable")
    assert (found.password, found.hosts, found.database) == (password, (("db", 5432),), "proxy")


def _words(url: str, **more: Any) -> dict[str, str]:
    return postgres._words(parse(url), StorageSettings(**more))


def test_postgres_defaults() -> None:
    """A bare URL gets a connect limit, our name, UTC and limits of the server, and libpq's own sslmode."""
    words = _words("postgres://u:p@h/d")
    assert (words["connect_timeout"], words["application_name"]) == ("10", "llm-proxy")
    assert words["options"].endswith("-c timezone=UTC")
    assert "-c statement_timeout=30s" in words["options"]
    assert "sslmode" not in words


def test_postgres_options_of_the_go_driver() -> None:
    """Server settings reach the session, pool options have no effect, time zones stay UTC."""
    words = _words(
        "postgres://u:p@h/d?search_path=a,b c&statement_timeout=5s&timezone=Asia/Tokyo&pool_max_conns=4"
        "&default_query_exec_mode=exec&pg_trgm.word_similarity_threshold=0.5&application_name=mine&keepalives=1"
    )
    assert r"-c search_path=a,b\ c" in words["options"]
    assert "-c statement_timeout=5s" in words["options"]
    assert "-c pg_trgm.word_similarity_threshold=0.5" in words["options"]
    assert "Tokyo" not in words["options"]
    assert "pool" not in str(words)
    assert (words["application_name"], words["keepalives"]) == ("mine", "1")


@pytest.mark.parametrize("mode", ["disable", "allow", "prefer", "require"])
def test_postgres_ssl_modes_pass(mode: str) -> None:
    """The modes that verify nothing are libpq's to honour."""
    assert _words(f"postgres://u:p@h/d?sslmode={mode}")["sslmode"] == mode


@pytest.mark.parametrize("mode", ["verify-ca", "verify-full"])
def test_postgres_verification_finds_the_system_bundle(mode: str) -> None:
    """Verification without a file of the user's uses the machine's bundle, not one in the home folder."""
    assert Path(_words(f"postgres://u:p@h/d?sslmode={mode}")["sslrootcert"]).is_file()


@pytest.mark.parametrize(
    ("options", "named"),
    [("sslmode=sometimes", "sslmode"), ("sslrootcert=/no/such.crt", "/no/such.crt"), ("Bad-Key=1", "Bad-Key"),
     ("connect_timeout=soon", "connect_timeout")],
)  # fmt: skip
def test_postgres_refuses_by_name(options: str, named: str) -> None:
    """An option that can't be honoured is a fault that names it."""
    with pytest.raises(UrlFault, match=named):
        postgres.connector(parse(f"postgres://u:p@h/d?{options}"), PLAIN.storage)


def test_a_password_may_come_by_itself() -> None:
    """DATABASE_PASSWORD fills in where the URL has none, on both; where it has one, that wins with a warning."""
    assert _words("postgres://u@h/d", password="apart")["password"] == "apart"
    assert _words("postgres://u:@h/d", password="apart")["password"] == "apart"
    assert _words("postgres://u:own@h/d", password="apart")["password"] == "own"
    for url, number in (("postgres://u:own@h/d", 1), ("u:own@tcp(h)/d", 1), ("u@tcp(h)/d", 0)):
        made = connector_of_settings(StorageSettings(url=url, password="apart"))
        assert [warning.partition(" ")[0] for warning in made.warnings] == ["DATABASE_PASSWORD"] * number
    reading = mysql._Reading(parse("u@tcp(h)/d"), StorageSettings(password="é:/"))
    assert reading.arguments["password"] == "é:/".encode()


def test_host_names_are_resolved_by_us() -> None:
    """Each host stands beside its address, so that libpq looks nothing up and certificates are still checked."""
    found = postgres._resolved([("localhost", 5433), ("127.0.0.2", 0)], {})
    hosts, addresses, ports = (found[name].split(",") for name in ("host", "hostaddr", "port"))
    assert len(hosts) == len(addresses) == len(ports)
    assert ("127.0.0.2", "127.0.0.2", "5432") in set(zip(hosts, addresses, ports, strict=True))
    assert {"127.0.0.1", "::1"} & set(addresses)
    assert postgres._resolved([("/run/postgresql", 0)], {}) == {"host": "/run/postgresql", "port": "5432"}


def test_mysql_options_of_the_go_driver() -> None:
    """Timeouts, charset, packet and session variables come through; what PyMySQL does anyway has no effect."""
    reading = mysql._Reading(
        parse("u:p@tcp(h)/d?charset=utf8mb4,utf8&collation=utf8mb4_bin&timeout=3s&readTimeout=1m&writeTimeout=2s"
              "&maxAllowedPacket=1048576&parseTime=true&loc=UTC&lock_wait_timeout=7&clientFoundRows=false"),
        PLAIN.storage,
    )  # fmt: skip
    arguments = reading.arguments
    assert (arguments["charset"], arguments["collation"]) == ("utf8mb4", "utf8mb4_bin")
    limits = [arguments[name] for name in ("connect_timeout", "read_timeout", "write_timeout", "max_allowed_packet")]
    assert limits == [3, 60, 2, 1048576]
    assert reading.session["lock_wait_timeout"] == 7
    assert reading.session["time_zone"] == "+00:00"
    assert reading.warnings == []


@pytest.mark.parametrize(
    ("options", "said"),
    [("loc=Asia%2FTokyo", "loc"), ("tls=skip-verify", "not verified"), ("time_zone='%2B02:00'", "time_zone")],
)
def test_mysql_warns(options: str, said: str) -> None:
    """What has no effect, or weakens the connection, is said."""
    assert said in " ".join(mysql._Reading(parse(f"u:p@tcp(h)/d?{options}"), PLAIN.storage).warnings)


@pytest.mark.parametrize(
    ("options", "named"),
    [("tls=perhaps", "tls"), ("tls=custom", "DATABASE_TLS_CA"), ("NoSuch=1", "NoSuch"), ("timeout=soon", "timeout"),
     ("allowCleartextPasswords=true", "allowCleartextPasswords"),
     ("allowCleartextPasswords=true&tls=skip-verify", "allowCleartextPasswords")],
)  # fmt: skip
def test_mysql_refuses_by_name(options: str, named: str) -> None:
    """An option that can't be honoured is a fault that names it."""
    with pytest.raises(UrlFault, match=named):
        mysql.connector(parse(f"u:p@tcp(h)/d?{options}"), PLAIN.storage)


@pytest.mark.parametrize(
    ("url", "driver"),
    [("postgres://h/d", "postgres"), ("postgresql://h/d", "postgres"), ("user=u host=h", "postgres"),
     ("u:p@tcp(h)/d", "mysql"), ("mysql://h/d", "mysql")],
)  # fmt: skip
def test_the_driver_follows_the_urls_form(url: str, driver: str) -> None:
    """Without DB_DRIVER the form of DATABASE_URL decides, and the parser agrees."""
    assert StorageSettings(url=url).driver == driver == parse(url).driver
