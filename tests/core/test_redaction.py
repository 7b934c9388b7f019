"""What is taken out of texts and values, and what stays."""

from __future__ import annotations

import copy
import json
from collections import OrderedDict, defaultdict, namedtuple
from datetime import datetime, timezone
from decimal import Decimal
from enum import Enum
from typing import Any

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from celery_durable.core.redaction import DEFAULT, MASK, Redaction, redact_text, redact_value
from celery_durable.model import Event

NOON = datetime(2026, 11, 21, 12, tzinfo=timezone.utc)
CARD = "4242424242424242"
JWT = "eyJhbGciOiJIUzI1NiJ9.eyJzdWIiOiIxMjM0In0.dozjgNryP4J3jVmNHl0w5N_XgL0n3I9PlFUP0THsR8U"
STRIPE = "sk_" + "live_4eC39HqLyjWDarjtT1zdp7dc"  # in two, so that a scanner of this file does not mind
PEM = "-----BEGIN RSA PRIVATE KEY-----\nProc-Type: 4,ENCRYPTED\n\nMIIEow/+==\nabc\n-----END RSA PRIVATE KEY-----"


def words(text: str) -> tuple[str, ...]:
    return tuple(text.split())


SECRET_NAMES = words(
    "password PASSWORD Password passwd pwd passphrase db_password dbPassword DB-PASSWORD PGPASSWORD userpassword "
    "password1 password_2 password_confirmation passwordHash new_password secret client_secret clientSecret "
    "secret_value SECRET_KEY_BASE token access_token accessToken refresh-token csrftoken authToken auth_token api_key "
    "apikey apiKey API_KEY X-API-Key x_api_key APIKey access_key secret_access_key AWS_SECRET_ACCESS_KEY private_key "
    "privateKey encryption_key signing_key session_key sessionid authorization Authorization Proxy-Authorization "
    "cookie Set-Cookie credentials jwt db_pass SMTP_PASS CELERY_DURABLE_KEYS accountKey"
)
ORDINARY_NAMES = words(
    "secretary passport compass bypass passes token_count tokens_used max_tokens max_token num_tokens tokenizer "
    "token_type token_expires_at next_page_token nextPageToken fencing_token eos_token password_length password_reset "
    "password_changed_at has_password requires_token secret_name secret_arn private_key_id access_key_id api_key_name "
    "key keys public_key primary_key cache_key routing_key idempotency_key monkey turkey keyboard session session_id "
    "author authority authored authenticated pin_code pinned spin shopping number account card brand cardinality "
    "discarded cookie_name cookiejar user username email name id"
)

# -- Names


@pytest.mark.parametrize("name", SECRET_NAMES)
def test_the_value_of_a_secret_name_goes(name: str) -> None:
    assert redact_value({name: "hunter2"}) == {name: MASK}
    assert redact_text(f"{name}=hunter2 x") == f"{name}=*** x"
    assert redact_text(f'{{"{name}": "hunter2", "x": 1}}') == f'{{"{name}": "***", "x": 1}}'
    assert redact_text(f"{{'{name}': 'hunter2', 'x': 1}}") == f"{{'{name}': '***', 'x': 1}}"


@pytest.mark.parametrize("name", ORDINARY_NAMES)
def test_the_value_of_an_ordinary_name_stays(name: str) -> None:
    assert redact_value({name: "hunter2"}) == {name: "hunter2"}
    for text in (f"{name}=hunter2", f"{name}: hunter2", f'{{"{name}": "hunter2"}}', f"{{'{name}': 'hunter2'}}"):
        assert redact_text(text) == text


@pytest.mark.parametrize("name", ["tokens", "secrets", "passwords", "api_keys", "auth", "input_tokens"])
def test_a_plural_is_secrets_or_a_count_of_them(name: str) -> None:
    assert redact_value({name: ["a", "b"]}) == {name: [MASK, MASK]}
    assert redact_value({name: {"a": "x", "n": 5}}) == {name: {"a": MASK, "n": 5}}
    assert redact_value({name: 4096}) == {name: 4096}
    assert redact_text(f"{name}=['a', 'b'], x") == f"{name}=***, x"
    assert redact_text(f'"{name}": "abc"') == f'"{name}": "***"'
    for text in (f"{name}: 5 used", f"{name}=4096", f"'{name}': 1_000}}", f"{name}: many of them", f"{name}=[1, 2]"):
        assert redact_text(text) == text


