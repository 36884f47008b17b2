"""The jobs that ship with adstream."""
