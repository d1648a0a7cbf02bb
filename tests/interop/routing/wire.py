"""HTTP/2 without TLS: a client for one request at a time, and backends that say what they got."""
import json
import socket
import threading

import h2.config
import h2.connection
import h2.events

# Headers that depend on the proxy, not on the route.
OWN = ("x-request-id", "x-forwarded-proto", "x-forwarded-for", "x-envoy-")


def of_interest(name):
    return name.startswith("x-") and not name.startswith(OWN)


class Client:
    """One connection to 127.0.0.1."""

    def __init__(self, port):
        self.port = port
        self.open()

    def open(self):
        self.sock = socket.create_connection(("127.0.0.1", self.port), 5)
        config = h2.config.H2Configuration(header_encoding="utf-8", validate_outbound_headers=False,
                                           normalize_outbound_headers=False)
        self.h2 = h2.connection.H2Connection(config)
        self.h2.initiate_connection()
        self.sock.sendall(self.h2.data_to_send())

    def close(self):
        self.sock.close()

    def ask(self, method, authority, path, headers):
        """(status, headers of interest, body)."""
        stream = self.h2.get_next_available_stream_id()
        head = [(":method", method), (":scheme", "http"), (":authority", authority), (":path", path), *headers]
        self.h2.send_headers(stream, head, end_stream=True)
        self.sock.sendall(self.h2.data_to_send())
        status, seen, body = None, [], b""
        while True:
            data = self.sock.recv(65536)
            if not data:
                raise EOFError("closed")
            for event in self.h2.receive_data(data):
                if isinstance(event, h2.events.ResponseReceived):
                    fields = dict(event.headers)
                    status = int(fields[":status"])
                    seen = [(n, v) for n, v in event.headers if of_interest(n) or n == "location"]
                elif isinstance(event, h2.events.DataReceived):
                    body += event.data
                    self.h2.acknowledge_received_data(event.flow_controlled_length, event.stream_id)
                elif isinstance(event, h2.events.StreamReset):
                    return "reset", [], b""
                elif isinstance(event, h2.events.StreamEnded):
                    self.sock.sendall(self.h2.data_to_send())
                    # Local replies differ in words; what routes answer does not.
                    return status, sorted(seen), body.decode(errors="replace")
            self.sock.sendall(self.h2.data_to_send())


class Backend:
    """Answers every request with what it was, as JSON, and its own name."""

    def __init__(self, name):
        self.name = name
        self.listener = socket.create_server(("127.0.0.1", 0))
        self.port = self.listener.getsockname()[1]
        threading.Thread(target=self.accept, daemon=True).start()

    def accept(self):
        while True:
            sock, _ = self.listener.accept()
            threading.Thread(target=self.serve, args=(sock,), daemon=True).start()

    def serve(self, sock):
        conn = h2.connection.H2Connection(h2.config.H2Configuration(client_side=False, header_encoding="utf-8"))
        conn.initiate_connection()
        heads = {}
        try:
            sock.sendall(conn.data_to_send())
            while data := sock.recv(65536):
                for event in conn.receive_data(data):
                    if isinstance(event, h2.events.RequestReceived):
                        heads[event.stream_id] = event.headers
                    elif isinstance(event, h2.events.StreamEnded):
                        self.answer(conn, event.stream_id, heads.pop(event.stream_id))
                sock.sendall(conn.data_to_send())
        except (OSError, h2.exceptions.ProtocolError):
            pass
        finally:
            sock.close()

    def answer(self, conn, stream, headers):
        fields = dict(headers)
        seen = {
            "backend": self.name, "method": fields[":method"], "path": fields[":path"],
            "authority": fields.get(":authority") or fields.get("host"),
            "headers": sorted((n, v) for n, v in headers if of_interest(n)),
        }
        body = json.dumps(seen, sort_keys=True).encode()
        conn.send_headers(stream, [(":status", "200"), ("x-up", "1"), ("x-old", "up"),
                                   ("content-length", str(len(body)))])
        conn.send_data(stream, body, end_stream=True)