@pytest.mark.parametrize(
    "name", ["card_number", "cardNumber", "credit_card", "cvv", "cvc2", "card_cvc", "ssn", "pin", "otp", "mfa_code"]
)
def test_of_a_number_only_digits_go(name: str) -> None:
    assert redact_value({name: "1234"}) == redact_value({name: 1234}) == {name: MASK}
    assert redact_text(f"{name}=1234 x") == f"{name}=*** x"
    assert redact_text(f'"{name}": "123-45-6789"') == f'"{name}": "***"'
    for value in ("visa", 13, 0.125, None, False):
        assert redact_value({name: value}) == {name: value}
    for text in (f"{name}: required", f"{name}: 13", f"{name}=None"):
        assert redact_text(text) == text


# -- Texts


@pytest.mark.parametrize(
    ("text", "redacted"),
    [
        ("password=hunter2", "password=***"),
        ("password = hunter2, user = bob", "password = ***, user = bob"),
        ("Password:hunter2; x", "Password:***; x"),
        ("password: hunter2", "password: ***"),
        ("password => 'hunter2'", "password => '***'"),
        ("if token == 'hunter2':", "if token == '***':"),
        ("token != 'hunter2'", "token != '***'"),
        ('connect(host="x", password="hunter2", port=3)', 'connect(host="x", password="***", port=3)'),
        ("connect(password=hunter2)", "connect(password=***)"),
        ("[token=hunter2]", "[token=***]"),
        ("'token=hunter2'", "'token=***'"),
        ("?a=1&token=hunter2&b=2", "?a=1&token=***&b=2"),
        ("host=x password=hun,ter;2 dbname=y", "host=x password=*** dbname=y"),
        ("Server=x;Pwd=hunter2;Port=3", "Server=x;Pwd=***;Port=3"),
        ("DefaultEndpointsProtocol=https;AccountKey=ab+/==;x", "DefaultEndpointsProtocol=https;AccountKey=***"),
        ("password=hunter(2 x", "password=***"),
        ("password=it's", "password=***"),
        ("b'password': b'hunter2'", "b'password': b'***'"),
        ("password='hunter", "password='***"),
        ("password='hunter\nnext line", "password='***\nnext line"),
        (r"'a\npassword=hunter2'", r"'a\npassword=***'"),
        ("os.environ['DB_PASSWORD'] = 'hunter2'", "os.environ['DB_PASSWORD'] = '***'"),
        ("    password = os.environ['X'].strip() or y", "    password = *** or y"),
        ("    token = jwt.encode(\nnext", "    token = ***\nnext"),
        ("Login(password=SecretStr('hunter2'), x=1)", "Login(password=***, x=1)"),
        ('{"credentials": {"user": "bob", "code": [1, 2]}, "x": 1}', '{"credentials": ***, "x": 1}'),
        ('{"cookies": {\n  "a": "b"\n}, "x": 1}', '{"cookies": ***, "x": 1}'),
        ("auth=('bob', 'hunter2'), timeout=3", "auth=***, timeout=3"),
        ("[parameters: {'password_1': 'hunter2'}]", "[parameters: {'password_1': '***'}]"),
        ("API key: hunter2", "API key: ***"),
        ("access token: hunter2", "access token: ***"),
        ("mysql --password hunter2 --user bob", "mysql --password *** --user bob"),
        ("mysql --password=hunter2 --user bob", "mysql --password=*** --user bob"),
        ("Command '['x', '--api-key', 'hunter2', '-v']'", "Command '['x', '--api-key', '***', '-v']'"),
        ("<password>hunter2</password><a>b</a>", "<password>***</password><a>b</a>"),
        ('<w:Password Type="x">hunter2</w:Password>', '<w:Password Type="x">***</w:Password>'),
        ("ssn: 123-45-6789, x", "ssn: ***, x"),
        ("CELERY_DURABLE_KEYS=aaa=,bbb=,ccc= x", "CELERY_DURABLE_KEYS=*** x"),
    ],
)
def test_a_secret_with_a_name_goes(text: str, redacted: str) -> None:
    assert redact_text(text) == redacted


