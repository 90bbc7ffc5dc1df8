"""Damaged videos by the thousand: every frame that is returned is that of decoding in order, or an error is raised.

Each mutant of a film is read in a process whose memory and time are limited; outcomes are counted. By hand:

    python tests/video/fuzz.py --count 20000 --seed 7
"""

from __future__ import annotations

import argparse
import multiprocessing
import random
import re
import resource
import sys
import tempfile
import time
from collections import Counter
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import numpy as np
from films import B_FRAMES, OPEN, QUICK_VP9, Film, write

from muybridge.errors import VideoError
from muybridge.structures import SourceArgs
from muybridge.video.decode import decode_in_order, open_video, read_all

SHORT = range(30)
KEY = "keyint=10:min-keyint=10:bframes=2:b-adapt=0:scenecut=0"
PAIRS = [
    Film("f.mp4", parameters=B_FRAMES, shown=SHORT),
    Film("g.mp4", parameters=KEY, shown=SHORT, container={"movflags": "faststart"}),
    Film("f.mkv", parameters=OPEN, shown=SHORT),
    Film("h.mp4", "libx265", shown=SHORT, parameters="log-level=none:keyint=10:min-keyint=10:bframes=3:open-gop=1"),
    Film("f.webm", "libvpx-vp9", shown=SHORT, group=10, options=QUICK_VP9),
    Film("a.webm", "libsvtav1", shown=SHORT, group=10, size=(64, 64), options={"preset": "12"}),
    Film("f.mov", "mjpeg", shown=SHORT, pixels="yuvj420p"),
    Film("m.avi", "mpeg4", shown=SHORT, group=10, b_frames=2),
    Film("f.ts", parameters=B_FRAMES, shown=SHORT),
    Film("f.flv", parameters=B_FRAMES, shown=SHORT),
    Film("f.gif", "gif", shown=SHORT, pixels="rgb8"),
    Film("m.mpg", "mpeg2video", shown=SHORT, group=10, b_frames=2),
]
LIMITS = SourceArgs(seconds=10, megapixels=4, megabytes=256)
AMPLE = SourceArgs(seconds=10, megapixels=4, megabytes=700)  # For decoding in order.
EXTRA_MEMORY = 3 << 29  # What a reading process may take beyond what it has at the start.
HANGS = 40.0  # Seconds after which it is killed: opening and each reading have 10 of their own.
FAILURES = ("wrong", "bug", "crash", "hang")


@dataclass(frozen=True)
class Outcome:
    """What became of a mutant.

    Attributes:
        kind: `exact`: all frames are those of decoding in order; `partly`: some are, others raise errors; `refused`;
            `undamaged`: as exact or partly, but some frames are those of the film before it was damaged, where by
            decoding in order the damage spreads to them; `unsteady`: FFmpeg shows what happened to be in memory, so
            that decoding in order is not the same twice; or one of FAILURES.
        mutant: its number and how it was made.
        detail: of a failure.
    """

    kind: str
    mutant: str
    detail: str = ""


# Mutators: bytes, draws -> None; each changes the bytes in place or returns fewer.


def flip(data: bytearray, draws: random.Random, low: int, high: int) -> None:
    for _ in range(draws.choice([1, 1, 2, 5, 20])):
        data[draws.randrange(low, max(high, low + 1))] ^= 1 << draws.randrange(8)


def header_bits(data: bytearray, draws: random.Random) -> bytearray:
    low, high = 0, min(len(data), 600)
    place = data.find(b"moov")
    if place >= 0 and draws.random() < 0.8:
        low, high = place, min(len(data), place + 1500)
    flip(data, draws, low, high)
    return data


def payload_bits(data: bytearray, draws: random.Random) -> bytearray:
    place = data.find(b"mdat") if b"mdat" in data else len(data) // 10
    flip(data, draws, place, len(data))
    return data


def truncation(data: bytearray, draws: random.Random) -> bytearray:
    start = draws.randrange(1, len(data))
    if draws.random() < 0.5:
        return data[:start]
    return data[:start] + data[min(len(data), start + draws.choice([1, 4, 188, 1000])) :]


