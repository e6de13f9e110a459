"""The routes of Prefect and MLflow that each role may request through the desk. All other routes are refused.

Both tools also read by POST, so the method alone does not separate reading from writing. Nobody writes to MLflow
through the desk, because the gates judged its runs and versions. The routes are those of Prefect 3.8 and MLflow 3.17. A
test checks every route of the installed versions.
"""

from __future__ import annotations

import re

READERS = ("engineer", "auditor")
READ_METHODS = ("GET", "HEAD")
ID = r"[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}"

# Prefect: /api/<resource>/...; all other paths are the files of its page.
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
PREFECT_FORBIDDEN = re.compile(r"/api/(admin/settings|block_documents|variables|artifacts/latest/filter/none)(/.*)?")

# MLflow: below /mlflow, its --static-prefix.
MLFLOW_READS = re.compile(
    r"/mlflow/ajax-api/[23]\.0/mlflow/("
    r"(experiments|runs|logged-models|traces|issues|datasets)/search|experiments/search-datasets"
    r"|registered-models/get-latest-versions|traces/(metrics|batchGetInfos|calculate-filter-correlation))"
    r"|/mlflow/ajax-api/2\.0mlflow/experiments/search-datasets"
    r"|/mlflow/graphql"
)
MLFLOW_FORBIDDEN = re.compile(
    r"/mlflow/(ajax-)?(api|gateway|mcp)[^?]*/(gateway|assistant|jobs|secrets|webhooks|users)(/.*)?"
)


def tool_of(path: str) -> str:
    """The tool that a path belongs to."""
    return "mlflow" if path == "/mlflow" or path.startswith("/mlflow/") else "prefect"


def is_allowed(role: str, method: str, path: str) -> bool:
    """Whether a role may send this request. `path` is decoded once, as the tool will decode it."""
    if role not in READERS or not is_plain(path):
        return False
    tool = tool_of(path)
    if (PREFECT_FORBIDDEN if tool == "prefect" else MLFLOW_FORBIDDEN).fullmatch(path):
        return False
    if method in READ_METHODS:
        return True
    if method != "POST":
        return False
    if (PREFECT_READS if tool == "prefect" else MLFLOW_READS).fullmatch(path):
        return True
    return role == "engineer" and tool == "prefect" and PREFECT_WRITES.fullmatch(path) is not None


def is_plain(path: str) -> bool:
    """Whether the tool reads a path as the desk does: no parent folders, no characters that are decoded twice."""
    parts = path.split("/")
    return path.isprintable() and not {".", ".."} & set(parts) and not set(path) & set("%\\;") and "//" not in path
