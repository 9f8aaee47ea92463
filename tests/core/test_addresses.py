"""Which URLs and addresses are of the public internet."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tollbridge.core.addresses import BadUrl, Place, client_address, is_public, place

NOT_PUBLIC = [
    *("127.0.0.1", "127.255.255.254", "0.0.0.0", "0.1.2.3", "10.0.0.1", "10.255.255.255", "172.16.0.1", "172.31.9.9"),
    *("192.168.0.1", "169.254.169.254", "169.254.170.2", "100.64.0.1", "100.100.100.200", "192.0.0.192", "192.0.0.1"),
    *("192.0.2.7", "198.18.0.1", "198.19.255.1", "198.51.100.7", "203.0.113.7", "224.0.0.1", "239.1.1.1", "240.0.0.1"),
    *("255.255.255.255", "192.88.99.1", "168.63.129.16", "192.31.196.1", "192.52.193.1", "192.175.48.1"),
    *("::", "::1", "fe80::1", "fe80::1%eth0", "fc00::1", "fd00:ec2::254", "fd12::1", "ff02::1", "fec0::1", "100::1"),
    *("::ffff:127.0.0.1", "::ffff:10.0.0.1", "::ffff:169.254.169.254", "::ffff:a9fe:a9fe", "::127.0.0.1"),
    *("64:ff9b::7f00:1", "64:ff9b::a9fe:a9fe", "64:ff9b:1::1", "2002:7f00:1::", "2002:a00:1::1", "2001::1"),
    *("2001:0:4136:e378:8000:63bf:3fff:fdd2", "2001:10::1", "2001:db8::1", "3fff::1", "5f00::1", "4000::1"),
    *("", "localhost", "1.2.3", "01.2.3.4", "1.2.3.4.5", "::g", "2001:4860:4860::8888%1"),
]
PUBLIC = [
    *("1.1.1.1", "8.8.8.8", "93.184.216.34", "172.15.0.1", "172.32.0.1", "100.63.0.1", "100.128.0.1", "192.0.1.1"),
    *("2606:4700:4700::1111", "2001:4860:4860::8888", "2a00:1450:4001::1", "64:ff9b::808:808", "::ffff:8.8.8.8"),
]


@pytest.mark.parametrize("address", NOT_PUBLIC)
def test_what_is_not_of_the_internet_is_not_public(address: str) -> None:
    assert not is_public(address)


@pytest.mark.parametrize("address", PUBLIC)
def test_what_is_of_the_internet_is_public(address: str) -> None:
    assert is_public(address)


@pytest.mark.parametrize(
    ("url", "secure", "host", "port", "target"),
    [
        ("https://example.com/a.png", True, "example.com", 443, b"/a.png"),
        ("HTTP://EXAMPLE.com.", False, "example.com", 80, b"/"),
        ("https://example.com:443?x=1#there", True, "example.com", 443, b"/?x=1"),
        ("http://example.com:443/", False, "example.com", 443, b"/"),
        ("https://bücher.example/ü?q=ö%20", True, "xn--bcher-kva.example", 443, b"/%C3%BC?q=%C3%B6%20"),
        ("https://93.184.216.34/x", True, "93.184.216.34", 443, b"/x"),
        ("https://[2606:4700::1]/x", True, "2606:4700::1", 443, b"/x"),
        ("https://a_b.example/x", True, "a_b.example", 443, b"/x"),
        ("https://１.１.１.１/", True, "1.1.1.1", 443, b"/"),
    ],
)
def test_url_is_read(url: str, secure: bool, host: str, port: int, target: bytes) -> None:
    found = place(url)
    assert found == Place(secure, host, port, target)
    assert place(found.origin + found.target.decode()) == found


@pytest.mark.parametrize(
    "url",
    [
        *("", "example.com", "//example.com/x", "ftp://example.com/x", "file:///etc/passwd", "gopher://x/", "data:,x"),
        *("javascript:alert(1)", "http:/example.com", "http://", "https:///x", "http://?x", "http://:80/"),
        *("http://user@example.com/", "http://user:pw@example.com/", "http://example.com@127.0.0.1/", "http://@x.com/"),
        *("http://example.com:8080/", "http://example.com:22/", "http://example.com:0/", "http://example.com:99999/"),
        *("http://example.com:x/", "http://exa mple.com/", "http://example.com/ x", "http://example.com\\@127.0.0.1/"),
        *("http://example.com\t/", "http://example.com\r\nHost: x/", "http://exam\x00ple.com/", " http://example.com/"),
        *("http://2130706433/", "http://0x7f000001/", "http://017700000001/", "http://127.1/", "http://0177.0.0.1/"),
        *("http://0x7f.0.0.1/", "http://127.0.0.01/", "http://1.2.3.4.5/", "http://256.1.1.1/", "http://1.2.3/"),
        *("http://[::1", "http://[::g]/", "http://[fe80::1%25eth0]/", "http://[1.2.3.4]/", "http://%31%32%37.0.0.1/"),
        *(
            "http://-a.com/",
            "http://a-.com/",
            "http://a..com/",
            "http://" + "a" * 64 + ".com/",
            f"http://a.com/{5000 * 'x'}",
        ),
        *("http://" + "a." * 130 + "com/", "http://exämple\u2028.com/", "http://[::ffff:127.0.0.1%1]/"),
    ],
)
def test_url_that_could_mislead_is_refused(url: str) -> None:
    with pytest.raises(BadUrl):
        place(url)


@given(st.text(max_size=60))
def test_any_text_is_a_place_or_refused(text: str) -> None:
    for url in (text, f"http://{text}", f"https://{text}/x"):
        try:
            found = place(url)
        except BadUrl:
            continue
        assert found.port in (80, 443)
        assert found.target.startswith(b"/")
        assert not set(found.target) & set(b"\r\n\t \\")
        assert place(found.origin).host == found.host


@given(st.ip_addresses())
def test_any_address_has_an_answer(address: object) -> None:
    assert is_public(str(address)) in (True, False)


@given(st.ip_addresses(v=4))
def test_mapped_address_is_judged_as_what_it_carries(address: object) -> None:
    assert is_public(f"::ffff:{address}") == is_public(str(address))


@pytest.mark.parametrize(
    ("forwarded", "trusted", "found"),
    [
        ("203.0.113.9", (), "10.1.2.3"),
        ("203.0.113.9", ("10.1.2.3",), "203.0.113.9"),
        ("203.0.113.9", ("10.1.0.0/16",), "203.0.113.9"),
        ("203.0.113.9", ("10.2.0.0/16", "10.1.2.4"), "10.1.2.3"),
        ("1.2.3.4, 203.0.113.9, 10.1.9.9", ("10.1.0.0/16",), "203.0.113.9"),
        ("2001:db8::1", ("10.1.0.0/16", "fd00::/8"), "2001:db8::1"),
        ("made up", ("10.1.0.0/16",), "10.1.2.3"),
        ("", ("10.1.0.0/16",), "10.1.2.3"),
    ],
)
def test_who_calls_is_what_the_last_trusted_proxy_says(forwarded: str, trusted: tuple[str, ...], found: str) -> None:
    assert client_address("10.1.2.3", forwarded, trusted) == found
