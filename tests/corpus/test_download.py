"""Documents from the web, from a real server."""

import http.server
import re
import threading

import pytest
from documents import draw_docx, draw_pdf

from nbutils.core import UserError
from nbutils.corpus.chunks import load_corpus
from nbutils.corpus.download import download
from nbutils.corpus.files import check_disjoint


class Server(http.server.BaseHTTPRequestHandler):
    PDF = draw_pdf("A downloaded report")

    def do_GET(self):
        path = self.path.partition("?")[0]
        self.server.asked.append(path)
        times = self.server.asked.count(path)
        if path == "/flaky.pdf" and times < 3:
            return self.answer(b"busy", status=503)
        if path == "/short.pdf":
            self.send_response(200)
            self.send_header("Content-Length", str(len(self.PDF)))
            self.end_headers()
            self.wfile.write(self.PDF[:500])
            return None
        if path == "/hang.pdf":
            self.server.stopping.wait(5)
            return None
        if path == "/endless.pdf":
            self.send_response(200)
            self.end_headers()
            for _ in range(2000):
                self.wfile.write(b"%PDF-" + b"x" * 10_000)
            return None
        if path == "/odd_length.pdf":
            self.send_response(200)
            self.send_header("Content-Length", "abc")
            self.end_headers()
            self.wfile.write(self.PDF)
            return None
        pages = {
            "/report.pdf": (self.PDF, "application/pdf"),
            "/flaky.pdf": (self.PDF, "application/octet-stream"),
            "/download": (self.PDF, "application/pdf"),
            "/notes.txt": (b"Some notes", "text/plain"),
            "/page": (b"<html><p>A web page</p></html>", "text/html; charset=utf-8"),
            "http://drive.google.com/file/d/1/view": (b"<!DOCTYPE html><html>Viewer</html>", "text/html"),
            "/login.pdf": (b"<!DOCTYPE html><html>Log in</html>", "text/html"),
            "/login.txt": (b"<!DOCTYPE html><html>Log in</html>", "text/html"),
            "/word.docx": (draw_docx("A letter"), "application/octet-stream"),
            "/image.png": (b"\x89PNG", "image/png"),
            "/empty.pdf": (b"", "application/pdf"),
            "/typed/wrongly": (self.PDF, "text/html"),
            "/latin2": ("<html><p>Příliš žluťoučký kůň".encode("iso-8859-2"), "text/html; charset=ISO-8859-2"),
            "/utf8": ("<html><p>Příliš žluťoučký kůň".encode(), "text/html; charset=ISO-8859-1"),
        }
        named = {
            "/through/proxy.pdf": (self.PDF, "application/pdf", 203),
            "/files/17": (b"# Fares", "application/octet-stream", 200, 'attachment; filename="fares.md"'),
            "/files/18": (draw_docx("A letter"), "application/zip", 200, "attachment; filename*=UTF-8''f%C3%A9.docx"),
        }
        if path in pages | named:
            return self.answer(*(pages | named)[path])
        return self.answer(b"<html>nothing here</html>", "text/html", 404)

    def answer(self, body, content_type="text/plain", status=200, disposition="inline"):
        self.send_response(status)
        self.send_header("content-type", content_type)
        self.send_header("Content-Disposition", disposition)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_):
        pass


@pytest.fixture
def server(monkeypatch):
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Server) as server:
        server.asked, server.stopping = [], threading.Event()
        server.handle_error = lambda *_: None
        server.url = f"http://127.0.0.1:{server.server_port}"
        threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True).start()
        yield server
        server.stopping.set()
        server.shutdown()


def test_download_once(server, tmp_path):
    url = f"{server.url}/report.pdf"
    nodes = load_corpus([url], download_folder=tmp_path)
    assert [node.text for node in nodes] == ["A downloaded report"]
    assert load_corpus(url, download_folder=tmp_path) == nodes
    assert server.asked == ["/report.pdf"]
    assert re.fullmatch(r"report-\w{10}\.pdf", nodes[0].metadata["file_name"])
    assert [path.name for path in tmp_path.iterdir()] == [nodes[0].metadata["file_name"]]
    other = download(f"{url}?version=2", tmp_path)
    assert other.name != nodes[0].metadata["file_name"] and len(server.asked) == 2


