"""Calls to URLs that clients chose, against real servers: none may end inside the operator's network."""

from __future__ import annotations

import asyncio
import datetime
import socket
import ssl
import threading
from collections.abc import Callable, Iterator
from ipaddress import ip_address
from pathlib import Path
from typing import Any

import anyio
import pytest
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat

from deployments import outbound as outbound_module
from deployments.housekeeping.webhook_sender import AT_ONCE
from deployments.outbound import MAX_URL_CHARS, Outbound, Refused, Unreachable, is_public
from pipelines.errors import ConfigError, InvalidRequest
from tests.harness.receiver import Receiver, receive

PUBLIC = "93.184.215.14"
NAME = "hook.example.com"
INSIDE = [
    "127.0.0.1", "10.0.0.1", "172.16.0.1", "192.168.1.1", "100.64.0.1", "169.254.169.254", "100.100.100.200",
    "192.0.0.192", "168.63.129.16", "0.0.0.0", "224.0.0.1", "240.0.0.1", "255.255.255.255", "198.18.0.1",
    "::", "::1", "fe80::1", "fe80::1%1", "fc00::1", "fd00:ec2::254", "ff02::1", "ff0e::1", "fec0::1", "2001:db8::1",
    "3fff::1", "::127.0.0.1", "::ffff:127.0.0.1", "::ffff:169.254.169.254", "2002:7f00:1::", "2002:a9fe:a9fe::1",
    "64:ff9b::10.0.0.1", "64:ff9b:1::8.8.8.8", "2001:0:53aa:64c:0:fbff:7f00:1",
]  # fmt: skip


@pytest.fixture
def receiver() -> Iterator[Receiver]:
    with receive() as running:
        yield running


