"""What of Prefect and MLflow may be asked through the desk, by role. Whatever is not named here is refused.

Both read by POST as well, so that methods alone do not tell reading from writing. Nobody writes to MLflow from here:
its runs and versions are what the gates judged. The routes are those of Prefect 3.8 and MLflow 3.17; a test asks every
route that these have whether it is allowed.
"""

from __future__ import annotations

import re

READERS = ("engineer", "auditor")
READING = ("GET", "HEAD")
ID = r"[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}"

# Prefect: /api/<what>/...; everything else are the files of its page.
PREFECT_READS = re.compile(
    rf"/api/[a-z_/]+/(filter|count|paginate|history|lateness|latest/filter|latest/count)"
    rf"|/api/(work_pools|v2/work_pools)/[^/]+/(queues|workers)/(filter|count|paginate)"
    rf"|/api/events/count-by/[a-z-]+"
    rf"|/api/ui/[a-z_]+/[a-z-]+"
    rf"|/api/flow_runs/{ID}/input/filter"
)
PREFECT_WRITES = re.compile(
    rf"/api/flow_runs/{ID}/set_state"
    rf"|/api/deployments/{ID}/(pause_deployment|resume_deployment)"
)
PREFECT_SHUT = re.compile(r"/api/(admin/settings|block_documents|variables|artifacts/latest/filter/none)(/.*)?")

# MLflow: below /mlflow, its own --static-prefix.
MLFLOW_READS = re.compile(
    r"/mlflow/ajax-api/[23]\.0/mlflow/("
    r"(experiments|runs|logged-models|traces|issues|datasets)/search|experiments/search-datasets"
    r"|registered-models/get-latest-versions|traces/(metrics|batchGetInfos|calculate-filter-correlation))"
    r"|/mlflow/ajax-api/2\.0mlflow/experiments/search-datasets"
    r"|/mlflow/graphql"
)
MLFLOW_SHUT = re.compile(
    r"/mlflow/(ajax-)?(api|gateway|mcp)[^?]*/(gateway|assistant|jobs|secrets|webhooks|users)(/.*)?"
)


def tool_of(path: str) -> str:
    """The tool whose page a path is of."""
    return "mlflow" if path == "/mlflow" or path.startswith("/mlflow/") else "prefect"


def may_ask(role: str, method: str, path: str) -> bool:
    """Whether a role may send this request on. `path` is decoded once, as the tool will read it."""
    if role not in READERS or not is_plain(path):
        return False
    tool = tool_of(path)
    if (PREFECT_SHUT if tool == "prefect" else MLFLOW_SHUT).fullmatch(path):
        return False
    if method in READING:
        return True
    if method != "POST":
        return False
    if (PREFECT_READS if tool == "prefect" else MLFLOW_READS).fullmatch(path):
        return True
    return role == "engineer" and tool == "prefect" and PREFECT_WRITES.fullmatch(path) is not None


def is_plain(path: str) -> bool:
    """Whether a path means to the tool what it means here: no dots that climb, nothing that is decoded twice."""
    parts = path.split("/")
    return path.isprintable() and not {".", ".."} & set(parts) and not set(path) & set("%\\;") and "//" not in path