def test_downloads_count_for_check_disjoint(server, tmp_path):
    url = f"{server.url}/report.pdf"
    check_disjoint(url, f"{url}?again", download_folder=tmp_path)
    load_corpus([url, f"{url}?again"], download_folder=tmp_path)
    with pytest.raises(UserError, match=re.escape(f"{url} and {url}?again")):
        check_disjoint(url, f"{url}?again", download_folder=tmp_path)


@pytest.mark.parametrize(
    ("path", "suffix"),
    [
        ("download", ".pdf"),
        ("page", ".html"),
        ("notes.txt", ".txt"),
        ("word.docx", ".docx"),
        ("files/17", ".md"),
        ("files/18", ".docx"),
        ("typed/wrongly", ".pdf"),
        ("through/proxy.pdf", ".pdf"),
        ("odd_length.pdf", ".pdf"),
    ],
)
def test_download_names_what_came(server, tmp_path, path, suffix):
    file = download(f"{server.url}/{path}", tmp_path)
    assert file.suffix == suffix and load_corpus(file)
    assert download(f"{server.url}/{path}", tmp_path) == file and len(server.asked) == 1


def test_download_tries_again(server, tmp_path):
    assert download(f"{server.url}/flaky.pdf", tmp_path, backoff=0.01).read_bytes() == Server.PDF
    assert len(server.asked) == 3


@pytest.mark.parametrize(
    ("path", "says", "requests"),
    [
        ("missing.pdf", "the server answers 404 Not Found. Check the address", 1),
        ("short.pdf", "the connection failed", 2),
        ("flaky.pdf", "the server answers 503", 2),
        ("hang.pdf", "no answer within 0.3 seconds", 2),
        ("login.pdf", "sent a web page, not a PDF file", 1),
        ("login.txt", "sent a web page, not a TXT file", 1),
        ("image.png", "sent something else, not a PDF, TXT, MD, HTML OR DOCX file", 1),
        ("empty.pdf", "sent an empty file", 1),
        ("report.pdf", "is larger than 0.001 MB. Download it by hand", 1),
        ("endless.pdf", "is larger than 0.001 MB", 1),
    ],
)
def test_a_failed_download_leaves_nothing(server, tmp_path, path, says, requests):
    limit = 0.001 if "0.001" in says else 1
    with pytest.raises(UserError, match=re.escape(says)) as error:
        download(f"{server.url}/{path}", tmp_path, max_megabytes=limit, timeout=0.3, retries=1, backoff=0.01)
    assert f"{server.url}/{path}" in str(error.value)
    assert not list(tmp_path.iterdir())
    assert len(server.asked) == requests


def test_a_share_page_is_not_taken_for_the_document(server, tmp_path, monkeypatch):
    monkeypatch.setenv("HTTP_PROXY", server.url)
    monkeypatch.setenv("http_proxy", server.url)
    with pytest.raises(UserError, match="a page that shows a document"):
        download("http://drive.google.com/file/d/1/view", tmp_path)
    assert server.asked == ["http://drive.google.com/file/d/1/view"] and not list(tmp_path.iterdir())


def test_certificates_that_are_not_there_name_the_variable(tmp_path, monkeypatch):
    monkeypatch.setenv("REQUESTS_CA_BUNDLE", str(tmp_path / "gone.pem"))
    with pytest.raises(UserError, match=r"gone\.pem.*REQUESTS_CA_BUNDLE"):
        download("https://127.0.0.1:9/a.pdf", tmp_path, retries=0)


def test_unreachable_server(tmp_path):
    with pytest.raises(UserError, match=r"Cannot download .*/a\.pdf: the connection failed"):
        download("http://127.0.0.1:9/a.pdf", tmp_path, retries=1, backoff=0.01)
    with pytest.raises(UserError, match="Cannot download http://"):
        download("http://:80/a.pdf", tmp_path, retries=0)


@pytest.mark.parametrize("path", ["latin2", "utf8"])
def test_the_encoding_that_the_server_names_is_kept_unless_it_is_wrong(server, tmp_path, path):
    assert load_corpus(f"{server.url}/{path}", download_folder=tmp_path)[0].text == "Příliš žluťoučký kůň"