@pytest.fixture
def authority(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> ssl.SSLContext:
    """What a server needs to prove that it is `hook.example.com`, to an Outbound that is made after this."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, NAME)])
    now = datetime.datetime.now(datetime.UTC)
    certificate = (
        x509.CertificateBuilder(name, name, key.public_key(), x509.random_serial_number())
        .not_valid_before(now - datetime.timedelta(hours=1))
        .not_valid_after(now + datetime.timedelta(hours=1))
        .add_extension(x509.SubjectAlternativeName([x509.DNSName(NAME)]), critical=False)
        .add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
        .sign(key, SHA256())
    )
    certificate_file, key_file = tmp_path / "certificate.pem", tmp_path / "key.pem"
    certificate_file.write_bytes(certificate.public_bytes(Encoding.PEM))
    key_file.write_bytes(key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()))
    monkeypatch.setenv("SSL_CERT_FILE", str(certificate_file))
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate_file, key_file)
    return context


@pytest.fixture
def resolve(monkeypatch: pytest.MonkeyPatch) -> Callable[..., list[str]]:
    """Makes every look-up give the next of these answers; returns the names as they are looked up."""

    def install(*answers: list[str]) -> list[str]:
        left, names = list(answers), []

        def getaddrinfo(host: str, port: int, *_: Any, **__: Any) -> list[Any]:
            names.append(host)
            families = {4: socket.AF_INET, 6: socket.AF_INET6}
            return [
                (families[ip_address(address).version], socket.SOCK_STREAM, 6, "", (address, port))
                for address in left.pop(0)
            ]

        monkeypatch.setattr(socket, "getaddrinfo", getaddrinfo)
        return names

    return install


@pytest.fixture
def internet(monkeypatch: pytest.MonkeyPatch) -> Callable[..., list[str]]:
    """Stands in for the way to the public internet: connections come out at a local port, unless their address is
    dead; returns the addresses as they are connected to."""

    def install(port: int, dead: tuple[str, ...] = ()) -> list[str]:
        connected: list[str] = []
        connect = anyio.connect_tcp

        async def redirected(remote_host: str, remote_port: int, **_: Any) -> anyio.abc.SocketStream:
            assert remote_port == 443
            connected.append(remote_host)
            if remote_host in dead:
                raise OSError("no route")
            return await connect("127.0.0.1", port)

        monkeypatch.setattr(anyio, "connect_tcp", redirected)
        return connected

    return install


def post(outbound: Outbound, url: str, body: bytes = b"{}") -> int:
    return asyncio.run(outbound.post(url, body, {"content-type": "application/json"}))


@pytest.fixture(scope="module")
def outbound() -> Outbound:
    """With one host allowed that no test calls. Reading the authorities takes a tenth of a second."""
    return Outbound(["elsewhere.internal:8000"])


@pytest.mark.parametrize("address", INSIDE)
def test_an_address_inside_is_not_public(address: str) -> None:
    assert not is_public(ip_address(address))


@pytest.mark.parametrize("address", [PUBLIC, "8.8.8.8", "2620:fe::fe", "64:ff9b::8.8.8.8", "2002:808:808::1"])
def test_an_address_of_the_internet_is_public(address: str) -> None:
    assert is_public(ip_address(address))


@pytest.mark.parametrize(
    ("url", "sentence"),
    [
        *((f"https://[{a}]/" if ":" in a else f"https://{a}/", "not a public address") for a in INSIDE if "%" not in a),
        ("https://[fe80::1%25eth0]/", "cannot be read"),
        *((f"https://{host}/", "cannot be read") for host in ("2130706433", "0x7f000001", "127.1", "0x7f.0.0.1")),
        *((f"https://{host}/", "cannot be read") for host in ("0177.0.0.1", "a..b", "-a.com", "a b.com", "a" * 64)),
        ("https://127.0.0.1./", "not a public address"),
        ("https://127\u30020\u30020\u30021/", "not a public address"),
        *((f"https://{host}:8000/", "local name") for host in ("localhost", "LOCALHOST.", "a.localhost", "redis")),
        ("https://metadata.google.internal/", "local name"),
        ("http://example.com/", "must begin with https"),
        ("ftp://example.com/", "must begin with https"),
        ("file:///etc/passwd", "must begin with https"),
        ("example.com", "must begin with https"),
        ("", "must begin with https"),
        ("https://", "cannot be read"),
        ("https:///path", "cannot be read"),
        ("https://[::1", "cannot be read"),
        ("https://example.com/\n", "cannot be read"),
        ("https://example.com/\ud800", "cannot be read"),
        ("https://me:hunter2@example.com/", "leave them out"),
        ("https://example.com@127.0.0.1/", "leave them out"),
        *((f"https://example.com:{port}/", "port must be") for port in (0, 22, 25, 80, 65536)),
        ("https://example.com/" + "a" * MAX_URL_CHARS, "use a shorter one"),
    ],
)  # fmt: skip
def test_what_the_text_shows_is_refused_when_a_request_is_accepted(url: str, sentence: str, outbound: Outbound) -> None:
    with pytest.raises(InvalidRequest, match=sentence) as refused:
        outbound.check_url(url, param="webhook_url")
    assert refused.value.param == "webhook_url"
    assert "hunter2" not in str(refused.value)
    with pytest.raises(Refused, match=sentence):
        post(outbound, url)


@pytest.mark.parametrize(
    "url",
    [
        "https://example.com",
        "https://EXAMPLE.com:8443/a?b=c#d",
        "https://b\u00fccher.example/",
        f"https://{PUBLIC}/",
        "https://[2620:fe::fe]/",
        "http://hooks.internal:8000/",
        "https://Hooks.Internal:8000/",
        "http://10.1.2.3:9/",
        "http://[fd00::1]:80/",
    ],
)
def test_the_public_and_the_allowed_are_accepted(url: str) -> None:
    Outbound(["hooks.internal:8000", "10.1.2.3", "[fd00:0::1]"]).check_url(url)


def test_an_entry_with_a_port_allows_no_other_port() -> None:
    with pytest.raises(InvalidRequest, match="not a public address"):
        Outbound(["127.0.0.1:8000"]).check_url("https://127.0.0.1:8001/")
    with pytest.raises(InvalidRequest, match="not a public address"):
        Outbound(["127.0.0.1:443"]).check_url("https://127.0.0.1:8001/")


@pytest.mark.parametrize("entry", ["", "https://a.com", "a.com/x", "me@a.com", "::1", "a.com:x", "10.0.0.0/8", "*.com"])
def test_an_entry_that_is_no_host_is_refused_at_the_start(entry: str) -> None:
    with pytest.raises(ConfigError):
        Outbound([entry])


def test_an_allowed_host_is_called_with_plain_http_once_looked_up(
    receiver: Receiver, resolve: Callable[..., list[str]]
) -> None:
    names = resolve(["127.0.0.1"])  # a second look-up would fail
    authority = f"hooks.internal:{receiver.port}"
    assert post(Outbound([authority]), f"http://{authority}/hook?a=b", b"[1]") == 200
    [received] = receiver.received
    assert (received.path, received.body) == ("/hook?a=b", b"[1]")
    assert received.headers["host"] == authority
    assert names == ["hooks.internal"]


@pytest.mark.parametrize("inside", INSIDE)
def test_a_name_with_one_address_inside_is_refused(
    inside: str, outbound: Outbound, resolve: Callable[..., list[str]], internet: Callable[..., list[str]]
) -> None:
    connected = internet(1)
    for answer in ([inside], [PUBLIC, inside], [inside, PUBLIC]):
        resolve(answer)
        with pytest.raises(Refused, match="not public") as refused:
            post(outbound, f"https://{NAME}/")
        assert inside not in str(refused.value)
    assert connected == []


def test_the_vetted_address_is_the_one_connected_to_and_the_name_the_one_proved(
    authority: ssl.SSLContext, resolve: Callable[..., list[str]], internet: Callable[..., list[str]]
) -> None:
    served: list[str | None] = []
    authority.sni_callback = lambda _socket, name, _context: served.append(name)
    with receive(authority) as receiver:
        outbound = Outbound()
        names, connected = resolve([PUBLIC], ["127.0.0.1"]), internet(receiver.port)
        assert post(outbound, f"https://{NAME}/hook") == 200
        assert (names, connected, served) == ([NAME], [PUBLIC], [NAME])
        assert receiver.received[0].headers["host"] == NAME
        with pytest.raises(Refused, match="not public"):  # the name has changed its mind
            post(outbound, f"https://{NAME}/hook")
        assert connected == [PUBLIC]
        assert len(receiver.received) == 1


def test_a_certificate_for_another_name_is_refused(
    authority: ssl.SSLContext, resolve: Callable[..., list[str]], internet: Callable[..., list[str]]
) -> None:
    with receive(authority) as receiver:
        resolve([PUBLIC])
        internet(receiver.port)
        with pytest.raises(Unreachable, match="certificate"):
            post(Outbound(), "https://other.example.com/hook")
        assert receiver.received == []


def test_the_next_address_is_tried_when_one_is_dead(
    authority: ssl.SSLContext, resolve: Callable[..., list[str]], internet: Callable[..., list[str]]
) -> None:
    with receive(authority) as receiver:
        resolve(["2620:fe::fe", PUBLIC])
        connected = internet(receiver.port, dead=("2620:fe::fe",))
        assert post(Outbound(), f"https://{NAME}/hook") == 200
        assert connected == ["2620:fe::fe", PUBLIC]
        assert len(receiver.received) == 1


def test_redirects_and_proxies_are_not_followed(receiver: Receiver, monkeypatch: pytest.MonkeyPatch) -> None:
    with receive() as other:
        for variable in ("HTTP_PROXY", "http_proxy", "ALL_PROXY", "all_proxy"):
            monkeypatch.setenv(variable, f"http://127.0.0.1:{other.port}")
        receiver.answers = [(307, {"location": other.url}, b"")]
        outbound = Outbound([f"127.0.0.1:{receiver.port}", f"127.0.0.1:{other.port}"])
        assert post(outbound, receiver.url) == 307
        with pytest.raises(Refused, match="answered 307"):
            asyncio.run(outbound.fetch(receiver.url, 100))
        assert len(receiver.received) == 2
        assert other.received == []


def test_a_body_of_the_bound_is_fetched_and_a_larger_one_is_not(receiver: Receiver) -> None:
    outbound = Outbound([f"127.0.0.1:{receiver.port}"])
    receiver.answers = [(200, {}, b"a" * 1000)]
    assert asyncio.run(outbound.fetch(receiver.url, 1000)) == b"a" * 1000
    for answer in (b"a" * 1001, b"a" * 10_000_000):
        receiver.answers = [(200, {}, answer)]
        with pytest.raises(Refused, match="more than 1000 bytes"):
            asyncio.run(outbound.fetch(receiver.url, 1000))
    receiver.answers = [(200, {"content-length": "1000"}, b"a" * 10)]
    with pytest.raises(Unreachable):
        asyncio.run(outbound.fetch(receiver.url, 1000))


def test_a_packed_body_is_not_unpacked(receiver: Receiver) -> None:
    receiver.answers = [(200, {"content-encoding": "gzip"}, b"anything")]
    with pytest.raises(Refused, match="compressed"):
        asyncio.run(Outbound([f"127.0.0.1:{receiver.port}"]).fetch(receiver.url, 1000))
    assert receiver.received[0].headers["accept-encoding"] == "identity"


def test_the_answer_to_a_post_is_its_status_however_its_body_goes(receiver: Receiver) -> None:
    receiver.answers = [(200, {"content-length": "1000"}, b"")]  # whoever reads this finds that it is cut off
    assert post(Outbound([f"127.0.0.1:{receiver.port}"]), receiver.url) == 200


def test_a_silent_host_is_given_up(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(outbound_module, "TOTAL_S", 0.2)
    with socket.create_server(("127.0.0.1", 0)) as silent:
        port = silent.getsockname()[1]
        with pytest.raises(Unreachable, match="did not answer"):
            post(Outbound([f"127.0.0.1:{port}"]), f"http://127.0.0.1:{port}/secret-path", b"secret-body")


def test_a_dead_host_is_unreachable_and_the_url_is_not_told() -> None:
    with socket.create_server(("127.0.0.1", 0)) as closed:
        port = closed.getsockname()[1]
    with pytest.raises(Unreachable) as raised:
        post(Outbound([f"127.0.0.1:{port}"]), f"http://127.0.0.1:{port}/secret-path", b"secret-body")
    assert "secret" not in str(raised.value)
    assert raised.value.__cause__ is None
    assert raised.value.__suppress_context__


def test_names_that_are_looked_up_for_ever_keep_no_other_waiting(
    receiver: Receiver, monkeypatch: pytest.MonkeyPatch, resolve: Callable[..., list[str]]
) -> None:
    resolve(["127.0.0.1"])
    look_up, over = socket.getaddrinfo, threading.Event()

    def slowly(host: str, *args: Any, **options: Any) -> Any:
        return over.wait(60) if host.startswith("slow") else look_up(host, *args, **options)

    monkeypatch.setattr(socket, "getaddrinfo", slowly)
    authority = f"hooks.internal:{receiver.port}"
    outbound = Outbound([authority])

    async def call() -> int:
        with monkeypatch.context() as impatient:
            impatient.setattr(outbound_module, "TOTAL_S", 0.2)
            slow = [outbound.post(f"https://slow{index}.example.com/", b"{}", {}) for index in range(AT_ONCE)]
            for result in await asyncio.gather(*slow, return_exceptions=True):
                assert isinstance(result, Unreachable)
        return await outbound.post(f"http://{authority}/", b"{}", {})

    try:
        assert asyncio.run(call()) == 200
    finally:
        over.set()


def test_an_unknown_name_is_unreachable(outbound: Outbound, monkeypatch: pytest.MonkeyPatch) -> None:
    def unknown(*_: object, **__: object) -> None:
        raise socket.gaierror(socket.EAI_NONAME, "unknown")

    monkeypatch.setattr(socket, "getaddrinfo", unknown)
    with pytest.raises(Unreachable, match="cannot be found"):
        post(outbound, f"https://{NAME}/")
