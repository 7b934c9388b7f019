"""A mail server that delivers to nobody, and a page that shows what it was given.

It takes what SMTP clients send who trust it: no encryption, no passwords, and only for this machine.
"""

from __future__ import annotations

import os
import socketserver
import threading
from email import message_from_bytes, policy
from email.message import EmailMessage
from typing import Any

from flask import Flask, render_template
from flask.typing import ResponseReturnValue

SMTP_HOST, _, SMTP_PORT = os.environ.get("SHOP_SMTP_LISTEN", "127.0.0.1:8004").partition(":")

site = Flask(__name__, template_folder="templates", static_folder="../static")
mails: list[dict[str, str]] = []


class Conversation(socketserver.StreamRequestHandler):
    """One client's: commands, each on a line, and each answered by a number."""

    timeout = 60

    def handle(self) -> None:
        self.say("220 mailbox")
        while line := self.rfile.readline(1000):
            command = line.split(b":")[0].strip().upper()
            if command == b"DATA":
                self.say("354 go on, and end with a dot")
                keep(self.message())
            self.say("221 bye" if command == b"QUIT" else "250 ok")
            if command == b"QUIT":
                return

    def message(self) -> bytes:
        lines = []
        while (line := self.rfile.readline()) not in (b".\r\n", b""):
            lines.append(line[1:] if line.startswith(b".") else line)
        return b"".join(lines)

    def say(self, text: str) -> None:
        self.wfile.write(text.encode() + b"\r\n")


class Server(socketserver.ThreadingTCPServer):
    allow_reuse_address = True
    daemon_threads = True


def keep(message: bytes) -> None:
    mail: Any = message_from_bytes(message, EmailMessage, policy=policy.default)
    mails.append({"id": mail["Message-ID"], "to": mail["To"], "subject": mail["Subject"], "text": mail.get_content()})


@site.get("/mails")
def everything() -> ResponseReturnValue:
    return mails


@site.get("/")
def page() -> ResponseReturnValue:
    return render_template("mailbox.html", mails=mails[::-1])


threading.Thread(target=Server((SMTP_HOST, int(SMTP_PORT)), Conversation).serve_forever, daemon=True).start()