def changed_number(data: bytearray, draws: random.Random, place: int, size: int) -> None:
    old = int.from_bytes(data[place : place + size], "big")
    top = (1 << 8 * size) - 1
    new = draws.choice([0, 1, 7, 8, old + 1, old - 1, old * 2, old // 2, old ^ 1 << draws.randrange(8 * size), top])
    data[place : place + size] = (new & top).to_bytes(size, "big")


# Container -> pattern, where in it the number begins, and its size in bytes.
BOXES = (
    rb"(?:ftyp|moov|mvhd|trak|tkhd|edts|elst|mdia|mdhd|minf|stbl|stsd|avc1|avcC|hvc1|hvcC|stts|ctts|stss|stsc|stsz"
    rb"|stco|mdat)"
)
SIZES = {
    "mov": [(rb"(?s)....(?=" + BOXES + rb")", 0, 4), (rb"(?:stsz|stts|ctts|stsc|stco)", 8, 4), (rb"stsz", 12, 4)],
    "matroska": [(rb"\xa3", 1, 2), (rb"\x1f\x43\xb6\x75", 4, 4), (rb"\x16\x54\xae\x6b", 4, 1), (rb"\xe0", 1, 1)],
    "avi": [(rb"00dc", 4, 4), (rb"LIST", 4, 4), (rb"str[fh]", 4, 4), (rb"idx1", 4, 4)],
    "mpegts": [(rb"\x00\x00\x01\xe0", 4, 2), (rb"\x47", 4, 1)],
    "mpeg": [(rb"\x00\x00\x01\xe0", 4, 2), (rb"\x00\x00\x01\xe0", 8, 1)],
    "flv": [(rb"\x09", 1, 3)],
    "gif": [(rb"\x2c", 5, 2), (rb"\x21\xf9", 2, 1), (rb"GIF89a", 6, 2)],
}
TIMES = {
    "mov": [(rb"(?:stts|ctts|elst)", 12, 4), (rb"(?:stts|ctts|elst)", 16, 4), (rb"[mt][dv]hd", 16, 4)],
    "matroska": [
        (rb"\xa3(?:[\x40-\x7f].|[\x80-\xff])\x81", 4, 2),
        (rb"\xe7[\x81-\x84]", 2, 1),
        (rb"\x2a\xd7\xb1", 4, 3),
    ],
    "avi": [(rb"strh", 28, 4), (rb"strh", 32, 4), (rb"avih", 8, 4)],
    "mpegts": [(rb"\x00\x00\x01\xe0", 10, 4), (rb"\x00\x00\x01\xe0", 14, 4)],
    "mpeg": [(rb"\x00\x00\x01\xe0", 10, 4), (rb"\x00\x00\x01\xba", 4, 4)],
    "flv": [(rb"\x09", 4, 3), (rb"\x17\x01", 2, 3), (rb"\x27\x01", 2, 3)],
    "gif": [(rb"\x21\xf9\x04.", 4, 2)],
}
KINDS = {".mp4": "mov", ".mov": "mov", ".mkv": "matroska", ".webm": "matroska", ".ts": "mpegts", ".mpg": "mpeg"}


def numbers(table, data: bytearray, draws: random.Random, suffix: str) -> bytearray:
    choices = table[KINDS.get(suffix, suffix[1:])]
    for _ in range(draws.choice([1, 1, 1, 3])):
        pattern, offset, size = draws.choice(choices)
        places = [found.start() + offset for found in re.finditer(pattern, bytes(data), re.DOTALL)]
        places = [place for place in places if place + size <= len(data)]
        if places:
            changed_number(data, draws, draws.choice(places), size)
    return data


MUTATORS = {
    "header bits": lambda data, draws, suffix: header_bits(data, draws),
    "payload bits": lambda data, draws, suffix: payload_bits(data, draws),
    "truncation": lambda data, draws, suffix: truncation(data, draws),
    "box sizes": lambda data, draws, suffix: numbers(SIZES, data, draws, suffix),
    "time stamps": lambda data, draws, suffix: numbers(TIMES, data, draws, suffix),
}


def mutant(seed: int, films: list[Path]) -> tuple[str, Path, bytes]:
    """The mutant of this number: what it is in words, the film it is made from, its bytes."""
    film = films[seed % len(films)]
    kind = list(MUTATORS)[seed // len(films) % len(MUTATORS)]
    data = MUTATORS[kind](bytearray(film.read_bytes()), random.Random(seed), film.suffix)
    return f"{seed} ({film.name}, {kind})", film, bytes(data)


def judge(path: Path, seed: int, film: Path) -> tuple[str, str]:
    """Read a video in many ways and compare with decoding in order: kind of outcome, detail."""
    try:
        plain = list(zip((frame.pts for frame in decode_in_order(str(path))), read_all(path, AMPLE), strict=True))
    except VideoError:
        plain = []
    by_time = dict(reversed(plain))
    draws, failed, better = random.Random(seed), 0, 0
    try:
        video = open_video(path, LIMITS)
    except VideoError as error:
        return "refused", error.reason
    with video:
        index = video._index
        for _ in range(8):
            wanted = draws.choices(range(video.frame_count), k=draws.choice([1, 1, 4]))
            try:
                pictures = video.read(wanted)
            except VideoError:
                failed += 1
                continue
            for number, picture in zip(wanted, pictures, strict=True):
                if index is not None:
                    expected = by_time.get(int(index.times[number]))
                else:
                    expected = plain[number][1] if number < len(plain) else None
                if expected is None or not np.array_equal(expected, picture):
                    if index is None or not np.array_equal(film_frames(film).get(int(index.times[number])), picture):
                        kind = "wrong" if steady(path, plain) else "unsteady"
                        return kind, f"frame {number} of {video.frame_count} ({len(plain)} in order)"
                    better += 1
    return ("undamaged" if better else "partly" if failed else "exact"), ""


def steady(path: Path, plain: list) -> bool:
    """Whether decoding in order gives the same again, also when the decoder gets other memory to paint on."""
    pictures = np.stack([picture for _, picture in plain]) if plain else None
    held = [frame.reformat(format="rgb24", threads=1) for frame in list(decode_in_order(str(path)))]
    same = len(held) == len(plain) and all(
        np.array_equal(frame.to_ndarray(), picture) for frame, (_, picture) in zip(held, plain, strict=True)
    )
    return same and all(np.array_equal(read_all(path, AMPLE), pictures) for _ in range(8))


@cache
def film_frames(film: Path) -> dict[int | None, np.ndarray]:
    """The pictures of a film by time stamp."""
    return dict(zip((frame.pts for frame in decode_in_order(str(film))), read_all(film), strict=True))


def serve(pipe, folder: Path, films: list[Path]) -> None:
    """Judge the mutants whose numbers come through the pipe, with little memory."""
    with open("/proc/self/statm") as file:
        taken = int(file.read().split()[0]) * resource.getpagesize()
    resource.setrlimit(resource.RLIMIT_AS, (taken + EXTRA_MEMORY, taken + EXTRA_MEMORY))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    while True:
        seed = pipe.recv()
        name, film, data = mutant(seed, films)
        path = folder / f"{seed}{film.suffix}"
        path.write_bytes(data)
        try:
            kind, detail = judge(path, seed, film)
        except MemoryError as error:
            kind, detail = "bug", f"MemoryError: {error}"
        except Exception as error:
            kind, detail = "bug", f"{type(error).__name__}: {error}"
        pipe.send(Outcome(kind, name, detail))
        path.unlink()


class Reader:
    """A process that judges one mutant after another, and is started again when it dies."""

    def __init__(self, folder: Path, films: list[Path]) -> None:
        self.folder, self.films = folder, films
        self.process = None
        self.seed = None

    def give(self, seed: int) -> None:
        if self.process is None:
            context = multiprocessing.get_context("fork")
            self.pipe, other = context.Pipe()
            self.process = context.Process(target=serve, args=(other, self.folder, self.films), daemon=True)
            self.process.start()
            other.close()
        self.seed, self.since = seed, time.monotonic()
        self.pipe.send(seed)

    def outcome(self, wait: float) -> Outcome | None:
        name = mutant(self.seed, self.films)[0]
        try:
            if self.pipe.poll(wait):
                return self.pipe.recv()
        except EOFError:
            self.process.join()
            return self.stop(Outcome("crash", name, f"exit code {self.process.exitcode}"))
        if time.monotonic() - self.since > HANGS:
            return self.stop(Outcome("hang", name))
        return None

    def stop(self, outcome: Outcome | None = None) -> Outcome | None:
        if self.process is not None:
            self.process.kill()
            self.process.join()
            self.pipe.close()
            self.process = None
        return outcome


def fuzz(count: int, seed: int, folder: Path, processes: int = 2, pairs: list[Film] | None = None) -> list[Outcome]:
    """Judge `count` mutants, from number `seed` on."""
    films = [write(folder, film) for film in pairs or PAIRS]
    readers = [Reader(folder, films) for _ in range(processes)]
    seeds, busy, outcomes = iter(range(seed, seed + count)), [], []
    try:
        while True:
            for reader in readers:
                if reader not in busy and (number := next(seeds, None)) is not None:
                    reader.give(number)
                    busy.append(reader)
            if not busy:
                return outcomes
            for reader in list(busy):
                if (outcome := reader.outcome(0.002)) is not None:
                    outcomes.append(outcome)
                    busy.remove(reader)
    finally:
        for reader in readers:
            reader.stop()


def report(outcomes: list[Outcome]) -> str:
    """Counts of outcomes for each mutator and each film, and every failure."""
    lines = []
    for part in (1, 0):
        groups: dict[str, Counter[str]] = {}
        for outcome in outcomes:
            group = outcome.mutant.split("(")[1].rstrip(")").split(", ")[part]
            groups.setdefault(group, Counter())[outcome.kind] += 1
        lines += [f"{group:14}{dict(sorted(counts.items()))}" for group, counts in groups.items()]
    lines.append(f"{len(outcomes)} mutants: {dict(sorted(Counter(o.kind for o in outcomes).items()))}")
    lines += [f"{o.kind}: mutant {o.mutant}: {o.detail}" for o in outcomes if o.kind in FAILURES]
    return "\n".join(lines)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--count", type=int, default=2000)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--processes", type=int, default=2)
    given = parser.parse_args()
    begun = time.monotonic()
    with tempfile.TemporaryDirectory() as folder:
        outcomes = fuzz(given.count, given.seed, Path(folder), given.processes)
    print(report(outcomes))
    print(f"{time.monotonic() - begun:.0f} s")
    return int(any(outcome.kind in FAILURES for outcome in outcomes))


if __name__ == "__main__":
    sys.exit(main())
