"""Documents from the web, fetched once and kept."""

import contextlib
import hashlib
import os
import re
import urllib.parse
from email.message import Message
from pathlib import Path

from nbutils.core import UserError, download_folder, progress, write_atomic
from nbutils.corpus.read import KNOWN, SUFFIXES, codec, is_html

CONTENT_TYPES = {
    "application/pdf": ".pdf",
    "text/plain": ".txt",
    "text/markdown": ".md",
    "text/html": ".html",
    "application/xhtml+xml": ".html",
    "application/vnd.openxmlformats-officedocument.wordprocessingml.document": ".docx",
}

_SHARE_PAGES = re.compile(
    r"//((drive|docs)\.google\.com|(www\.)?dropbox\.com|1drv\.ms|onedrive\.live\.com|[^/]+\.sharepoint\.com|([^/]+\.)?box\.com/s"
    r"|github\.com/[^/]+/[^/]+/blob|(www\.)?icloud\.com|we\.tl|wetransfer\.com)(/|$)",
    re.IGNORECASE,
)


def is_url(name: str | Path) -> bool:
    """Whether a name is an http(s) address."""
    return bool(re.match(r"https?://", str(name), re.IGNORECASE))


def local_copy(source: Path | str, folder: str | Path | None = None) -> Path | None:
    """Return the file itself, or what was downloaded from a URL before; None where nothing was."""
    if not is_url(source):
        return Path(source)
    folder = Path(folder or download_folder())
    names = (folder.glob(f"[!.]*-{url_hash(source)}{suffix}") for suffix in SUFFIXES)
    return next((path for paths in names for path in paths if path.is_file()), None)


def url_hash(url: str) -> str:
    """Return the digest that stands in the name of a downloaded file."""
    url = urllib.parse.urldefrag(url).url  # no server is told what follows the #
    return hashlib.sha256(url.encode("utf-8", "surrogatepass")).hexdigest()[:10]


def download(
    url: str,
    folder: str | Path | None = None,
    *,
    max_megabytes: float = 200,
    timeout: float = 30,
    retries: int = 3,
    backoff: float = 1.0,
) -> Path:
    """Fetch a document once; a later call returns the same file without the network.

    The environment variables HTTPS_PROXY, REQUESTS_CA_BUNDLE and NBUTILS_USER_AGENT count ("Name name@example.org":
    some servers want a contact).

    Args:
        url: an http(s) address of a PDF, TXT, MD, HTML or DOCX file.
        folder: where to keep it, under a name made of the address and its hash; default is `core.download_folder()`.
        max_megabytes: refuse larger files.
        timeout: seconds to wait for a connection, and for each piece of data.
        retries: further tries after a failure that may pass (no connection, status 408, 425, 429 or 5xx).
        backoff: seconds before the third try; doubles with each. Retry-After counts, up to a minute.

    Raises:
        UserError: it cannot be fetched, is too large, is not what the address says, or cannot be written.
    """
    folder = Path(folder or download_folder())
    if known := local_copy(url, folder):
        return known
    data, headers = _fetch(url, int(max_megabytes * 1e6), timeout, retries, backoff)
    suffix = _content_suffix(url, data, headers)
    if suffix not in (".pdf", ".docx"):
        data = _as_utf8(data, headers.get_content_charset("utf-8"))
    stem = re.sub(r"[^\w.-]+", "_", Path(urllib.parse.unquote(urllib.parse.urlsplit(url).path)).stem)[:60].strip("._")
    return write_atomic(folder / f"{stem or urllib.parse.urlsplit(url).hostname}-{url_hash(url)}{suffix}", data)


