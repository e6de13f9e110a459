"""A proxy for the pages of Prefect and MLflow, behind the desk's sign-in."""
