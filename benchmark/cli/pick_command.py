"""The command `pick`: the next images to label."""

from __future__ import annotations

from collections.abc import Sequence

import typer

from benchmark.cli.display import show_activity
from benchmark.cli.terminal import err, say
from benchmark.experiment.pick_settings import PickSettings
from benchmark.system import activity
from benchmark.text.words import plural


def pick_images(arguments: Sequence[str]) -> None:
    """Picks images as the settings say; prints the file where none is to be written."""
    from benchmark.runner.picking.run_pick import pick

    with show_activity(err), activity.stage("picking"):
        picks, text = pick(arguments)
    for line in picks.remarks:
        say(line)
    seconds = ", ".join(f"{SECONDS_WORDS[name]} {value:.1f} s" for name, value in picks.seconds.items() if value)
    to = next((word.partition("=")[2] for word in reversed(arguments) if word.startswith("to=")), PickSettings.to)
    place = f" in {to}" if to else ""
    if not to:
        typer.echo(text, nl=False)
    say(
        f"{plural(len(picks), 'pick')}{place}: of {plural(picks.num_unlabelled, 'unlabelled image')}, with "
        f"{picks.num_labelled:,} labelled ({seconds})"
    )


SECONDS_WORDS = {"fit": "training", "select": "selection", "encode": "encodings"}
