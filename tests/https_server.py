"""An https server of this machine with a certificate of its own, for tests."""

import contextlib
import dataclasses
import datetime
import http.server
import ipaddress
import pathlib
import ssl
import threading
import time
from collections.abc import Iterator

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec


@dataclasses.dataclass
class Answer:
  """An answer of the server; `claimed` is the length it says the content has, None for the true one."""

  content: bytes = b""
  status: int = 200
  headers: dict[str, str] = dataclasses.field(default_factory=dict)
  claimed: int | None = None
  delay: float = 0.0  # Seconds.


@dataclasses.dataclass
class Server:
  """A running server: its address, its certificate, its answers by path, and the paths it was asked for."""

  address: str
  certificate: pathlib.Path
  answers: dict[str, Answer] = dataclasses.field(default_factory=dict)
  asked: list[str] = dataclasses.field(default_factory=list)


@contextlib.contextmanager
def serve(folder: pathlib.Path) -> Iterator[Server]:
  """Runs a server on a free port; its certificate and key are written into a folder."""

  class Handler(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
      server.asked.append(self.path)
      answer = server.answers.get(self.path, Answer(status=404))
      time.sleep(answer.delay)
      with contextlib.suppress(OSError):  # The client may have hung up.
        self.send_response(answer.status)
        self.send_header("Content-Length", str(len(answer.content) if answer.claimed is None else answer.claimed))
        for name, value in answer.headers.items():
          self.send_header(name, value)
        self.end_headers()
        self.wfile.write(answer.content)

    def log_message(self, *_):
      pass

  certificate, key = _write_certificate(folder)
  context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
  context.load_cert_chain(certificate, key)
  listener = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
  listener.daemon_threads = True
  listener.handle_error = lambda *_: None  # Of clients that do not trust the certificate.
  listener.socket = context.wrap_socket(listener.socket, server_side=True, do_handshake_on_connect=False)
  server = Server(f"https://127.0.0.1:{listener.server_port}", certificate)
  thread = threading.Thread(target=listener.serve_forever, kwargs={"poll_interval": 0.05})
  thread.start()
  try:
    yield server
  finally:
    listener.shutdown()
    thread.join()
    listener.server_close()


def _write_certificate(folder: pathlib.Path) -> tuple[pathlib.Path, pathlib.Path]:
  """Writes a certificate of 127.0.0.1, signed by itself, and its key; returns their paths."""
  key = ec.generate_private_key(ec.SECP256R1())
  name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "gcn_flax tests")])
  now = datetime.datetime.now(datetime.UTC)
  certificate = (
    x509.CertificateBuilder()
    .subject_name(name)
    .issuer_name(name)
    .public_key(key.public_key())
    .serial_number(x509.random_serial_number())
    .not_valid_before(now - datetime.timedelta(days=1))
    .not_valid_after(now + datetime.timedelta(days=1))
    .add_extension(x509.SubjectAlternativeName([x509.IPAddress(ipaddress.ip_address("127.0.0.1"))]), critical=False)
    .add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
    .sign(key, hashes.SHA256())
  )
  paths = folder / "certificate.pem", folder / "key.pem"
  paths[0].write_bytes(certificate.public_bytes(serialization.Encoding.PEM))
  paths[1].write_bytes(
    key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
  )
  return paths
