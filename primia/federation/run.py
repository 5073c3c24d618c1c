"""The public entry point: one federation on this machine, from the prepared site folders to the released model."""

from collections.abc import Callable
from pathlib import Path

from primia.config import Params
from primia.federation import messages as m
from primia.federation.channel import exchange
from primia.federation.checkpoint import RoundRecord, open_run
from primia.federation.coordinator import START_DEADLINE_S, Coordinator, FederationResult
from primia.federation.local_channel import LocalChannel
from primia.federation.plan import draft_plan, privacy_plan


def federate(
    params: Params,
    *,
    sites: Path,
    state: Path,
    on_round: Callable[[RoundRecord], None] | None = None,
    on_result: Callable[[FederationResult], None] | None = None,
) -> FederationResult:
    """Train one model over the hospitals of `params`, each in a process of its own.

    An interrupted federation of the same plan (same parameters, same images) goes on after its last finished step;
    a finished one is not repeated from its files but run anew, and its privacy is charged anew.

    Args:
        params: all of params.yaml.
        sites: holds one folder per hospital with train.safetensors and validation.safetensors.
        state: where hospitals keep keys, ledgers and answers (`sites/<hospital>`), and the coordinator its runs
            (`federation/<run>`); it must outlive the call.
        on_round: called after each newly finished round.
        on_result: saves the result; only when it returns is the run finished, else the same call resumes.

    Raises:
        PrimiaError: one sentence with the hospital and the reason; nothing is lost, and the same call resumes.
    """
    names = params.preprocess.hospitals
    channel = LocalChannel(
        {name: sites / name for name in names}, states={name: state / "sites" / name for name in names}
    )
    with channel:
        privacy = privacy_plan(params)  # takes seconds, like the start of the processes
        requests: dict[str, m.Request] = dict.fromkeys(names, m.Describe())
        descriptions = exchange(channel, requests, m.Description, step="to start", deadline_s=START_DEADLINE_S)
        plan, folder = open_run(state / "federation", draft_plan(params, descriptions, privacy=privacy))
        coordinator = Coordinator(
            plan,
            channel=channel,
            folder=folder,
            deadline_s=params.federation.deadline_s,
            on_round=on_round,
            on_result=on_result,
        )
        return coordinator.run()
