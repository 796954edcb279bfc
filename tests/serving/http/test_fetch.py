"""Image addresses, against real HTTPS servers on loopback: what is fetched, and what a stranger cannot reach by it."""

from __future__ import annotations

import asyncio
import gzip
from collections.abc import Iterator
from ipaddress import ip_address

import numpy as np
import pytest
from PIL import Image

from seglens.core.png_files import png_bytes
from seglens.data.image_decoding import ImageError, ImageTooLargeError
from seglens.serving.http.addresses import Address, FetchError, is_public
from seglens.serving.http.fetch import Fetcher, FetchLimits
from seglens.serving.limits import Limits
from serving.http.https import Authority, Site, drip, redirect, reply

PIXELS = np.random.default_rng(0).integers(0, 256, (7, 9, 3), dtype=np.uint8)
PNG = png_bytes(Image.fromarray(PIXELS))
LIMITS = Limits()
PUBLIC, SECRET = "127.0.0.1", "127.0.0.2"  # what the tests take for the open internet, and for our own network
QUICK = FetchLimits(total=20.0, step=10.0)


class Names:
    """A resolver: what each name leads to, look-up by look-up (the last answer stays)."""

    def __init__(self, **names: list[list[str]]):
        self.names = {name.replace("_", "."): answers for name, answers in names.items()}
        self.lookups: list[tuple[str, int]] = []

    async def __call__(self, host: str, port: int) -> list[str]:
        self.lookups.append((host, port))
        if host not in self.names:
            try:
                return [str(ip_address(host))]
            except ValueError:
                raise OSError(f"unknown {host}") from None
        answers = self.names[host]
        return answers.pop(0) if len(answers) > 1 else answers[0]


@pytest.fixture(scope="module")
def authority(tmp_path_factory: pytest.TempPathFactory) -> Authority:
    return Authority(tmp_path_factory.mktemp("authority"))


@pytest.fixture(scope="module")
def site(authority: Authority) -> Iterator[Site]:
    site = Site(authority.context("images.test", "other.test", "xn--bcher-kva.test", PUBLIC))
    yield site
    site.close()


@pytest.fixture(scope="module")
def secret(authority: Authority, site: Site) -> Iterator[Site]:
    """What must never be called: it proves every name, on the same port."""
    site = Site(authority.context("images.test", "secret.test", SECRET), SECRET, site.port)
    site.routes["/"] = site.routes["/a.png"] = reply(PNG)
    yield site
    site.close()


@pytest.fixture(autouse=True)
def fresh(site: Site) -> None:
    site.routes = {"/a.png": reply(PNG)}
    site.requests.clear()
    site.calls = 0


def _only_public(address: Address) -> bool:
    return address == ip_address(PUBLIC)


def fetcher(
    site: Site,
    authority: Authority,
    names: Names | None = None,
    limits: Limits = LIMITS,
    times: FetchLimits = QUICK,
) -> Fetcher:
    names = names or Names(images_test=[[PUBLIC]], other_test=[[PUBLIC]], secret_test=[[SECRET]])
    return Fetcher(limits, times, resolve=names, allowed=_only_public, ports=(site.port,), trust=authority.trust())


def get(by: Fetcher, url: str) -> np.ndarray:
    return asyncio.run(by.image(url))


# ---------------------------------------------------------------- what is fetched


def test_an_image_is_fetched_under_the_hosts_own_name(site: Site, authority: Authority) -> None:
    names = Names(images_test=[[PUBLIC]])
    assert (get(fetcher(site, authority, names), f"https://Images.test:{site.port}/a.png#part") == PIXELS).all()
    assert names.lookups == [("images.test", site.port)]  # once
    (request,) = site.requests
    assert request.sni == "images.test"
    assert request.headers["host"] == f"images.test:{site.port}"
    assert request.headers["accept-encoding"] == "identity"
    assert not {"cookie", "authorization", "referer"} & set(request.headers)


def test_an_international_host_name_is_resolved_in_ascii(site: Site, authority: Authority) -> None:
    names = Names(**{"xn--bcher-kva_test": [[PUBLIC]]})
    assert (get(fetcher(site, authority, names), f"https://bücher.test:{site.port}/a.png") == PIXELS).all()
    assert site.requests[0].sni == "xn--bcher-kva.test"


def test_an_allowed_address_may_be_given_as_a_number(site: Site, authority: Authority) -> None:
    assert (get(fetcher(site, authority), f"https://{PUBLIC}:{site.port}/a.png") == PIXELS).all()


@pytest.mark.parametrize("kind", ["image/jpeg; q=1", "", "application/octet-stream", "binary/octet-stream"])
def test_the_bytes_decide_which_image_it_is(site: Site, authority: Authority, kind: str) -> None:
    site.routes["/a.png"] = reply(PNG, kind)
    assert (get(fetcher(site, authority), f"https://images.test:{site.port}/a.png") == PIXELS).all()


