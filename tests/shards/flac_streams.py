"""FLAC streams of every kind that the format knows, written bit by bit: encoders choose a few of them."""

from dataclasses import dataclass

import numpy as np

RATES = (None, 88200, 176400, 192000, 8000, 16000, 22050, 24000, 32000, 44100, 48000, 96000)
BLOCKS = {192: 1, **{576 << i: 2 + i for i in range(4)}, **{256 << i: 8 + i for i in range(8)}}
FIXED = ((), (1,), (2, -1), (3, -3, 1), (4, -6, 4, -1))


@dataclass
class Choices:
    """What a stream is made of, drawn from `rng` for every frame, subframe and partition."""

    rng: np.random.Generator
    damage: bool = False  # flip bits within frames and their headers and seal them again

    def one(self, *options):
        return options[self.rng.integers(len(options))]


def crc(content: bytes, width: int, polynomial: int) -> int:
    value = 0
    for byte in content:
        value ^= byte << (width - 8)
        for _ in range(8):
            value = (value << 1) ^ (polynomial if value >> (width - 1) else 0)
    return value & ((1 << width) - 1)


def encode(pcm: np.ndarray, rate: int, choices: Choices, max_block: int = 700, number: int = 0) -> bytes:
    """Int16 [channels, n] -> FLAC with blocks of random sizes. number: that the first sample says it has."""
    channels, samples = pcm.shape
    frames, at = [], 0
    while at < samples:
        block = int(choices.one(16, 192, 256, 512, 576, int(choices.rng.integers(17, max_block))))
        block = min(block, samples - at)
        frames.append(_frame(pcm[:, at : at + block].astype(int), rate, number + at, choices))
        at += block
    info = _bits((16, 16), (max_block, 16), (0, 24), (0, 24), (rate, 20), (channels - 1, 3), (15, 5), (samples, 36))
    blocks = [b"\x00\x00\x00\x22" + _pack(info) + bytes(16)]
    for kind, size in ((1, 7), (4, 12)):
        if choices.one(True, False):
            content = bytes(size) if kind == 1 else (4).to_bytes(4, "little") + b"test" + bytes(4)
            blocks.append(bytes([kind]) + size.to_bytes(3, "big") + content)
    last = blocks[-1]
    return b"".join([b"fLaC", *blocks[:-1], bytes([last[0] | 0x80]) + last[1:], *frames])


