"""What all tests share, set before torch and Prefect are imported, and inherited by the processes that tests start."""

import os
import tempfile

from hypothesis import settings

PREFECT_HOME = tempfile.TemporaryDirectory(prefix="ghost-prefect-", ignore_cleanup_errors=True)

os.environ |= {
    "OMP_NUM_THREADS": "1",  # two workers on two cores
    "TOKENIZERS_PARALLELISM": "false",
    "HF_HUB_OFFLINE": "1",
    "PREFECT_HOME": PREFECT_HOME.name,
    "PREFECT_SERVER_EPHEMERAL_STARTUP_TIMEOUT_SECONDS": "120",
    "PREFECT_SERVER_ANALYTICS_ENABLED": "false",
    "PREFECT_LOGGING_LEVEL": "WARNING",  # at exit it still logs to the stream that pytest has closed
    "PREFECT_LOGGING_TO_API_ENABLED": "false",  # so that nothing is sent to a server that a test has ended
    "DO_NOT_TRACK": "1",
}

settings.register_profile("ghost", derandomize=True, deadline=None)
settings.load_profile("ghost")
