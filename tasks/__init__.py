"""One thin Prefect task per stage: load, call ghost, store."""