def _frame(pcm: np.ndarray, rate: int, first_sample: int, choices: Choices) -> bytes:
    channels, block = pcm.shape
    assignment, rows, widths = channels - 1, list(pcm), [16] * channels
    if channels == 2 and (assignment := choices.one(1, 8, 9, 10)) > 1:
        left, right = pcm
        difference = left - right
        rows = {8: [left, difference], 9: [difference, right], 10: [(left + right) >> 1, difference]}[assignment]
        widths = [17, 16] if assignment == 9 else [16, 17]
    stated = [code for size, code in BLOCKS.items() if size == block] + [7] + ([6] if block <= 256 else [])
    block_code = choices.one(*stated)
    codes = [0, *(code for code, known in enumerate(RATES) if known == rate)]
    codes += [12] * (rate % 1000 == 0 and rate < 256_000) + [13] * (rate < 65_536)
    codes += [14] * (rate % 10 == 0 and rate < 655_360)
    rate_code = choices.one(*codes)
    head = _bits((0x3FFE, 14), (0, 1), (1, 1), (block_code, 4), (rate_code, 4), (assignment, 4))
    head += _bits((choices.one(0, 4), 3), (0, 1)) + _number(first_sample)
    head += {6: _bits((block - 1, 8)), 7: _bits((block - 1, 16))}.get(block_code, "")
    head += {12: _bits((rate // 1000, 8)), 13: _bits((rate, 16)), 14: _bits((rate // 10, 16))}.get(rate_code, "")
    body = _pack("".join(_subframe(row, width, choices) for row, width in zip(rows, widths, strict=True)))
    head_bytes = _damaged(_pack(head), choices)
    content = head_bytes + bytes([crc(head_bytes, 8, 0x107)]) + _damaged(body, choices)
    return content + crc(content, 16, 0x18005).to_bytes(2, "big")


def _damaged(content: bytes, choices: Choices) -> bytes:
    if not choices.damage or choices.one(True, False, False):
        return content
    changed = bytearray(content)
    changed[choices.rng.integers(len(changed))] ^= 1 << choices.rng.integers(8)
    return bytes(changed)


def _subframe(row: np.ndarray, width: int, choices: Choices) -> str:
    wasted = 0
    if row.any():
        while wasted < width - 2 and not (row >> wasted + 1 << wasted + 1 != row).any():
            wasted += 1
    wasted = int(choices.rng.integers(wasted + 1))
    row, width = row >> wasted, width - wasted
    tail = "1" + "0" * (wasted - 1) + "1" if wasted else "0"
    kinds = ["verbatim", "fixed"] + ["linear"] * (len(row) > 1) + ["constant"] * 5 * bool((row == row[0]).all())
    kind = choices.one(*kinds)
    if kind == "constant":
        return "0000000" + tail + _signed(row[0], width)
    if kind != "verbatim":
        coded = _predicted(row, width, tail, kind == "linear", choices)
        if coded is not None:
            return coded
    return "0000001" + tail + "".join(_signed(value, width) for value in row)


def _predicted(row: np.ndarray, width: int, tail: str, linear: bool, choices: Choices) -> str | None:
    """None where the residual would not fit."""
    rng = choices.rng
    if linear:
        order = int(rng.integers(1, min(33, len(row))))
        precision, shift = int(rng.integers(2, 16)), int(rng.integers(16))
        reach = 1 << (precision - 1) >> int(rng.integers(precision))
        coefficients = rng.integers(-reach, max(reach, 1), order)
        kind = f"1{order - 1:05b}"
        stated = _bits((precision - 1, 4)) + _signed(shift, 5) + "".join(_signed(c, precision) for c in coefficients)
    else:
        order = int(rng.integers(0, min(5, len(row))))
        coefficients, shift, stated, kind = np.array(FIXED[order], int), 0, "", f"001{order:03b}"
    residual = row[order:].copy()
    for i in range(order, len(row)):
        residual[i - order] -= int(coefficients @ row[i - order : i][::-1]) >> shift if order else 0
    if len(residual) and np.abs(residual).max() >= 1 << 30:
        return None
    warm = "".join(_signed(value, width) for value in row[:order])
    return "0" + kind + tail + warm + stated + _residual(residual, order, len(row), choices)


def _residual(residual: np.ndarray, order: int, block: int, choices: Choices) -> str:
    fits = [p for p in range(9) if block % (1 << p) == 0 and block >> p >= max(order, 1)]
    partition_order, method = int(choices.one(*fits)), int(choices.one(0, 1))
    parts, done = [_bits((method, 2), (partition_order, 4))], 0
    for number in range(1 << partition_order):
        part = residual[done : done + (block >> partition_order) - (order if number == 0 else 0)]
        done += len(part)
        folded = np.where(part < 0, -2 * part - 1, 2 * part)
        longest = int(folded.max()).bit_length() if len(part) else 0
        low = max(0, longest - 11)
        parameter = int(choices.one(low, low, longest, int(choices.rng.integers(low, longest + 1))))
        if parameter >= (15 << method) + method or choices.one(*[False] * 5, True):
            width = longest
            parts.append(_bits(((15 << method) + method, 4 + method), (width, 5)))
            parts += [_signed(value, width) for value in part if width]
            continue
        parts.append(_bits((parameter, 4 + method)))
        for value in folded:
            parts.append("0" * (int(value) >> parameter) + "1" + _bits((int(value) & (1 << parameter) - 1, parameter)))
    return "".join(parts)


def _bits(*fields: tuple[int, int]) -> str:
    return "".join(f"{int(value):0{width}b}" if width else "" for value, width in fields)


def _signed(value: int, width: int) -> str:
    return _bits((int(value) & (1 << width) - 1, width))


def _number(value: int) -> str:
    """As UTF-8 spells code points, up to 36 bits."""
    if value < 0x80:
        return _bits((value, 8))
    more = next(n for n in range(1, 7) if value < 1 << (6 * n + 6 - n))
    lead = (0xFF00 >> (more + 1) & 0xFF) | value >> 6 * more
    return _bits((lead, 8), *((0x80 | value >> 6 * i & 63, 8) for i in reversed(range(more))))


def _pack(bits: str) -> bytes:
    padded = bits.ljust(-(-len(bits) // 8) * 8, "0")
    return int(padded, 2).to_bytes(len(padded) // 8, "big")
