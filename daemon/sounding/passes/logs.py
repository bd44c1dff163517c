"""The pass `logs`: the run's training log."""

from sounding.contract import shared_pass
from sounding.passes.past import Logs, Past


@shared_pass(version=1)
def logs(past: Past) -> Logs:
    """The run's training log as series over updates; empty where no log is configured or found."""
    return past.read_logs()
