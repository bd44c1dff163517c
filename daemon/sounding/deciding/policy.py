"""What the operator's configuration asks of the plan: which plugins, when, and how patiently."""

from datetime import timedelta

from sounding.config import Settings
from sounding.deciding.patience import Patience
from sounding.deciding.plan import Wish
from sounding.records import Catalogue


def patience(settings: Settings) -> Patience:
    """How failures are retried, from the configuration."""
    return Patience(settings.daemon.attempts, timedelta(seconds=settings.daemon.retry_seconds))


def wishes_of(catalogue: Catalogue, settings: Settings) -> tuple[Wish, ...]:
    """The plugins wanted, with their schedules: all that are usable and not disabled."""
    return tuple(
        Wish(sheet, settings.schedule_of(name, sheet.cost))
        for name, sheet in sorted(catalogue.plugins.items())
        if name not in settings.plugins or settings.plugins[name].enabled
    )
