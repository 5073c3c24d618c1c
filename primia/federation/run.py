"""The public entry point: one federation on this machine, from the prepared site folders to the released model."""

from collections.abc import Callable
from pathlib import Path

from primia.config import Params
from primia.federation import messages as m
from primia.federation.channel import Channel, UnavailableError, ask
from primia.federation.checkpoint import RoundRecord, absent_hospitals, open_run
from primia.federation.cohort import START_DEADLINE_S
from primia.federation.coordinator import Coordinator, FederationResult
from primia.federation.drafting import described_hospital, draft_plan, privacy_plan
from primia.federation.floors import Floors
from primia.federation.local_channel import LocalChannel
from primia.federation.plan import Plan, PrivacyPlan, StudentPlan


def federate(
    params: Params,
    *,
    sites: Path,
    state: Path,
    floors: Floors | None = None,
    on_round: Callable[[RoundRecord], None] | None = None,
    on_result: Callable[[FederationResult], None] | None = None,
) -> FederationResult:
    """Train one model over the hospitals of `params`, each in a process of its own.

    An interrupted federation of the same plan (same parameters, same images) goes on after its last finished step;
    a finished one is not repeated from its files but run anew, and its privacy is charged anew.

    Args:
        params: all of params.yaml.
        sites: holds one folder per hospital with train.safetensors and validation.safetensors.
        state: where hospitals keep keys and answers (`sites/<hospital>`) and what their patients' privacy has spent
            (`ledgers/<source>.jsonl`), and the coordinator its runs (`federation/<run>`); it must outlive the call.
        floors: what all hospitals demand in this call, instead of their floors.json. Only for one machine whose owner
            owns all hospitals: demonstrations and baselines in clear.
        on_round: called after each newly finished round.
        on_result: saves the result; only when it returns is the run finished, else the same call resumes.

    Raises:
        PrimiaError: one sentence with the hospital and the reason; nothing is lost, and the same call resumes.
    """
    runs = state / "federation"
    with local_hospitals(params, sites=sites, state=state, floors=floors) as channel:
        privacy = privacy_plan(params)  # takes seconds, like the start of the processes
        plan, folder = open_run(runs, describe(channel, params, runs=runs, privacy=privacy))
        coordinator = Coordinator(
            plan,
            channel=channel,
            folder=folder,
            deadline_s=params.federation.deadline_s,
            on_round=on_round,
            on_result=on_result,
        )
        return coordinator.run()


def local_hospitals(params: Params, *, sites: Path, state: Path, floors: Floors | None) -> LocalChannel:
    """The channel to the hospitals of `params` on this machine; see `federate` for the arguments."""
    names = params.preprocess.hospitals
    return LocalChannel(
        {name: sites / name for name in names},
        states={name: state / "sites" / name for name in names},
        ledgers=state / "ledgers",
        floors=floors,
    )


def describe(
    channel: Channel,
    params: Params,
    *,
    runs: Path,
    privacy: PrivacyPlan | None,
    student: StudentPlan | None = None,
) -> Plan:
    """Ask every hospital who it is, and draft the plan; one that was part of an unfinished run may be absent.

    Raises:
        PrimiaError: a hospital that a new run needs refuses to start.
        UnavailableError: it does not answer.
    """
    requests: dict[str, m.Request] = dict.fromkeys(params.preprocess.hospitals, m.Describe())
    described, lost = ask(channel, requests, m.Description, step="to start", deadline_s=START_DEADLINE_S)
    known = absent_hospitals(runs, {name: described_hospital(told) for name, told in described.items()})
    if lost.keys() - known.keys():
        for why in lost.values():
            if why.refusal is not None:
                raise why.refusal
        raise UnavailableError({name: why.reason for name, why in lost.items()}, step="the first question")
    return draft_plan(params, described, privacy=privacy, known={name: known[name] for name in lost}, student=student)
