"""Ablations of sample reuse: ``python tools/ablations.py out=DIR [key=value ...]``.

Trains one recipe with every number of gradient epochs and every number of minibatches given, each with several seeds:
ordinary runs of ``python -m mm_torch.train`` in ``out/<setting>/seed<N>``, one after the other. A finished run is not
repeated, a begun one goes on. Then draws reward, KL divergence and the policy's standard deviation over the control steps
(``out/ablations.png``: mean over seeds, band from the lowest to the highest) and writes a table with what follows from it
(``out/ablations.md``).

Exit status: 0 done, 2 an option cannot be used, 75 interrupted (the same command goes on).

Settings:
  out=DIR
      directory of the runs and of the result (default runs/ablations)
  recipe=NAME
      recipe that is varied (default ablation_bimanual)
  epochs=N,...
      gradient epochs a rollout, at the recipe's number of minibatches (default 1,3,10, as in the paper)
  minibatches=N,...
      minibatches a rollout, at one epoch (default 32,16,8,4,2: with the default recipe 32 to 512 samples each)
  seeds=N
      seeds of every setting (default 3)
  total_steps=N
      control steps of a run; otherwise the recipe's
  train=false
      only draw and write what is there
  page=FILE.md
      also put the table between the two ``<!-- ablations -->`` lines of that file, and the picture into images/ beside it

Examples:
  python tools/ablations.py out=runs/ablations
  python tools/ablations.py out=runs/ablations train=false page=docs/ablations.md
  python tools/ablations.py out=runs/ablations_body recipe=fullbody_generalist minibatches=32,64,128
"""

from __future__ import annotations

import shutil
import signal
import subprocess
import sys
from pathlib import Path

import torch

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from mm_torch.callbacks.stopping import INTERRUPTED
from mm_torch.config.load import RecipeError, load_recipe
from mm_torch.config.options import read_options
from tools.ablation.curves import Setting, draw, read_curves, read_metrics
from tools.ablation.verdict import into_page, report

OPTIONS = {
    "out": "runs/ablations", "recipe": "ablation_bimanual", "epochs": "1,3,10", "minibatches": "32,16,8,4,2", "seeds": 3,
    "total_steps": 0, "train": True, "page": "",
}
ROOT = Path(__file__).resolve().parents[1]
FAILED = "failed.txt"  # in the directory of a run that diverged: its last words


def numbers(key: str, text: str) -> list[int]:
    """Whole numbers above 0, separated by commas.

    Raises:
        RecipeError: anything else.
    """
    words = text.split(",")
    if not all(word.strip().isdecimal() and int(word) > 0 for word in words):
        raise RecipeError(f"{key}={text}: give whole numbers above 0, for example {key}=1,3,10")
    return [int(word) for word in words]


def run(words: list[str], run_dir: Path) -> int:
    """Train in ``run_dir`` until the run is finished or diverges; returns 0, or 75 where it was interrupted.

    Raises:
        RecipeError: training ends with another error.
    """
    recipe = load_recipe(words, cuda_available=torch.cuda.is_available())
    log = run_dir.with_suffix(".log")

    def finished() -> bool:
        return read_metrics(run_dir)["control_steps"].max(initial=0) >= recipe.total_steps

    if finished() or (run_dir / FAILED).exists():
        return 0
    if (run_dir / "checkpoints" / "last.ckpt").exists():
        words = [f"resume={run_dir}", f"total_steps={recipe.total_steps}"]
    elif run_dir.exists():
        shutil.rmtree(run_dir)  # ended before its first checkpoint
    run_dir.parent.mkdir(parents=True, exist_ok=True)
    print(f"python -m mm_torch.train {' '.join(words)}", flush=True)
    with log.open("a") as file:
        code = _wait(subprocess.Popen([sys.executable, "-m", "mm_torch.train", *words], stdout=file, stderr=file, cwd=ROOT))
    last = (log.read_text().splitlines() or ["no output"])[-1]
    if code == 2 and "gradients that are not finite" in last:  # it diverged, which is a result
        (run_dir / FAILED).write_text(f"{last}\n")
        print(last, flush=True)
        return 0
    if code not in (0, INTERRUPTED):
        raise RecipeError(f"training in {run_dir} ended with code {code} ({last}); see {log}")
    return 0 if finished() else INTERRUPTED


def _wait(process: subprocess.Popen[bytes]) -> int:
    """Exit code of a run; after Ctrl-C or SIGTERM it may save itself."""
    try:
        return process.wait()
    except KeyboardInterrupt:
        process.terminate()
        process.wait()
        return INTERRUPTED


def write_result(settings: dict[str, list[Setting]], out: Path, page: Path | None) -> None:
    """Picture and table of the runs in ``out``; settings without a run are left out.

    Raises:
        RecipeError: there is no run yet, or the page cannot take the table.
    """
    found = {name: [c for s in sweep if (c := read_curves(s, out))] for name, sweep in settings.items()}
    if not all(found.values()):
        raise RecipeError(f"out={out}: no runs there; leave train=false out to make them")
    draw(found, out / "ablations.png")
    text = report(*found.values())
    (out / "ablations.md").write_text(text)
    if page is not None:
        into_page(text, page)
        draw(found, page.parent / "images" / "ablations.png")
    print(text)


def main(arguments: list[str]) -> int:
    """Run the command; returns the exit status."""
    if {"-h", "--help"} & set(arguments):
        print((__doc__ or "").strip())
        return 0
    try:
        options = read_options(arguments, OPTIONS)
        out = Path(options["out"])
        budget = [f"total_steps={options['total_steps']}"] if options["total_steps"] else []
        common = [f"recipe={options['recipe']}", *budget]
        base = load_recipe(common, cuda_available=torch.cuda.is_available())
        samples = base.num_envs * base.ppo.rollout_steps
        sweeps = {
            "epochs": [Setting(n, base.ppo.minibatches, samples) for n in sorted(numbers("epochs", options["epochs"]))],
            "samples a minibatch": [Setting(1, n, samples)
                                    for n in sorted(numbers("minibatches", options["minibatches"]), reverse=True)],
        }
        settings = list(dict.fromkeys(s for sweep in sweeps.values() for s in sweep))
        jobs = [(out.resolve() / setting.name / f"seed{seed}",
                 [*common, f"ppo.epochs={setting.epochs}", f"ppo.minibatches={setting.minibatches}", f"seed={seed}"])
                for seed in range(options["seeds"]) for setting in settings]
        for _, words in jobs:  # whatever is wrong with them is told before hours of training
            load_recipe(words, cuda_available=torch.cuda.is_available())
        for run_dir, words in jobs if options["train"] else ():
            if run([*words, f"run_dir={run_dir}"], run_dir) != 0:
                return INTERRUPTED
        write_result(sweeps, out, Path(options["page"]) if options["page"] else None)
    except RecipeError as error:
        print(f"ablations: {error}", file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    sys.exit(main(sys.argv[1:]))
