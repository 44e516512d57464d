"""Report on clips: ``python tools/motion_report.py DIR [out=FILE.html] [strips=60]``.

Writes one HTML page that needs nothing else (``DIR/report.html``): tables and plots over the clips of a directory - fit
by site, limits, couplings, floor and self-penetration, slip, tendon-length jumps, joint speed and jerk, left against
right -, the worst frames drawn, and a strip of frames of the clips with the worst fit (``strips`` of them). Every table
is also written as CSV beside it. It reads the clip files and ``manifest.csv``; what a clip allows is measured anew.

out     page to write (.html); default: DIR/report.html
strips  clips of the worst fit that get a strip of frames; default: 60

Exit status: 0 written, 2 an option or a clip cannot be used.

Example: python tools/motion_report.py clips out=clips.html strips=10
"""

from __future__ import annotations

import sys
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from mm_torch.config.load import RecipeError
from mm_torch.config.options import read_options
from mm_torch.motion.clip import MotionError
from sim_models.registry import BodyError
from tools.report.measure import measure_directory
from tools.report.page import write_report
from tools.retargeting.manifest import ManifestError


def main(arguments: list[str]) -> int:
    """Run the command; returns the exit status."""
    if {"-h", "--help"} & set(arguments):
        print((__doc__ or "").strip())
        return 0
    try:
        directories = [a for a in arguments if "=" not in a]
        options = read_options([a for a in arguments if "=" in a], {"out": "", "strips": 60})
        if len(directories) != 1:
            raise RecipeError(f"{len(directories)} directories given: python tools/motion_report.py DIR [out=FILE.html]")
        page = Path(options["out"] or Path(directories[0]) / "report.html")
        if page.suffix != ".html":
            raise RecipeError(f"out={page}: must end in .html")
        if options["strips"] < 0:
            raise RecipeError(f"strips={options['strips']}: must be 0 or more")
        start = time.perf_counter()
        collection = measure_directory(Path(directories[0]))
        files = write_report(collection, page, options["strips"])
    except (RecipeError, MotionError, ManifestError, BodyError) as error:
        print(f"motion_report: {error}", file=sys.stderr)
        return 2
    print(f"{len(collection.clips)} clips, {time.perf_counter() - start:.1f} s: {', '.join(str(f) for f in files)}")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
