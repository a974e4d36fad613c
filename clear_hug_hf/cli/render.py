"""`clear-hug render`: draw a recording as a paper ECG."""

from ..workflows.render import RenderArguments, render
from ..workflows.shared import say


ARGUMENTS = (RenderArguments,)
DESCRIPTION = """\
Draw 10 s of a recording (a WFDB record, or a file in another format) as a page of ECG paper, at
25 mm/s and 10 mm/mV. Each column of leads shows its own part of the 10 s, as on paper. Missing leads are
blank, except that III, aVR, aVL and aVF are computed from I and II."""
EXAMPLES = """\
  clear-hug render patient7.hea page.png
  clear-hug render patient7.hea page.png --layout 12x1 --start 20 --dpi 300
  clear-hug render patient7.hea model_input.png --size 256 256
  clear-hug render patient7.hea photograph.jpg --random-style --augment 1 --seed 3
  clear-hug render ptb-xl/00001_lr normalized.png --millivolts-per-unit 0.2
"""


def run(arguments: RenderArguments) -> int:
    """Run `render` and return the exit status."""
    result = render(arguments)
    height, width = result.image.shape[:2]
    say(
        f"{arguments.output}: {result.record_id}, {result.start:g} to {result.end:g} s of {result.seconds:g} s, "
        f"{arguments.layout}, {width} x {height} px"
    )
    if result.blank_leads:
        say(f"blank leads, without a signal in this interval: {', '.join(result.blank_leads)}")
    return 0