def _fetch(url: str, limit: int, timeout: float, retries: int, backoff: float) -> tuple[bytes, Message]:
    """Return the data of a document, and what the server says about its name and type."""
    import requests
    from requests.adapters import HTTPAdapter
    from urllib3.util import Retry

    again = (408, 425, 429, *range(500, 600))
    policy = Retry(
        retries, backoff_factor=backoff, backoff_max=60, retry_after_max=60, status_forcelist=again, raise_on_status=False
    )  # fmt: skip
    agent = os.environ.get("NBUTILS_USER_AGENT") or "nbutils"
    with requests.Session() as session:
        for scheme in ("https://", "http://"):
            session.mount(scheme, HTTPAdapter(max_retries=policy))
        for attempt in range(retries + 1):
            begun = False
            try:
                with session.get(url, stream=True, timeout=timeout, headers={"User-Agent": agent}) as response:
                    begun = True
                    headers = Message()
                    headers["Content-Type"] = response.headers.get("Content-Type", "application/octet-stream")
                    headers["Content-Disposition"] = response.headers.get("Content-Disposition", "")
                    return _body(response, url, limit), headers
            except OSError as error:  # requests' own errors are OSErrors too
                if not begun or attempt == retries:  # urllib3 has tried again unless the answer had begun
                    raise UserError(f"Cannot download {url}: {_trouble(error, timeout)}") from error


def _body(response, url: str, limit: int) -> bytes:
    if not response.ok:
        advice = "Check the address, or download it by hand and name the file."
        if response.status_code in (401, 403):
            advice = "Some servers want a contact: set NBUTILS_USER_AGENT='Your Name you@example.org'."
        raise UserError(f"Cannot download {url}: the server answers {response.status_code} {response.reason}. {advice}")
    length, data = response.headers.get("Content-Length", ""), bytearray()
    size = int(length) if length.isdecimal() else 0
    with progress(total=size or None, desc="Downloading", unit="B") as bar:
        for block in response.iter_content(1 << 16):
            data += block
            bar.update(len(block))
            if max(size, len(data)) > limit:
                raise UserError(f"{url} is larger than {limit / 1e6:g} MB. Download it by hand and name the file.")
    return bytes(data)


def _trouble(error: Exception, timeout: float) -> str:
    from requests import exceptions

    if isinstance(error, exceptions.ProxyError):
        return "the proxy does not answer. Check the environment variables HTTPS_PROXY and HTTP_PROXY."
    if isinstance(error, exceptions.SSLError):
        return "its certificate is not trusted. Name your organisation's certificates by REQUESTS_CA_BUNDLE."
    if not isinstance(error, exceptions.RequestException):  # there is no such file of certificates
        return f"{error}. Check the environment variable REQUESTS_CA_BUNDLE."
    if isinstance(error, exceptions.Timeout) or "Read timed out" in str(error):
        return f"no answer within {timeout:g} seconds. Try again later, or download it by hand and name the file."
    return "the connection failed. Check the address and the network, or download it by hand and name the file."


def _as_utf8(data: bytes, charset: str) -> bytes:
    """Return a text as UTF-8; unchanged where it is not in the encoding that the server names."""
    for encoding in ("utf-8", codec(charset)):
        with contextlib.suppress(UnicodeDecodeError, LookupError):
            return data.decode(encoding).encode()
    return data


def _content_suffix(url: str, data: bytes, headers: Message) -> str:
    """Return the suffix for what came, after making sure that it is what the address or the server says it is."""
    suffixes = [Path(name).suffix.lower() for name in (urllib.parse.urlsplit(url).path, headers.get_filename(""))]
    named = [suffix for suffix in suffixes if suffix in SUFFIXES]
    expected = next(iter(named), CONTENT_TYPES.get(headers.get_content_type()))
    expected = ".html" if expected == ".htm" else expected
    if not data:
        raise UserError(f"{url} sent an empty file. Check the address.")
    if b"%PDF-" in data[:1024]:
        return ".pdf"
    if data.startswith(b"PK\x03\x04"):
        found = ".docx" if expected == ".docx" else None
    elif is_html(data):
        found = ".html"
    else:
        found = expected if expected not in (".pdf", ".docx") else None
    if found == ".html" and _SHARE_PAGES.search(url):
        advice = "Name its direct download link, or download the file by hand and name that."
        raise UserError(f"{url} is a page that shows a document, not the document. {advice}")
    if found is None or found != (expected or found):
        what = "a web page" if found == ".html" else "something else"
        advice = "If it is a log-in or share page, open it in a browser, download the file by hand and name that."
        raise UserError(f"{url} sent {what}, not a {(expected or KNOWN).lstrip('.').upper()} file. {advice}")
    return found
