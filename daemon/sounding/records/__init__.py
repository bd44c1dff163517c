"""The nouns of sounding: frozen records that every other module speaks in.

They import nothing but each other and nothing heavy, so that any process (command line, daemon, worker) can
afford them. Records that cross a process boundary are picklable; times are UTC unless a name says otherwise.
"""

from sounding.records.checkpoint import (
    Attribute,
    Checkpoint,
    Examination,
    Fact,
    Progress,
)
from sounding.records.finding import (
    Curve,
    Finding,
    Reading,
    Skip,
)
from sounding.records.job import (
    Copy,
    Ground,
    Hold,
    Job,
    LogState,
    RunInput,
)
from sounding.records.seeing import (
    FileStamp,
    Sighting,
    Stamp,
    State,
    Verdict,
)
from sounding.records.sheets import (
    Catalogue,
    MetricSheet,
    OptionSheet,
    PassSheet,
    PluginSheet,
    RecipeSheet,
    Refusal,
)
from sounding.records.stored import (
    Opaque,
    Piece,
    Pieces,
    Product,
    Stored,
    TensorRef,
)
from sounding.records.task import (
    BLAMELESS,
    SETTLED,
    Ending,
    Key,
    Outcome,
    Subject,
    Task,
    TaskResult,
)
from sounding.records.terms import (
    Against,
    Cost,
    Over,
    Plain,
    Quality,
)

__all__ = [
    "BLAMELESS",
    "SETTLED",
    "Against",
    "Attribute",
    "Catalogue",
    "Checkpoint",
    "Copy",
    "Cost",
    "Curve",
    "Ending",
    "Examination",
    "Fact",
    "FileStamp",
    "Finding",
    "Ground",
    "Hold",
    "Job",
    "Key",
    "LogState",
    "MetricSheet",
    "Opaque",
    "OptionSheet",
    "Outcome",
    "Over",
    "PassSheet",
    "Piece",
    "Pieces",
    "Plain",
    "PluginSheet",
    "Product",
    "Progress",
    "Quality",
    "Reading",
    "RecipeSheet",
    "Refusal",
    "RunInput",
    "Sighting",
    "Skip",
    "Stamp",
    "State",
    "Stored",
    "Subject",
    "Task",
    "TaskResult",
    "TensorRef",
    "Verdict",
]
