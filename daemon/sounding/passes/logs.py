"""The pass `logs`: the run's training log."""

from sounding.passes.past import Logs, Past
from sounding.plugin import shared_pass


@shared_pass(version=1)
def logs(past: Past) -> Logs:
    """The run's training log as series over updates; empty where no log is configured or found."""
    return past.read_logs()
