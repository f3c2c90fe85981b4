"""What every plug-in must do, checked on one plug-in and said in words."""

from benchmark.conformance.checks import Finding, failures, run_checks

__all__ = ["Finding", "failures", "run_checks"]
