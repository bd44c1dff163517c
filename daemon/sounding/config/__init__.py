"""`sounding.toml` as typed settings; every error names the file, the key, what was expected and an example."""

from sounding.config.loading import load_config
from sounding.config.settings import PluginSettings, Settings, Store, cores
from sounding.config.tables import DaemonTable, ResultsTable, StoreTable

__all__ = [
    "DaemonTable",
    "PluginSettings",
    "ResultsTable",
    "Settings",
    "Store",
    "StoreTable",
    "cores",
    "load_config",
]
