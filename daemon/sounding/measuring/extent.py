"""How much of its checkpoints a job looks at."""

from sounding.measuring.collecting import AnyPass, AnyPlugin
from sounding.measuring.discovery import Loaded
from sounding.records import Job


def reads_only_weights(loaded: Loaded, job: Job) -> bool:
    """Whether nothing in the job looks into a checkpoint but for a network's weights."""
    for task in job.tasks:
        plugin = loaded.plugins.get(task.key.plugin)
        if plugin is None:
            continue
        passes = [loaded.passes[name] for name in loaded.transitive(plugin.needs) if name in loaded.passes]
        users: list[AnyPlugin | AnyPass] = [plugin, *(item for item in passes if item.name != "weights")]
        if any("opened" in user.needs for user in users):
            return False
    return True
