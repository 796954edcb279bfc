"""What everything stands on: types, geometry, metrics, the schema of answers, files, locks. Imports nothing of ours."""
