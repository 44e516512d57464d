"""Model validation: ``python tools/validate_model.py body=NAME [fixes=NAME,...] [json=FILE] [out=DIR]``.

Checks a body, with its fingers and before the edits made for training: left/right symmetry, muscle jumps, dead muscles,
passive forces, tendon slack, inertia, segment masses and centres of mass, joint and control ranges, contact pairs,
strength. Prints the errors and warnings by check.

Exit status: 0 no error found, 1 at least one ERROR, 2 an option cannot be used.

Settings:
  body=NAME
      body to check (python -m mm_torch.bodies lists them)
  fixes=NAME,...
      repairs to make first (docs/model_validation.md); none checks the published model
  json=FILE
      write all findings there
  out=DIR
      write report.html and report.json there

Examples:
  python tools/validate_model.py body=myo_fullbody out=validation
  python tools/validate_model.py body=myo_bimanual fixes=phantom_inertia,lat1_length json=arms.json
"""

from __future__ import annotations

import sys
import time
from collections import Counter
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from mm_torch.config.load import RecipeError
from mm_torch.config.options import read_options
from sim_models.fixes import FixError, apply_fixes
from sim_models.registry import PUBLISHED, BodyError, check_name, load_body
from tools.validation.page import summary, write_json, write_page
from tools.validation.registry import run_checks
from tools.validation.subject import Subject

OPTIONS = {"body": "", "fixes": "", "json": "", "out": ""}


def load_subject(name: str, fixes: list[str]) -> Subject:
    """The published model of a body with fixes made, otherwise unedited.

    Raises:
        BodyError: no body has that name.
        FixError: a fix is unknown or does not apply.
    """
    check_name(name)
    spec = PUBLISHED[name]()
    apply_fixes(spec, fixes)
    return Subject(name, spec.compile(), load_body(name).lateral_axis)


def main(arguments: list[str]) -> int:
    """Run the command; returns the exit status."""
    if {"-h", "--help"} & set(arguments):
        print((__doc__ or "").strip())
        return 0
    start = time.perf_counter()
    try:
        options = read_options(arguments, OPTIONS)
        fixes = [f for f in options["fixes"].split(",") if f]
        subject = load_subject(options["body"], fixes)
    except (RecipeError, BodyError, FixError) as error:
        print(f"validate_model: {error}", file=sys.stderr)
        return 2
    findings = run_checks(subject)
    content = summary(subject, fixes, findings)
    if options["json"]:
        write_json(content, Path(options["json"]))
    if options["out"]:
        directory = Path(options["out"])
        directory.mkdir(parents=True, exist_ok=True)
        write_json(content, directory / "report.json")
        write_page(subject, content, findings, directory / "report.html")
    for finding in findings:
        if finding.level == "ERROR":
            print(f"ERROR {finding.check} {finding.element}: {finding.text}")
    for check, count in Counter(f.check for f in findings if f.level == "WARN").items():
        print(f"WARN  {check}: {count}")
    verdicts = ", ".join(f"{count} {level}" for level, count in content["verdicts"].items())
    print(f"{subject.name}: {content['mass_kg']:.3f} kg, {verdicts}; {time.perf_counter() - start:.1f} s")
    return 1 if content["verdicts"]["ERROR"] else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
