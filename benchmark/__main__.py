"""The program `python -m benchmark`."""

import os
import sys

INSTALL_ROOT = os.path.dirname(os.path.dirname(os.path.realpath(__file__)))

# Python puts the working folder first on the path: a user's random.py or wandb.py there would shadow the library.
if not sys.flags.safe_path and INSTALL_ROOT != os.getcwd() == sys.path[0]:
    sys.path.append(sys.path.pop(0))

if instruction := os.environ.get("_AL_BENCHMARK_COMPLETE"):  # a shell asks for completions
    from benchmark.cli.completion import answer_shell

    answer_shell(instruction)
else:
    from benchmark.cli.commands import command

    command()
