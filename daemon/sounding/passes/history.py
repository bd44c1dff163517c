"""The pass `history`: the run's current readings of other plugins."""

from sounding.contract import shared_pass
from sounding.passes.past import History, Past


@shared_pass(version=1)
def history(past: Past) -> History:
    """Every current reading of the run's checkpoints and pairs, deleted checkpoints' included, as lines over steps."""
    return past.read_history()