@pytest.mark.parametrize(
    ("text", "redacted"),
    [
        ("Authorization: Bearer abc.def", "Authorization: Bearer ***"),
        ("authorization: basic dXNlcjpwdw==", "authorization: basic ***"),
        ("Authorization: hunter2", "Authorization: ***"),
        ("Proxy-Authorization: Token abc, Accept: x", "Proxy-Authorization: Token ***, Accept: x"),
        ('Authorization: Digest username="M", response="66"\nx', "Authorization: Digest ***\nx"),
        ("{'Authorization': 'Bearer abc', 'Accept': 'x'}", "{'Authorization': '***', 'Accept': 'x'}"),
        ("curl -H 'Authorization: Bearer abc' https://x", "curl -H 'Authorization: Bearer ***' https://x"),
        ("('authorization', 'Bearer abcdefgh12345678')", "('authorization', 'Bearer ***')"),
        ("Cookie: a=b; session=c\nHost: x", "Cookie: ***\nHost: x"),
        ("Set-Cookie: sid=c; Path=/; HttpOnly", "Set-Cookie: ***"),
        ("curl -H 'Cookie: a=b; c=d' https://x", "curl -H 'Cookie: ***' https://x"),
        ("{'Cookie': 'a=b; c=d', 'x': 1}", "{'Cookie': '***', 'x': 1}"),
    ],
)
def test_headers_go(text: str, redacted: str) -> None:
    assert redact_text(text) == redacted


@pytest.mark.parametrize(
    ("text", "redacted"),
    [
        ("postgresql+psycopg://bob:hunter2@db:5432/x", "postgresql+psycopg://bob:***@db:5432/x"),
        ("redis://:hunter2@h1:6379,redis://:hunter3@h2", "redis://:***@h1:6379,redis://:***@h2"),
        ("amqp://guest:guest@127.0.0.1:5672//", "amqp://guest:***@127.0.0.1:5672//"),
        ("amqp://u:a@h1;amqp://u:b@h2", "amqp://u:***@h1;amqp://u:***@h2"),
        ("mongodb://u:12345@h1,h2/x", "mongodb://u:***@h1,h2/x"),
        ("mysql://u:hun@ter2@db/x", "mysql://u:***@db/x"),
        ("mysql://u:hun/ter2@db/x", "mysql://u:***@db/x"),
        ("'https://x-access-token:abc@github.com/o/r.git'", "'https://x-access-token:***@github.com/o/r.git'"),
        ("(url: https://u:p%40@h/?to=a@b.c)", "(url: https://u:***@h/?to=a@b.c)"),
        ("http://host:8080/path@x", "http://host:8080/path@x"),
        ("http://host:8080, mail bob@example.com", "http://host:8080, mail bob@example.com"),
        ("http://host:8080,bob@example.com", "http://host:8080,bob@example.com"),
        ("http://[::1]:80/x@y", "http://[::1]:80/x@y"),
        ("git+https://github.com/o/r@v1", "git+https://github.com/o/r@v1"),
        ("ssh://git@github.com/o/r", "ssh://git@github.com/o/r"),
        ("https://x.blob/y?sv=1&sig=abc%2Bdef&se=2", "https://x.blob/y?sv=1&sig=***&se=2"),
        ("https://s3/x?X-Amz-Signature=0a1b2c&x=1", "https://s3/x?X-Amz-Signature=***&x=1"),
        ("https://hooks.slack.com/services/T0/B0/XyZ123", "https://hooks.slack.com/services/***"),
    ],
)
def test_credentials_in_urls_go(text: str, redacted: str) -> None:
    assert redact_text(text) == redacted


