"""Checks a plug-in for what every plug-in must do, and says in words what fails."""

from benchmark.conformance.checks import Finding, failures, run_checks

__all__ = ["Finding", "failures", "run_checks"]
