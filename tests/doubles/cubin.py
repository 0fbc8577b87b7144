"""What a kernel takes of a multiprocessor, read from its machine code.

A cubin is an ELF file. Its .nv.info section holds attributes of the kernels in NVIDIA's format (the EIATTR values that
cuobjdump -elf prints): a format byte, an attribute byte, then for format 4 a 16-bit size and that many bytes. Static
shared memory is the size of a kernel's .nv.shared section.
"""

import struct
from collections.abc import Iterator
from dataclasses import dataclass

from queryopt.errors import FormatError
from queryopt.runtime.cuda.base import KernelResources

__all__ = ["kernel_resources"]

_SIZED = 0x04
_FRAME_SIZE = 0x11
_MIN_STACK_SIZE = 0x12
_REGISTERS = 0x2F

_SYMBOLS = 2
_NO_DATA = 8  # a section that takes no room in the file


@dataclass(frozen=True)
class _Section:
    name: str
    kind: int
    data: bytes
    size: int
    link: int


def kernel_resources(cubin: bytes) -> dict[str, KernelResources]:
    """The resources of each kernel of a cubin. Raises FormatError for anything else."""
    try:
        sections = list(_sections(cubin))
        symbols = _symbols(sections)
        registers: dict[str, int] = {}
        stack: dict[str, int] = {}
        for section in sections:
            if section.name != ".nv.info":
                continue
            for attribute, value in _attributes(section.data):
                if attribute in (_REGISTERS, _MIN_STACK_SIZE, _FRAME_SIZE):
                    symbol, number = struct.unpack("<II", value)
                    name = symbols[symbol]
                    if attribute == _REGISTERS:
                        registers[name] = number
                    else:
                        stack[name] = max(stack.get(name, 0), number)
    except (struct.error, IndexError, UnicodeDecodeError) as error:
        raise FormatError(f"not a cubin, or one of a kind that is not known: {error}") from None
    shared = {
        section.name.removeprefix(".nv.shared."): section.size for section in sections if ".nv.shared." in section.name
    }
    kernels = [section.name.removeprefix(".text.") for section in sections if section.name.startswith(".text.")]
    return {
        name: KernelResources(registers[name], shared.get(name, 0), stack.get(name, 0))
        for name in kernels
        if name in registers
    }


def _sections(cubin: bytes) -> Iterator[_Section]:
    if cubin[:5] != b"\x7fELF\x02":
        raise FormatError("not a cubin: it doesn't begin like a 64-bit ELF file")
    (table,) = struct.unpack_from("<Q", cubin, 0x28)
    size, count, names = struct.unpack_from("<HHH", cubin, 0x3A)
    headers = [struct.unpack_from("<IIQQQQIIQQ", cubin, table + i * size) for i in range(count)]
    strings = cubin[headers[names][4] : headers[names][4] + headers[names][5]]
    for name, kind, _, _, offset, length, link, *_ in headers:
        data = b"" if kind == _NO_DATA else cubin[offset : offset + length]
        if kind != _NO_DATA and len(data) != length:
            raise FormatError("not a cubin: it is cut off")
        yield _Section(_string(strings, name), kind, data, length, link)


def _symbols(sections: list[_Section]) -> list[str]:
    """Names of all symbols, by number."""
    table = next((section for section in sections if section.kind == _SYMBOLS), None)
    if table is None:
        raise FormatError("not a cubin: it has no symbols")
    strings = sections[table.link].data
    return [_string(strings, entry[0]) for entry in struct.iter_unpack("<IBBHQQ", table.data)]


def _attributes(data: bytes) -> Iterator[tuple[int, bytes]]:
    at = 0
    while at + 4 <= len(data):
        form, attribute, size = struct.unpack_from("<BBH", data, at)
        at += 4
        if form == _SIZED:
            yield attribute, data[at : at + size]
            at += size


def _string(strings: bytes, start: int) -> str:
    return strings[start : strings.index(b"\0", start)].decode()
