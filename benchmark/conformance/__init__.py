"""What every plug-in must do, checked on one plug-in and said in words."""

from benchmark.conformance.checks import Finding, check, failures

__all__ = ["Finding", "check", "failures"]
