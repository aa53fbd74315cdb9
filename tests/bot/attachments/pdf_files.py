"""PDFs made by hand, good and hostile."""

from __future__ import annotations

import io
import zlib

import pypdf


def pdf(*contents: bytes, flate: bool = False, extra: str = "", resources: str = "") -> bytes:
    """A PDF with one page for each content stream. `flate`: the streams are compressed already."""
    objects: list[bytes] = [b"<< /Type /Catalog /Pages 2 0 R >>", b""]
    kids = []
    font = f"<< /Font << /F1 << /Type /Font /Subtype /Type1 /BaseFont /Helvetica >> >> {resources} >>"
    for content in contents:
        number = len(objects) + 1
        kids.append(f"{number} 0 R")
        page = f"<< /Type /Page /Parent 2 0 R /MediaBox [0 0 600 800] /Resources {font} /Contents {number + 1} 0 R >>"
        objects.append(page.encode())
        filter_name = " /Filter /FlateDecode" if flate else ""
        stream = f"<< /Length {len(content)}{filter_name} >>\nstream\n".encode() + content + b"\nendstream"
        objects.append(stream)
    objects[1] = f"<< /Type /Pages /Kids [{' '.join(kids)}] /Count {len(kids)} {extra} >>".encode()
    out = bytearray(b"%PDF-1.7\n%\xe2\xe3\xcf\xd3\n")
    offsets = []
    for number, body in enumerate(objects, start=1):
        offsets.append(len(out))
        out += f"{number} 0 obj\n".encode() + body + b"\nendobj\n"
    start = len(out)
    out += f"xref\n0 {len(objects) + 1}\n0000000000 65535 f \n".encode()
    out += b"".join(f"{offset:010} 00000 n \n".encode() for offset in offsets)
    out += f"trailer << /Size {len(objects) + 1} /Root 1 0 R >>\nstartxref\n{start}\n%%EOF\n".encode()
    return bytes(out)


def words(text: str) -> bytes:
    """A content stream that shows this line."""
    return f"BT /F1 12 Tf 50 700 Td ({text}) Tj ET".encode("latin-1")


def encrypted(data: bytes, password: str, algorithm: str) -> bytes:
    writer = pypdf.PdfWriter(clone_from=io.BytesIO(data))
    writer.encrypt(password, owner_password="owner", algorithm=algorithm)
    out = io.BytesIO()
    writer.write(out)
    return out.getvalue()


def bomb(size: int = 300_000_000) -> bytes:
    """One page whose content is a small stream that unpacks to `size` bytes."""
    packer = zlib.compressobj(9)
    piece = b"q " * 500_000
    packed = b"".join(packer.compress(piece) for _ in range(size // len(piece))) + packer.flush()
    return pdf(packed, flate=True)
