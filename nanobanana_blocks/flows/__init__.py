"""The deployable flows; each reads like its own description."""