def test_of_several_addresses_one_may_be_down(site: Site, authority: Authority) -> None:
    names = Names(images_test=[["127.0.0.3", PUBLIC]])  # no server listens on the first
    by = Fetcher(LIMITS, QUICK, resolve=names, allowed=lambda _: True, ports=(site.port,), trust=authority.trust())
    assert (get(by, f"https://images.test:{site.port}/a.png") == PIXELS).all()


def test_no_proxy_of_the_environment_is_used(site: Site, authority: Authority, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("HTTPS_PROXY", "https_proxy", "ALL_PROXY"):
        monkeypatch.setenv(name, "http://127.0.0.9:9")
    assert (get(fetcher(site, authority), f"https://images.test:{site.port}/a.png") == PIXELS).all()


# ---------------------------------------------------------------- what is not called

NEAR = """
127.0.0.1 127.255.0.1 0.0.0.0 10.1.2.3 172.16.0.1 192.168.1.1 169.254.169.254 100.64.0.1 100.100.100.200 192.0.0.192
192.88.99.1 192.0.2.1 198.18.0.1 198.51.100.1 203.0.113.1 224.0.0.1 239.1.1.1 240.0.0.1 255.255.255.255 168.63.129.16
:: ::1 ::127.0.0.1 ::ffff:127.0.0.1 ::ffff:8.8.8.8 64:ff9b::7f00:1 64:ff9b::808:808 64:ff9b:1::1 100::1
2001::1 2001:0:4136:e378:8000:63bf:3fff:fdd2 2001:2::1 2001:db8::1 2002:7f00:1:: 2002:808:808::1 3fff::1
fc00::1 fd00:ec2::254 fe80::1 fec0::1 ff02::1 5f00::1 4000::1
"""
FAR = """
8.8.8.8 1.1.1.1 93.184.215.14 100.63.255.255 172.32.0.1 2606:4700:4700::1111 2a00:1450:4001:82a::200e
"""


@pytest.fixture(scope="module")
def real() -> Fetcher:
    """As it is in production."""
    return Fetcher(LIMITS)


@pytest.mark.parametrize("text", NEAR.split())
def test_addresses_that_are_not_public_are_never_fetched(real: Fetcher, text: str) -> None:
    assert not is_public(ip_address(text))
    host = f"[{text}]" if ":" in text else text
    with pytest.raises(FetchError, match="does not lead to the public internet"):
        get(real, f"https://{host}/a.png")


@pytest.mark.parametrize("text", FAR.split())
def test_public_addresses_may_be_fetched(text: str) -> None:
    assert is_public(ip_address(text))


@pytest.mark.parametrize("host", ["localhost", "localhost."])
def test_names_of_this_machine_are_not_fetched(real: Fetcher, host: str) -> None:
    with pytest.raises(FetchError, match="does not lead to the public internet"):
        get(real, f"https://{host}/a.png")


@pytest.mark.parametrize(
    ("url", "message"),
    [
        ("http://images.test/a.png", "begins with https://"),
        ("ftp://images.test/a.png", "begins with https://"),
        ("file:///etc/passwd", "begins with https://"),
        ("//images.test/a.png", "begins with https://"),
        ("https:///a.png", "begins with https://"),
        ("a.png", "begins with https://"),
        ("", "begins with https://"),
        ("https://me:pass@images.test/a.png", "name or password"),
        ("https://images.test@127.0.0.1/a.png", "name or password"),
        ("https://images.test\\@127.0.0.1/a.png", "name or password"),
        ("https://2130706433/", "another notation"),
        ("https://0x7f.0.0.1/", "another notation"),
        ("https://0x7f000001/", "another notation"),
        ("https://127.1/", "another notation"),
        ("https://0177.0.0.1/", "not an address"),
        ("https://１２７.0.0.1/", "not an address"),
        ("https://images.test/\r\nHost: other", "not an address"),
        ("https://images.test/\x00", "not an address"),
        ("https://[::1/", "not an address"),
        ("https://images .test/", "begins with https://"),
        ("https://images%2etest/", "begins with https://"),
        ("https://images.test:8443/a.png", "has port 8443"),
        ("https://images.test:22/a.png", "has port 22"),
        ("https://images.test:99999999/a.png", "has port 99999999"),
        ("https://nobody.test/a.png", "no host of that name"),
        ("https://images.test/" + "a" * 5000, "need an address of at most 4096"),
    ],
)
def test_odd_addresses_are_refused_in_one_short_line(authority: Authority, url: str, message: str) -> None:
    names = Names(images_test=[["8.8.8.8"]])
    trust = authority.trust()
    with pytest.raises(FetchError, match=message) as caught:
        get(Fetcher(LIMITS, resolve=names, trust=trust), url)
    assert "\n" not in str(caught.value)
    assert "pass" not in str(caught.value).replace("password", "").replace("etc/passwd", "")
    assert len(str(caught.value)) < 300


@pytest.mark.parametrize("answers", [[SECRET], [PUBLIC, SECRET], ["::ffff:127.0.0.1"], ["fe80::1%eth0"], []])
def test_a_host_with_one_forbidden_address_is_not_fetched_at_all(
    site: Site, secret: Site, authority: Authority, answers: list[str]
) -> None:
    by = fetcher(site, authority, Names(images_test=[answers]))
    with pytest.raises(FetchError, match="does not lead to the public internet") as caught:
        get(by, f"https://images.test:{site.port}/a.png")
    assert SECRET not in str(caught.value)  # no client learns what our names lead to
    assert site.calls == secret.calls == 0


def test_a_host_whose_address_changes_is_fetched_at_the_address_that_was_checked(
    site: Site, secret: Site, authority: Authority
) -> None:
    """DNS rebinding: the first look-up is innocent, every later one leads into our own network."""
    names = Names(images_test=[[PUBLIC], [SECRET]])
    assert (get(fetcher(site, authority, names), f"https://images.test:{site.port}/a.png") == PIXELS).all()
    names = Names(images_test=[[PUBLIC], [SECRET]])
    site.routes["/again"] = redirect("/a.png")
    with pytest.raises(FetchError, match="does not lead to the public internet"):
        get(fetcher(site, authority, names), f"https://images.test:{site.port}/again")
    assert (site.calls, secret.calls) == (2, 0)


def test_a_host_without_a_valid_certificate_is_refused(site: Site, authority: Authority) -> None:
    names = Names(elsewhere_test=[[PUBLIC]], images_test=[[PUBLIC]])
    with pytest.raises(FetchError, match=r"CERTIFICATE_VERIFY_FAILED|certificate"):
        get(fetcher(site, authority, names), f"https://elsewhere.test:{site.port}/a.png")
    stranger = Fetcher(LIMITS, QUICK, resolve=names, allowed=_only_public, ports=(site.port,))
    with pytest.raises(FetchError, match=r"CERTIFICATE_VERIFY_FAILED|certificate"):
        get(stranger, f"https://images.test:{site.port}/a.png")
    assert site.requests == []


# ---------------------------------------------------------------- redirects


@pytest.mark.parametrize("status", ["301 Moved", "302 Found", "303 See Other", "307 Temporary", "308 Permanent"])
def test_a_redirect_is_followed_by_name(site: Site, authority: Authority, status: str) -> None:
    site.routes["/old"] = redirect(f"https://other.test:{site.port}/a.png", status)
    assert (get(fetcher(site, authority), f"https://images.test:{site.port}/old") == PIXELS).all()
    assert [request.sni for request in site.requests] == ["images.test", "other.test"]


def test_three_redirects_are_followed_and_a_fourth_is_not(site: Site, authority: Authority) -> None:
    site.routes.update({f"/{n}": redirect(f"/{n - 1}") for n in range(1, 5)} | {"/0": reply(PNG)})
    assert (get(fetcher(site, authority), f"https://images.test:{site.port}/3") == PIXELS).all()
    with pytest.raises(FetchError, match="redirects more than 3 times"):
        get(fetcher(site, authority), f"https://images.test:{site.port}/4")
    site.routes["/round"] = redirect("/round")
    with pytest.raises(FetchError, match="redirects more than 3 times"):
        get(fetcher(site, authority), f"https://images.test:{site.port}/round")


@pytest.mark.parametrize(
    ("to", "message"),
    [
        ("https://secret.test:{port}/", "does not lead to the public internet"),
        ("https://127.0.0.2:{port}/", "does not lead to the public internet"),
        ("https://[::ffff:127.0.0.2]:{port}/", "does not lead to the public internet"),
        ("https://2130706434:{port}/", "another notation"),
        ("//secret.test:{port}/", "does not lead to the public internet"),
        ("http://images.test:{port}/a.png", "redirects.*begins with https://"),
        ("file:///etc/passwd", "redirects.*begins with https://"),
        ("https://me:pass@images.test:{port}/a.png", "name or password"),
        ("https://images.test:1/a.png", "has port 1"),
        ("https://[", "redirects"),
    ],
)
def test_a_redirect_is_checked_as_strictly_as_the_first_address(
    site: Site, secret: Site, authority: Authority, to: str, message: str
) -> None:
    site.routes["/old"] = redirect(to.format(port=site.port))
    with pytest.raises(FetchError, match=message):
        get(fetcher(site, authority), f"https://images.test:{site.port}/old")
    assert (site.calls, secret.calls) == (1, 0)


# ---------------------------------------------------------------- limits on bytes and time

SHORT, RESTLESS = FetchLimits(total=1.0, step=30.0), FetchLimits(total=30.0, step=1.0)
HEAD = b"HTTP/1.1 200 OK\r\nContent-Type: image/png\r\n"
CHUNK = b"10000\r\n" + bytes(0x10000) + b"\r\n"


@pytest.mark.parametrize(
    "answer",
    [
        reply(bytes(3 * 10**6)),
        reply(b"", Content_Length=str(10**15)),
        drip(HEAD + b"Transfer-Encoding: chunked\r\n\r\n", CHUNK, 0),
        drip(HEAD + b"\r\n", bytes(0x10000), 0),  # no length at all: until the connection ends
    ],
)
def test_reading_stops_after_too_many_bytes(site: Site, authority: Authority, answer) -> None:
    site.routes["/a.png"] = answer
    with pytest.raises(ImageTooLargeError, match="more than 1000000 bytes"):
        get(fetcher(site, authority, limits=Limits(image_bytes=10**6)), f"https://images.test:{site.port}/a.png")


def test_exactly_the_limit_is_accepted(site: Site, authority: Authority) -> None:
    by = fetcher(site, authority, limits=Limits(image_bytes=len(PNG)))
    assert (get(by, f"https://images.test:{site.port}/a.png") == PIXELS).all()


def test_compressed_data_is_refused_without_reading_it(site: Site, authority: Authority) -> None:
    site.routes["/a.png"] = reply(gzip.compress(bytes(10**7)), Content_Encoding="gzip")
    with pytest.raises(FetchError, match="compressed data"):
        get(fetcher(site, authority), f"https://images.test:{site.port}/a.png")


@pytest.mark.parametrize(
    ("answer", "times", "message"),
    [
        (drip(HEAD + b"Content-Length: 100000\r\n\r\n", b"x", 0.05), SHORT, "took longer than 1 s"),
        (drip(b"HTTP/1.1 200 OK\r\n", b"X: y\r\n", 0.05), SHORT, "took longer than 1 s"),
        (drip(HEAD + b"Content-Length: 100000\r\n\r\n", b"x", 60), RESTLESS, "sent nothing for 1 s"),
        (drip(b"", b"", 60), RESTLESS, "sent nothing for 1 s"),
    ],
)
def test_slow_servers_are_given_up(site: Site, authority: Authority, answer, times: FetchLimits, message: str) -> None:
    site.routes["/a.png"] = answer
    with pytest.raises(FetchError, match=message):
        get(fetcher(site, authority, times=times), f"https://images.test:{site.port}/a.png")


@pytest.mark.parametrize(
    ("answer", "message"),
    [
        (reply(b"<html>", "text/html"), "is no image but 'text/html'"),
        (reply(b'{"key": 1}', "application/json"), "is no image but 'application/json'"),
        (reply(PNG, "text/plain"), "is no image but 'text/plain'"),
        (reply(b"{}", "image/png"), "is not an image"),
        (reply(PNG[:60]), "cut short or damaged"),
        (reply(PNG, Content_Length=str(len(PNG) - 30)), "cut short or damaged"),
        (reply(PNG, Content_Length=str(len(PNG) + 30)), "cannot be fetched"),
        (reply(PNG, Content_Length="9" * 5000), "cannot be fetched"),
        (reply(PNG, Content_Length="many"), "cannot be fetched"),
        (reply(PNG, status="404 Not Found"), "status 404"),
        (reply(PNG, status="206 Partial Content"), "status 206"),
        (reply(PNG, status="304 Not Modified"), "status 304"),
        (drip(b"SSH-2.0-OpenSSH_9.6\r\n", b"", 0, 1), "cannot be fetched"),
        (drip(b"HTTP/1.1 200 OK\r\nX: " + b"y" * 300_000, b"", 0, 1), "cannot be fetched"),
        (drip(b"", b"", 0, 0), "cannot be fetched"),
    ],
)
def test_what_is_no_image_is_refused(site: Site, authority: Authority, answer, message: str) -> None:
    site.routes["/a.png"] = answer
    with pytest.raises(ImageError, match=message) as caught:
        get(fetcher(site, authority), f"https://images.test:{site.port}/a.png")
    assert "\n" not in str(caught.value)


def test_many_at_once_do_not_share_a_connection(site: Site, authority: Authority) -> None:
    """Names that share an address must each be proved."""

    async def all_of() -> list[np.ndarray]:
        by = fetcher(site, authority)
        return await asyncio.gather(*(by.image(f"https://{n}.test:{site.port}/a.png") for n in ("images", "other") * 4))

    assert all((image == PIXELS).all() for image in asyncio.run(all_of()))
    assert sorted(request.sni or "" for request in site.requests) == ["images.test"] * 4 + ["other.test"] * 4
