"""A server on this machine that streams MPEG-TS, breaks off, and comes back; a clock that does not wait."""

import io
import socketserver
import struct
import threading
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import av

from clips import moving_square

RATE = 12
SDP = b"v=0\r\no=- 0 0 IN IP4 127.0.0.1\r\ns=door\r\nt=0 0\r\nm=video 0 RTP/AVP 33\r\na=control:track0\r\n"


def film(frames=36, side=48):
    return moving_square("rising", 5, frames=frames, side=side)


def transport_stream(frames, rate=RATE):
    """Frames [T, H, W, 3] uint8 as MPEG-2 video in an MPEG transport stream, a keyframe every 6."""
    file = io.BytesIO()
    with av.open(file, "w", format="mpegts") as container:
        stream = container.add_stream("mpeg2video", rate=24, options={"g": "6", "bf": "0", "q:v": "2"})
        stream.height, stream.width, stream.pix_fmt = frames.shape[1], frames.shape[2], "yuv420p"
        for number, picture in enumerate(frames):
            frame = av.VideoFrame.from_ndarray(picture, format="rgb24")
            frame.pts = number * 24 // rate
            for packet in stream.encode(frame):
                container.mux(packet)
        for packet in stream.encode():
            container.mux(packet)
    return file.getvalue()


@contextmanager
def serving(*answers, pause=None):
    """Within: the address of a server whose n-th connection sends the n-th answer, and every later one is refused.

    An answer is bytes, sent without their length, or None: nothing is sent and the connection stays open until `pause`
    is set.
    """
    waiting = list(answers)
    lock = threading.Lock()

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self):
            with lock:
                answer = waiting.pop(0) if waiting else False
            if answer is False:
                self.send_error(503)
                return
            self.send_response(200)
            self.send_header("Content-Type", "video/mp2t")
            self.end_headers()
            if answer is None:
                pause.wait(20)
            else:
                self.wfile.write(answer)

        def log_message(self, *_):
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.daemon_threads = True
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02})
    thread.start()
    try:
        yield f"http://user:secret@127.0.0.1:{server.server_address[1]}/camera?key=hidden"
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


@contextmanager
def serving_rtsp(data):
    """Within: the address of an RTSP camera that sends an MPEG transport stream once, over TCP, and hangs up."""

    class Handler(socketserver.StreamRequestHandler):
        def handle(self):
            while request := self.read_request():
                method, sequence = request
                more, body = "", b""
                if method == "DESCRIBE":
                    more, body = "Content-Type: application/sdp\r\n", SDP
                elif method == "SETUP":
                    more = "Transport: RTP/AVP/TCP;unicast;interleaved=0-1\r\n"
                head = f"RTSP/1.0 200 OK\r\nCSeq: {sequence}\r\nSession: 7\r\n{more}Content-Length: {len(body)}\r\n\r\n"
                self.wfile.write(head.encode() + body)
                if method == "PLAY":
                    self.play()
                    return

        def read_request(self):
            words, sequence = self.rfile.readline().decode().split(), "0"
            while (line := self.rfile.readline().decode().strip()) and words:
                if line.lower().startswith("cseq:"):
                    sequence = line.partition(":")[2].strip()
            return (words[0], sequence) if words else None

        def play(self):
            for number, start in enumerate(range(0, len(data), 7 * 188)):
                header = struct.pack("!BBHII", 0x80, 33, number, number * 3000, 1)
                packet = header + data[start : start + 7 * 188]
                self.wfile.write(b"$" + struct.pack("!BH", 0, len(packet)) + packet)

    server = socketserver.ThreadingTCPServer(("127.0.0.1", 0), Handler)
    server.daemon_threads = True
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02})
    thread.start()
    try:
        yield f"rtsp://127.0.0.1:{server.server_address[1]}/door"
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


class FakeClock:
    """Waiting takes no time and is written down; nothing else moves the time on."""

    def __init__(self):
        self.time = 100.0
        self.waits = []

    def now(self):
        return self.time

    def wait(self, seconds, stop):
        self.waits.append(seconds)
        self.time += seconds
