"""The revisions, numbered 0001 and up, so that a version is an integer."""
