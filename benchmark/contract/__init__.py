"""The contract between the harness and its plug-ins, in parts; plug-ins import it from `benchmark.api`."""