@pytest.mark.parametrize(
    "secret",
    [
        STRIPE,
        "sk_" + "test_4eC39HqLyjWDarjtT1zdp7dc",
        "pk_" + "live_4eC39HqLyjWDarjtT1zdp7dc",
        "AKIAIOSFODNN7EXAMPLE",
        "ghp_16C7e42F292c6912E7710c838347Ae178B4a",
        "gho_16C7e42F292c6912E7710c838347Ae178B4a",
        "github_pat_11ABCDEFG0123456789_abcdefghijklmnopqrstuvwxyz",
        "glpat-abcdefghijklmnopqrst",
        *("xox" + kind + "-123456789012-abcdefABCDEF" for kind in "bap"),
        "AIza" + "SyA1234567890abcdefghijklmnopqrstuv",
        "sk-proj-abcdefghijklmnop1234",
        JWT,
        JWT.rpartition(".")[0],
        PEM,
        PEM[:90],
        PEM.replace("\n", "\\n"),
        PEM.replace("RSA PRIVATE KEY", "PGP PRIVATE KEY BLOCK"),
        "4242 4242 4242 4242",
        "5555-5555-5555-4444",
        "3782 822463 10005",
    ],
)
@pytest.mark.parametrize("around", ["{}", "the value {}! was refused", "('{}', 1)", '{{"a": "{}"}}', "x={}\n"])
def test_a_secret_of_a_known_shape_goes(secret: str, around: str) -> None:
    assert redact_text(around.format(secret)) == around.format(MASK)


@pytest.mark.parametrize(
    "text",
    [
        f"order {CARD} was refused",
        f"id={CARD}",
        f"discarded {CARD}",
        f"card x{CARD}",
        f"card {CARD}.5",
        "card 4242424242424241",
        "4242 4242 4242 4241",
        "1234 5678 9012 3456",
        "2024 1000 2000 3000",
        "0000 0000 0000 0000",
        "1111-2222-3333-4444-5555",
        "9d1f-4242-4242-4242-4242",
        "4242-4242-4242-4242-9d1f",
        "1700000000000000 and card 1700000000000000",
        "card 550e8400-e29b-41d4-a716-446655440000",
    ],
)
def test_an_id_is_no_card_number(text: str) -> None:
    assert redact_text(text) == text


@pytest.mark.parametrize(
    ("text", "redacted"),
    [
        (f"card {CARD} was refused", "card *** was refused"),
        (f"cardNo {CARD}", "cardNo ***"),
        (f"the PAN is {CARD}.", "the PAN is ***."),
        (f"{CARD} (Visa)", "*** (Visa)"),
        ("card number: 4242 4242 4242 4242, cvv: 123", "card number: ***, cvv: ***"),
        ("1234 4242 4242 4242 4242 123", "1234 *** 123"),
    ],
)
def test_a_card_number_goes_where_it_looks_or_is_called_like_one(text: str, redacted: str) -> None:
    assert redact_text(text) == redacted


@pytest.mark.parametrize(
    "text",
    [
        "",
        "the token ring",
        "password is required",
        "password is wrong: try again",
        "token=None password=None, secret=null; x",
        "password='' token=\"\" secret=",
        "token=True, password=false",
        "tokens: 5 used",
        "token: 5",
        "password: Field required",
        "password: must be at least 8 characters",
        "token: Input should be a valid string",
        "Secret: not found.",
        "KeyError: 'password'",
        "['user', 'password', 'token']",
        "SyntaxError: unexpected token: }",
        "def login(user: str, password: str, token: str | None = None) -> Token:",
        "password: Optional[str]",
        "Access denied for user 'root'@'localhost' (using password: YES)",
        'FATAL: password authentication failed for user "bob"',
        "INSERT INTO u (password, token) VALUES (%(password)s, %s)",
        "WHERE password=%(password_1)s AND token=%s",
        "password={password} token=${TOKEN} secret=<secret>",
        "missing 'token=' in the query; \"password:\" expected",
        "use --password to give one, --token is needed",
        "secret://vault/path Token::new",
        "send Authorization: Bearer <token>, or Authorization: Bearer %s",
        "print(f'password={password!r}, token={self.token}')",
        "def all(self) -> Iterator[Cookie]:  # type: ignore",
        "cookie: none, Cookie: ",
        "Token('NAME', 'abc')",
        "bearer authentication is required",
        "Basic understanding, basic authentication",
        'WWW-Authenticate: Basic realm="x"',
        "task-0123456789abcdef0123456789abcdef",
        "eyJ is how a JWT begins",
        "-----BEGIN CERTIFICATE-----\nMII\n-----END CERTIFICATE-----",
        "-----BEGIN PUBLIC KEY-----\nMII\n-----END PUBLIC KEY-----",
        "ZeroDivisionError: division by zero",
        'File "/app/tokens.py", line 30, in check_password\n    raise Denied(user)',
        "2026-11-21 12:00:00,123 [INFO] run r1: step 'charge' attempt 2 of 4",
        "1a2b3c4d-0000-4000-8000-123456789012",
        "<td>password</td>",
        "Grüße 🚀 \ud800 \x00",
    ],
)
def test_ordinary_text_stays(text: str) -> None:
    assert redact_text(text) == text


