"""Bytes for people."""


def unit_of(size: int) -> tuple[str, int]:
    """Name and bytes of the unit that `size` is best given in."""
    return ("GiB", 2**30) if size >= 2**30 else ("MiB", 2**20)


def size_text(size: int) -> str:
    """`12.34 GiB`."""
    name, unit = unit_of(abs(size))
    return f"{size / unit:.2f} {name}"
