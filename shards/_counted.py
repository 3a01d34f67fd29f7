"""Numbers of things in messages."""


def counted(number: int, what: str) -> str:
    """1 clip, 2,000 clips."""
    return f"{number:,} {what}{'' if number == 1 else 's'}"
