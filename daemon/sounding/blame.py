"""What foreign code raised, and where, in one line for a person."""

import traceback


def describe_error(error: BaseException, file: str | None = None) -> str:
    """Type, message and place of an exception, in one line; the place is the innermost one in `file`, if any."""
    frames = [frame for frame in traceback.extract_tb(error.__traceback__) if "importlib" not in frame.filename]
    inside = [frame for frame in frames if frame.filename == file] or frames
    where = f" ({inside[-1].filename}:{inside[-1].lineno})" if inside else ""
    message = str(error).strip() or "no message"
    return f"{type(error).__name__}: {message}{where}"
