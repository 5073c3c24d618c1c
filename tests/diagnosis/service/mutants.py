"""Ways to change a request that was right: bytes, message structure, payloads, headers."""

import random
import struct

import msgpack


def some_bytes(random: random.Random, content: bytes) -> bytes:
    """A few bytes set, cut out, put in, doubled, or all that follows cut off."""
    changed = bytearray(content)
    for _ in range(random.choice((1, 1, 1, 2, 8))):
        # Most at the front: there is the structure, and a bit in the random half of a ciphertext changes no form.
        reach = len(changed) if random.random() < 0.05 else min(len(changed), 400)
        place = random.randrange(reach) if changed else 0
        match random.randrange(6):
            case 0 if changed:
                changed[place] ^= 1 << random.randrange(8)
            case 1 if changed:
                changed[place] = random.randrange(256)
            case 2:
                del changed[place : place + random.randrange(1, 64)]
            case 3:
                changed[place:place] = random.randbytes(random.randrange(1, 64))
            case 4:
                changed[place : place + 8] = struct.pack(random.choice("<>") + "q", random.choice((-1, 0, 2**40)))
            case _:
                del changed[place:]
    return bytes(changed)


def odd_value(random: random.Random) -> object:
    deep: object = []
    for _ in range(random.randrange(1, 500)):
        deep = [deep]
    return random.choice(
        (
            None,
            True,
            -1,
            2**63,
            1e308,
            float("nan"),
            "",
            "x" * 300,
            "\ud7ff\n\x00",
            b"",
            random.randbytes(40),
            [],
            {},
            deep,
            {"a": 1},
            [b"x"] * 300,
            [[]],
            "0" * 64,
            "g" * 64,
            {1: 2},
            msgpack.ExtType(5, b"x"),
            msgpack.Timestamp(1, 1),
        )
    )


def changed_fields(random: random.Random, body: bytes) -> bytes:
    """The message with another structure: a field gone, added, or with a value of another kind."""
    fields = msgpack.unpackb(body)
    for _ in range(random.choice((1, 1, 2))):
        name = random.choice(sorted(fields)) if fields else "format"
        match random.randrange(5):
            case 0:
                fields.pop(name, None)
            case 1:
                fields[random.choice(("extra", "", "__class__", "x" * 200))] = odd_value(random)
            case 2 if isinstance(fields.get(name), bytes):
                fields[name] = some_bytes(random, fields[name])
            case 3 if isinstance(fields.get(name), list):
                fields[name] = random.choice(
                    (fields[name] * 2, [], [some_bytes(random, part) for part in fields[name]], [*fields[name], b""])
                )
            case _:
                fields[name] = odd_value(random)
    return msgpack.packb(fields, use_bin_type=random.random() < 0.95)


def damaged_ciphertext(random: random.Random, body: bytes) -> bytes:
    """A message right in all but its payload: SEAL gets to see it."""
    fields = msgpack.unpackb(body)
    content = some_bytes(random, fields["ciphertexts"][0])
    if random.random() < 0.5 and len(content) >= 16:  # with the length that SEAL's header should then have
        content = content[:8] + struct.pack("<Q", len(content)) + content[16:]
    return msgpack.packb(fields | {"ciphertexts": [content]})


def damaged_keys(random: random.Random, body: bytes) -> bytes:
    """Keys whose outer form is right, of a size that keeps the test quick."""
    fields = msgpack.unpackb(body)
    parts = msgpack.unpackb(fields["keys"], max_bin_len=1 << 30)
    name = random.choice(sorted(parts))
    parts[name] = some_bytes(random, parts[name][: random.choice((0, 16, 200, 5000))])
    if random.random() < 0.5 and len(parts[name]) >= 16:
        parts[name] = parts[name][:8] + struct.pack("<Q", len(parts[name])) + parts[name][16:]
    if random.random() < 0.3:
        parts = {key: part[:1000] for key, part in parts.items()}
    return msgpack.packb(fields | {"keys": msgpack.packb(parts)})


def changed_headers(random: random.Random, head: list[bytes]) -> list[bytes]:
    lines = list(head)
    place = random.randrange(len(lines))
    match random.randrange(6):
        case 0:
            del lines[place]
        case 1:
            lines[place] = some_bytes(random, lines[place])
        case 2:
            lines.insert(place, lines[place])
        case 3:
            lengths = (b"0", b"-1", b"+5", b"99999999999", b"1e9", b"5, 5", b"0x10", b"")
            lines = [line for line in lines if not line.startswith(b"content-length")]
            lines.append(b"content-length: " + random.choice(lengths))
        case 4:
            odd = (b"content-encoding: gzip", b"transfer-encoding: chunked", b"transfer-encoding: gzip, chunked")
            odd += (b"expect: 100-continue", b"upgrade: websocket\r\nconnection: upgrade", b"x: " + b"y" * 20_000)
            lines.append(random.choice((*odd, b"authorization: Bearer x", b"x-forwarded-for: 127.0.0.1", b": empty")))
        case _:
            verb = random.choice(
                (b"GET", b"PUT", b"DELETE", b"HEAD", b"OPTIONS", b"TRACE", b"CONNECT", b"\x00", b"POST")
            )
            path = random.choice(
                (
                    b"/",
                    b"/keys",
                    b"/models/%2e%2e/predict",
                    b"/models/" + b"a" * 300,
                    b"//keys",
                    b"*",
                    b"/keys?x=\xff",
                    b"/models/x/predict",
                    b"/\xff",
                    b"http://elsewhere/keys",
                    b"/models//predict",
                )
            )
            lines[0] = b"%b %b HTTP/1.1" % (verb, path)
    return lines
