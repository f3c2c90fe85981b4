"""The parts of the contract between the harness and its plug-ins; plug-ins import them from `benchmark.api`."""
