"""`pick` from its settings to its files; the command line and Python both call it."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from benchmark import config
from benchmark.experiment.pick_settings import PickSettings, own_types, setting_types
from benchmark.plugins import discovery
from benchmark.plugins.key_value import read_settings
from benchmark.plugins.paths import expand_home
from benchmark.runner.machine import prepare_machine
from benchmark.runner.picking.picks import Picks
from benchmark.system import activity, files


def pick(arguments: Sequence[str]) -> tuple[Picks, str]:
    """Picks the next images to label, and writes the files that the settings name.

    Args:
        arguments: `key=value` arguments, as on the command line.

    Returns:
        The picks, and the text of the file `to`, also where none is written.

    Raises:
        ValueError: a setting, a file or a label does not fit; nothing is written then.
    """
    typed_values, own = read_settings(arguments, setting_types()), own_types()
    settings = PickSettings(**{name: value for name, value in typed_values.items() if name in own})
    run_arguments = [word for word in arguments if word.partition("=")[0] not in own]
    run_settings = config.compose_settings(run_arguments, "pick")
    discovery.discover(run_settings.plugins)
    from benchmark.runner.large_pools import choose_large  # these import torch
    from benchmark.runner.picking import choose, contact_sheet, formats
    from benchmark.vision.data.user_cache import cache_folder

    try:
        scratch = cache_folder() / "pick"
    except OSError:  # the home folder is unknown
        scratch = None
    machine = prepare_machine(run_settings, scratch)
    if settings.shards:
        picks = choose_large.choose(settings, machine, run_settings)
    elif run_settings.launcher != "local" or run_settings.jobs != 1:
        raise ValueError("launcher= and jobs= share the writing of shards: set shards=DIR, or leave them out")
    else:
        picks = choose.choose(settings, machine, run_settings.cache_gb)
    text = formats.format_picks(picks, formats.find_format(settings.to, settings.format), settings.url_prefix)
    sheet = ""
    if settings.sheet:
        with activity.stage("drawing the contact sheet"):
            sheet = contact_sheet.draw_sheet(picks)
    if settings.to:
        formats.write_picks(Path(expand_home(settings.to, f"to={settings.to}")), text)
    if settings.sheet:
        files.write_atomically(Path(expand_home(settings.sheet, f"sheet={settings.sheet}")), sheet)
    return picks, text
