"""The process that a daemon in the background lives in: `python -m sounding.running.detached CONFIG`.

Children of the daemon import this module again under another name, so it imports nothing but when it is run.
"""

import sys
from pathlib import Path


def main(config: Path) -> int:
    """Be the daemon until told to end; the exit code."""
    import logging
    from importlib.metadata import version

    from sounding.config import load_config
    from sounding.errors import SoundingError
    from sounding.running.logbook import Pen
    from sounding.running.narrate import LOG, Narrator
    from sounding.running.service import watch
    from sounding.running.status import Status

    logging.raiseExceptions = False  # a log that cannot be written is no reason to die, nor to write more into it
    settings = load_config(config)
    pen = Pen(settings.results)
    LOG.addHandler(pen)
    LOG.setLevel(logging.INFO)
    LOG.info("sounding %s, configured by %s", version("sounding"), config)
    narrator = Narrator()

    def report(status: Status) -> None:
        narrator(status)
        pen.bound()

    try:
        watch(settings, mode="background", report=report)
    except SoundingError as error:
        LOG.error("%s", error)
        return 1
    except Exception:  # noqa: BLE001 - nobody else is there to say what happened
        LOG.exception("the daemon died of a mistake of its own")
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1])))
