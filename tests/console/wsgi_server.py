"""``python -m tests.console.wsgi_server PORT NAME``: Python's own WSGI server, which threads each request."""

from __future__ import annotations

import importlib
import sys
from socketserver import ThreadingMixIn
from wsgiref.simple_server import WSGIServer, make_server


class Server(ThreadingMixIn, WSGIServer):
    daemon_threads = True


if __name__ == "__main__":
    port, name = sys.argv[1:]
    site = getattr(importlib.import_module("tests.console.sites"), name)
    make_server("127.0.0.1", int(port), site, server_class=Server).serve_forever()