# -- Texts, by hypothesis

BARE = st.text("abcXYZ0189!#$%*+-./=?@^_~|", min_size=4, max_size=40).map(lambda text: f"Q{text}Q9")
NAMES = st.sampled_from(["password", "api_key", "clientSecret", "X-Auth-Token", "DB_PASSWORD"])


@given(BARE, NAMES)
@pytest.mark.parametrize(
    "form",
    [
        "{name}={secret}",
        "{name} = {secret} and more",
        "x {name}: {secret}\nnext",
        "f({name}={secret}, a=1)",
        "a=1; {name}={secret}; b=2",
        "https://h/p?{name}={secret}&b=2",
        "tool --{name} {secret} --verbose",
        "tool --{name}={secret}",
        "<{name}>{secret}</{name}>",
    ],
)
def test_no_bare_secret_is_left(form: str, secret: str, name: str) -> None:
    redacted = redact_text(form.format(name=name, secret=secret))
    assert redacted == form.format(name=name, secret=MASK)


@given(st.text(max_size=40).map(lambda text: f"Q1{text}Q2"), NAMES)
@example("Q1\"'Q2", "password")
@example("Q1\\Q2", "password")
@example("Q1\\\"\\'Q2", "password")
def test_no_quoted_secret_is_left_however_it_was_quoted(secret: str, name: str) -> None:
    value = {"a": 1, name: secret, "b": [2]}
    masked = {"a": 1, name: MASK, "b": [2]}
    quote = repr(secret)[0]
    written = repr(masked).replace("'***'", f"{quote}***{quote}")
    assert redact_text(repr(value)) == written
    if '"' not in secret:  # else nothing tells which quotes were escaped once and which twice
        assert redact_text(json.dumps(repr(value))) == json.dumps(written)
    text, expected = json.dumps(value), json.dumps(masked)
    for _ in range(3):
        assert redact_text(text) == expected
        text, expected = json.dumps({"body": text}), json.dumps({"body": expected})
    assert redact_text(json.dumps(value, indent=2)) == json.dumps(masked, indent=2)


PIECES = st.sampled_from(
    (
        *words(
            "password token tokens Authorization Cookie Bearer Basic --token api key card cvv 4242 a b1 hunter2 None"
        ),
        *words('{ } [ ] ( ) < > </ \' " \\ \\" \\n = : == , ; & ? - . @ :// *** eyJabcdefghij. -----BEGIN'),
        *(" ", "  ", "\n", "-----BEGIN PRIVATE KEY-----", "-----END PRIVATE KEY-----", "://u:p@h", CARD),
    )
)


@settings(max_examples=400)
@given(st.lists(PIECES, max_size=30).map("".join))
def test_any_text_is_gone_through(text: str) -> None:
    redacted = redact_text(text)
    assert isinstance(redacted, str)
    assert not redacted.startswith("<redaction failed")


WORDS = st.sampled_from(
    words(
        "the a token password secret is was required expired for user run step in key card cookie of 12 authorization"
    )
)


@given(st.lists(WORDS, max_size=20).map(" ".join))
def test_words_alone_are_no_secrets(text: str) -> None:
    assert redact_text(text) == text


