"""The command `primia attack`: attack a trained model by hand, without the pipeline."""

import os
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from primia.attacks.budget import BudgetName

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from primia.attacks.campaign import Campaign
    from primia.attacks.contract import AttackReport
    from primia.attacks.scene import Scene

Model = Annotated[Path, typer.Option(help="Folder of the model: model.json and weights.safetensors.")]
Images = Annotated[Path, typer.Option(help="Image set of patients who were not trained on.", metavar="FILE")]
Privacy = Annotated[
    Path | None,
    typer.Option(help="privacy.json of the training; without it the model counts as trained without privacy."),
]
Settings = Annotated[Path, typer.Option(help="Settings of the training and of the attacks.", metavar="FILE")]
Names = Annotated[list[str] | None, typer.Option("--attack", help="Name of an attack, several times; without it, all.")]
Budget = Annotated[BudgetName | None, typer.Option(help="Instead of attack.budget.")]
Seed = Annotated[int | None, typer.Option(min=0, max=2**32 - 1, help="Instead of attack.seed.")]
Pictures = Annotated[
    bool, typer.Option("--pictures", help="Keep images of test patients who agreed, and what attackers found of them.")
]
Sites = Annotated[Path, typer.Option(help="Folder of the hospitals; read with attack.membership: released.")]
Out = Annotated[Path, typer.Option(help="Folder for attack.json, curves and pictures; replaced as a whole.")]
State = Annotated[Path, typer.Option(help="Where finished parts wait for an interrupted run to go on.")]


def attack(
    model: Model = Path("models/federated"),
    images: Images = Path("data/test/test.safetensors"),
    privacy: Privacy = None,
    params: Settings = Path("params.yaml"),
    names: Names = None,
    budget: Budget = None,
    seed: Seed = None,
    pictures: Pictures = False,
    sites: Sites = Path("data/sites"),
    out: Out = Path("attack-results"),
    state: State = Path(".state/attack"),
) -> None:
    """Attack a trained model, and say PASS, FAIL or INCONCLUSIVE of each attack, and why.

    Attacks: gradient_retrieval, round_retrieval, gradient_inversion, imprint, membership, one_run_audit. A verdict is a
    result and no error: the exit status is 0 whatever it is. After an interruption the same command goes on.
    """
    from primia.attacks.campaign import Campaign, attacks_on
    from primia.attacks.results import write_results
    from primia.attacks.subject import subject_of
    from primia.files import folder_in_progress, make_folder

    _require_results(out)
    make_folder(state)
    changed = {"budget": budget, "seed": seed, "pictures": pictures or None}
    scene = _scene(model, images, privacy, params, changed=changed, sites=sites)
    attacks = attacks_on(scene, names or ())
    try:
        with folder_in_progress(out) as folder:  # whose place is tried before hours of work, not after them
            with _bar() as advance:
                campaign = Campaign(scene, attacks, state, on_progress=advance)
                _do_all(campaign)
            reports = campaign.reports()
            write_results(folder, reports, subject_of(scene))
    except KeyboardInterrupt:
        typer.echo("primia: Interrupted; the same command goes on with the parts that are missing.", err=True)
        sys.stderr.flush()
        os._exit(130)  # threads under way may need minutes; what they would leave is written whole or not at all
    campaign.forget()
    if privacy is None:
        typer.echo("No --privacy was given: the model counts as trained without differential privacy.")
    _print(reports, out)


def _require_results(out: Path) -> None:
    """Refuse to replace a folder that holds anything but what this command writes."""
    from primia.attacks.results import FILES
    from primia.errors import ConfigError

    others = sorted({path.name for path in out.iterdir()} - set(FILES)) if out.is_dir() else []
    if others:
        raise ConfigError(f"--out {out} holds {others[0]}, which this command did not write; name another folder.")
    if out.exists() and not out.is_dir():
        raise ConfigError(f"--out {out} is a file; name a folder.")


def _do_all(campaign: "Campaign") -> None:
    """Do all parts, side by side."""
    workers = ThreadPoolExecutor(os.cpu_count())
    try:
        for _ in workers.map(campaign.do, campaign.jobs):
            pass
    finally:
        workers.shutdown(wait=False, cancel_futures=True)


def _scene(
    model: Path, images: Path, privacy: Path | None, params: Path, *, changed: "Mapping[str, Any]", sites: Path
) -> "Scene":
    import torch

    from primia.attacks.staging import set_scene
    from primia.attacks.statement import UNSTATED, read_statement
    from primia.config import load_params
    from primia.data.image_set import load_image_set
    from primia.models.released import load_model

    torch.set_num_threads(1)  # parts run side by side instead
    settings = load_params(params)
    given = {key: value for key, value in changed.items() if value is not None}
    settings = settings.model_copy(update={"attack": settings.attack.model_copy(update=given)})
    _require_strangers(images, sites)
    return set_scene(
        settings,
        UNSTATED if privacy is None else read_statement(privacy),
        load_model(model, classes=settings.ingest.classes),
        candidates=load_image_set(images),
        sites=sites,
    )


def _require_strangers(images: Path, sites: Path) -> None:
    """Refuse candidates whom the hospitals trained or validated on, where their images lie here."""
    from primia.data.image_set import patients_in
    from primia.errors import DataError

    candidates = patients_in(images)
    for path in sorted(sites.glob("*/*.safetensors")):
        if candidates & patients_in(path):
            raise DataError(
                f"{images} and {path} have patients in common, but attackers look for patients who were not trained "
                "on; name the images of others, or another folder of hospitals with --sites."
            )


@contextmanager
def _bar() -> "Iterator[Callable[[int, int], None]]":
    from rich.console import Console
    from rich.progress import Progress

    with Progress(console=Console(stderr=True)) as bars:
        bar = bars.add_task("Attacks", total=1000)
        yield lambda done, total: bars.update(bar, completed=done, total=total)


def _print(reports: "Sequence[AttackReport]", out: Path) -> None:
    from rich.console import Console
    from rich.table import Column, Table

    names = (Column(name, no_wrap=True) for name in ("attack", "round", "verdict"))
    table = Table(*names, f"success ({100 * reports[0].confidence:g} % interval)", "bound", "undefended", "guessing")
    for report in reports:
        outcome = report.outcome
        low, high = outcome.trials.interval(report.confidence)
        bound = "–" if outcome.bound is None else f"{outcome.bound:.3f}"
        table.add_row(
            report.name,
            str(report.model_round),
            report.verdict.value,
            f"{outcome.trials.rate:.3f} ({low:.3f} to {high:.3f})",
            bound,
            f"{outcome.positive.rate:.3f}",
            f"{outcome.trials.chance:.3f}",
        )
    console = Console()
    console.print(table)
    for report in reports:
        console.print(f"{report.name}, round {report.model_round}: {report.reason}", soft_wrap=True, highlight=False)
    console.print(f"\nEverything is in {out / 'attack.json'}.", soft_wrap=True, highlight=False)
