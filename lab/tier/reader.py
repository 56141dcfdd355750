"""Reads a bucket by docs/tier-format.md alone: knows nothing of Tidemark's code.

Objects come from a folder of files, by key. Record batches are Kafka's; only uncompressed ones are taken apart.
"""

import json
import struct
import zlib


class Wrong(Exception):
    pass


def document(data, wanted):
    line, _, rest = data.partition(b"\n")
    if rest != b"crc32:%08x\n" % zlib.crc32(line):
        raise Wrong(f"checksum of a {wanted}")
    body = json.loads(line)
    if (body["format"], body["version"]) != (wanted, 1):
        raise Wrong(f"{body['format']} {body['version']}, not {wanted} 1")
    return body, zlib.crc32(line)


def varint(data, at):
    value = shift = 0
    while True:
        byte = data[at]
        at += 1
        value |= (byte & 0x7F) << shift
        shift += 7
        if byte < 0x80:
            return (value >> 1) ^ -(value & 1), at


def records(log):
    """(offset, timestamp, value) of each record of uncompressed batches."""
    at = 0
    while at < len(log):
        base, length = struct.unpack_from(">qi", log, at)
        attributes, _, first_ms = struct.unpack_from(">hiq", log, at + 21)
        if attributes & 7:
            raise Wrong("compressed batches are not for this reader")
        (count,) = struct.unpack_from(">i", log, at + 57)
        place = at + 61
        for _ in range(count):
            size, place = varint(log, place)
            end = place + size
            place += 1
            delta_ms, place = varint(log, place)
            delta, place = varint(log, place)
            key, place = varint(log, place)
            place += max(key, 0)
            value, place = varint(log, place)
            yield base + delta, first_ms + delta_ms, log[place:place + value]
            place = end
        at += 12 + length


def segment(data, entry):
    """The records' bytes of an object, held against its footer and the manifest's entry."""
    if len(data) != entry["size_bytes"] or zlib.crc32(data) != entry["crc32"]:
        raise Wrong("length or checksum of a segment")
    length, magic = struct.unpack(">I8s", data[-12:])
    if magic != b"TMSEG\0\0\1":
        raise Wrong("trailer of a segment")
    footer, _ = document(data[-12 - length:-12], "tidemark-segment")
    log, rest = data[:footer["log_bytes"]], data[footer["log_bytes"]:-12 - length]
    index, rest = rest[:footer["index_bytes"]], rest[footer["index_bytes"]:]
    for section in footer.get("sections", []):
        # No kind of them means anything to this reader.
        passed, rest = rest[:section["bytes"]], rest[section["bytes"]:]
        if len(passed) != section["bytes"] or zlib.crc32(passed) != section["crc32"]:
            raise Wrong(f"section {section['kind']} of a segment")
    if rest:
        raise Wrong("bytes of a segment that its footer does not name")
    if len(index) != footer["index_bytes"] or zlib.crc32(index) != footer["index_crc32"]:
        raise Wrong("index of a segment")
    if zlib.crc32(log) != footer["log_crc32"] or len(log) != entry["log_bytes"]:
        raise Wrong("records of a segment")
    for place in range(0, len(index), 24):
        base, position, _ = struct.unpack_from(">qqq", index, place)
        if struct.unpack_from(">q", log, position) != (base,):
            raise Wrong(f"index entry {place // 24} is not a batch")
    return log


def partition(get, list_keys, topic_id, number):
    """Every record of a partition. `get` gives an object's bytes, `list_keys` sorted keys below a folder."""
    for hash_ in (f"{n:02x}" for n in range(256)):
        folder = f"{hash_}/{topic_id}/{number}"
        manifests = list_keys(f"{folder}/manifest/")
        if not manifests:
            continue
        manifest, _ = document(get(manifests[0]), "tidemark-manifest")
        if manifest["sequence"] != (1 << 64) - 1 - int(manifests[0].rsplit("/", 1)[1]):
            raise Wrong("a manifest's number")
        entries = list(manifest["head"])
        for chunk in manifest["chunks"]:
            body, crc = document(get(f"{folder}/chunk/{chunk['id']}"), "tidemark-chunk")
            if crc != chunk["crc32"]:
                raise Wrong("a chunk is another one")
            entries += body["segments"]
        entries += manifest["segments"]
        for entry in entries:
            key = f"{folder}/{entry['base_offset']:020}-{entry['leader_epoch']:010}-{entry['id']}.segment"
            for offset, timestamp, value in records(segment(get(key), entry)):
                if manifest["start_offset"] <= offset and entry["base_offset"] <= offset < entry["end_offset"]:
                    yield offset, timestamp, value
        return