def test_secrets_are_found_in_long_and_odd_texts() -> None:
    """Nothing here is timed; each of these takes hours where a pattern is not bounded."""
    for piece in ("password=[", "token='", "://a:", "eyJaaaaaaaaaa.", "4242 ", "<a ", "\\", "a", "--token ", "cvv='\""):
        long = piece * (300_000 // len(piece))
        assert redact_text(f"{long}\npassword=hunter2 x").endswith("\npassword=*** x"), piece


# -- Values


def test_secrets_go_out_of_every_place() -> None:
    value = {
        "user": "bob",
        "password": "hunter2",
        "nested": [{"apiKey": "k", "x": ("a", {"token": 12345})}],
        "error": "password=hunter2 refused",
        "url": "redis://:hunter2@h",
        "tags": {"plain", STRIPE},
        "frozen": frozenset({JWT}),
        "body": b'{"password": "hunter2"}',
        "array": bytearray(b"token=hunter2"),
        b"password": b"hunter2",
        1: "card 4242 4242 4242 4242",
    }
    assert redact_value(value) == {
        "user": "bob",
        "password": MASK,
        "nested": [{"apiKey": MASK, "x": ("a", {"token": MASK})}],
        "error": "password=*** refused",
        "url": "redis://:***@h",
        "tags": {"plain", MASK},
        "frozen": frozenset({MASK}),
        "body": b'{"password": "***"}',
        "array": bytearray(b"token=***"),
        b"password": MASK,
        1: "card ***",
    }


@pytest.mark.parametrize("value", [None, True, False, "", b"", [], {}, ()])
def test_nothing_and_yes_or_no_stay_under_a_secret_name(value: Any) -> None:
    assert redact_value({"password": value}) == {"password": value}


@pytest.mark.parametrize("value", ["x", 0, 12, 1.5, [1], {"a": 1}, {1}, object(), NOON, b"x"])
def test_anything_else_goes(value: Any) -> None:
    assert redact_value({"password": value}) == {"password": MASK}


def test_what_is_about_a_card_needs_no_groups() -> None:
    given = {"card": {"number": CARD, "exp": 2030, "brand": "visa", "int": int(CARD)}, "order": CARD, "n": int(CARD)}
    assert redact_value(given) == given | {"card": {"number": MASK, "exp": 2030, "brand": "visa", "int": MASK}}


def test_the_value_after_a_flag_goes() -> None:
    command = ["mysql", "--password", "hunter2", "--user", "bob", "--token", "--verbose", "--no-password", "x"]
    assert redact_value(command) == [*command[:2], MASK, *command[3:]]
    assert redact_value(("--password=hunter2", "x", "--password")) == ("--password=***", "x", "--password")


def test_events_are_plain_data_too() -> None:
    event = Event(id="e", name="n", key="k", payload={"token": "abc", "x": 1}, emitted_at=NOON)
    assert redact_value([event]) == [event.model_copy(update={"payload": {"token": MASK, "x": 1}})]
    assert event.payload == {"token": "abc", "x": 1}


class Text(str):
    pass


class Color(str, Enum):
    RED = "red"


class Proxy:
    """Fails at whatever it is asked."""

    def __getattribute__(self, name: str) -> Any:
        raise RuntimeError("no")


class Liar(dict[str, Any]):
    def items(self) -> Any:
        raise RuntimeError("no")


class Hashed(list[Any]):
    def __hash__(self) -> int:
        return 1


Point = namedtuple("Point", "x y")


def test_odd_values_stay_as_they_are() -> None:
    for value in (Proxy(), object(), NOON, Decimal("1.5"), Color.RED, Text("plain"), lambda: None, int, 1 + 2j, ...):
        assert redact_value(value) is value
        assert redact_value([value])[0] is value
        assert redact_value({"a": value})["a"] is value


def test_subclasses_become_plain() -> None:
    assert redact_value(Text("token=abc")) == "token=***"
    assert redact_value(OrderedDict(token="abc", a=1)) == {"token": MASK, "a": 1}
    assert redact_value(defaultdict(list, a=[1])) == {"a": [1]}
    assert redact_value(Liar(token="abc", a=1)) == {"token": MASK, "a": 1}
    assert redact_value(Point("token=abc", 1)) == ("token=***", 1)
    assert redact_value([{Hashed(["x"])}, {"token": "abc"}]) == [MASK, {"token": MASK}]


def test_a_value_that_holds_itself_ends() -> None:
    value: dict[str, Any] = {"token": "abc", "a": 1}
    value["self"] = value
    value["list"] = [value]
    assert redact_value(value) == {"token": MASK, "a": 1, "self": "...", "list": ["..."]}


def test_a_value_in_many_places_is_gone_through_once() -> None:
    value: Any = ["token=abc"]
    for _ in range(60):
        value = [value, value]
    found = redact_value(value)
    for _ in range(60):
        assert found[0] is found[1]
        found = found[0]
    assert found == ["token=***"]


def test_a_deep_value_ends() -> None:
    deep: Any = "token=abc"
    for _ in range(190):
        deep = {"a": [deep]} if isinstance(deep, str) else [deep]
    found = redact_value(deep)
    while isinstance(found, list):
        found = found[0]
    assert found == {"a": ["token=***"]}
    for _ in range(5000):
        deep = [deep]
    assert "abc" not in repr(redact_value(deep))


def test_keys_that_are_secrets_go_and_their_values_stay() -> None:
    assert redact_value({STRIPE: 1, JWT: 2, "x": 3}) == {MASK: 1, "*** (1)": 2, "x": 3}


PLAIN = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text() | st.binary(),
    lambda inner: (
        st.lists(inner, max_size=4)
        | st.lists(inner, max_size=4).map(tuple)
        | st.dictionaries(st.text() | st.integers() | st.sampled_from(SECRET_NAMES + ORDINARY_NAMES), inner, max_size=4)
    ),
    max_leaves=20,
)


