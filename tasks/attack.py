"""The attack stage: parts of attacks, side by side as mapped tasks, and the verdict over all of them."""

import os

import torch
from prefect import task
from prefect.cache_policies import NO_CACHE

from primia.attacks.campaign import Campaign, Job, attacks_on
from primia.attacks.results import write_results
from primia.attacks.staging import set_scene
from primia.attacks.statement import read_statement
from primia.attacks.subject import subject_of
from primia.config import Params
from primia.data.image_set import load_image_set
from primia.files import folder_in_progress
from primia.models.released import load_model
from tasks.environment import state_folder
from tasks.paths import ATTACK, FEDERATED, FEDERATION, SITES, TEST_SET
from tasks.progress import progress

WORKERS = os.cpu_count() or 1


@task(cache_policy=NO_CACHE)
def attack_model(params: Params) -> None:
    """Write results/attack. Test patients are the candidates: nobody was trained on them.

    An interrupted stage goes on with the parts that are missing.
    """
    torch.set_num_threads(1)  # the parts run side by side instead
    scene = set_scene(
        params,
        read_statement(FEDERATION / "privacy.json"),
        load_model(FEDERATED, classes=params.ingest.classes),
        candidates=load_image_set(TEST_SET),
        sites=SITES,
    )
    with progress("Attacks, per mille done") as advance:
        campaign = Campaign(scene, attacks_on(scene), state_folder() / "attack", on_progress=advance)

        # A closure, since Prefect would look through whatever it is given, images included.
        @task(name="attack part", task_run_name="{name}", cache_policy=NO_CACHE)
        def attack_part(name: str) -> None:
            campaign.do(jobs[name])

        jobs: dict[str, Job] = {job.name: job for job in campaign.jobs}
        attack_part.map(list(jobs)).result()
    with folder_in_progress(ATTACK) as folder:
        write_results(folder, campaign.reports(), subject_of(scene))
    campaign.forget()