@given(PLAIN)
def test_values_are_copied_and_left_alone(value: Any) -> None:
    before = copy.deepcopy(value)
    found = redact_value(value)
    assert value == before
    assert type(found) is type(value)
    assert redact_value(found) == found


@given(PLAIN, st.sampled_from(SECRET_NAMES))
def test_no_value_of_a_secret_name_is_left(value: Any, name: str) -> None:
    found = redact_value([{name: value, "x": {name: "hunter2"}}])
    assert found[0]["x"] == {name: MASK}
    assert found[0][name] == MASK or not value or value is True or name == "CELERY_DURABLE_KEYS"


# -- As a project wants it


def test_the_setting_is_a_switch_or_a_function() -> None:
    assert Redaction.of(True) == Redaction.of(None) == Redaction() == DEFAULT
    off = Redaction.of(False)
    value = {"password": "hunter2"}
    assert off.text("password=hunter2") == "password=hunter2"
    assert off.value(value) is value
    for wrong in (1, [str], object(), "json.decoder.NaN"):
        with pytest.raises(TypeError, match="a function that takes a string"):
            Redaction.of(wrong)


@pytest.mark.parametrize("name", ["yes", "", "no.such.function", "json.no_such_function"])
def test_a_function_is_named_as_it_is_imported(name: str) -> None:
    assert Redaction.of("textwrap.dedent").text("  Bob: token=abc") == "Bob: token=***"
    with pytest.raises(ValueError, match="it can't be loaded"):
        Redaction.of(name)


def test_a_hook_comes_after_the_defaults() -> None:
    seen = []

    def hook(text: str) -> str:
        seen.append(text)
        return text.replace("Bob", "B.")

    redaction = Redaction.of(hook)
    assert redaction.text("Bob: password=hunter2") == "B.: password=***"
    assert redaction.value({"a": ["Bob", 1, {"password": "Bob", "b": ("Bob",)}]}) == {
        "a": ["B.", 1, {"password": MASK, "b": ("B.",)}]
    }
    assert not any("hunter2" in text for text in seen)


def fails(text: str) -> str:
    raise LookupError(text)


@pytest.mark.parametrize(("hook", "note"), [(fails, "LookupError"), (len, "TypeError"), (lambda: "", "TypeError")])
def test_a_hook_that_fails_lets_nothing_through(hook: Any, note: str) -> None:
    redaction = Redaction.of(hook)
    assert redaction.text("Bob") == f"<redaction failed: {note}>"
    assert redaction.value(["Bob", 1, {"password": "x"}]) == [
        f"<redaction failed: {note}>",
        1,
        {f"<redaction failed: {note}>": MASK},
    ]
