"""Whether a ledger is whole: its chain, the heads its hospitals remember, and the head that others countersigned."""

from pathlib import Path

from pydantic import ValidationError

from primia.errors import PrivacyError
from primia.files import read_json
from primia.privacy.heads import Heads
from primia.privacy.ledger import Ledger
from primia.secagg.countersigned import Countersigned


def audit(ledger: Ledger, *, sites: Path, transcript: Path | None = None) -> str:
    """Say in a few words what was found in order.

    A transcript holds the head that a hospital's ledger had at the beginning of the last session, signed by the
    hospital and countersigned by the others; the lines up to that head must still be there. Take it from whoever
    holds it in safety: another hospital, or the coordinator.

    Args:
        ledger: the ledger.
        sites: folder that holds the state folder of each hospital, with its heads.json and roster.json.
        transcript: a run's transcript.json.

    Raises:
        PrivacyError: the ledger was changed, rolled back or written anew; or the transcript names no hospital that
            keeps this ledger.
        ProtocolError: the transcript is not signed by enough pinned hospitals.
    """
    lines, found = ledger.verify(), []
    keepers = {path.parent.name: Heads(path.parent) for path in sorted(sites.glob("*/heads.json"))}
    keepers = {name: heads for name, heads in keepers.items() if ledger in heads}
    for heads in keepers.values():
        heads.check(ledger)
    found.append(f"the chain of {lines} lines is whole")
    if keepers:
        found.append(f"and as far as {', '.join(keepers)} remember")
    if transcript is not None:
        signed = _read(transcript)
        named = [name for name in keepers if name in {keys.name for keys in signed.keys}]
        if not named:
            raise PrivacyError(
                f"{transcript} names no hospital in {sites} that keeps {ledger.path}; take the transcript of a run on "
                "this source, or name the folder of the hospitals' states with --sites."
            )
        for name in named:
            pinned = {other: bytes.fromhex(key) for other, key in read_json(sites / name / "roster.json").items()}
            _find(signed.heads(pinned)[name], ledger, keeper=keepers[name], transcript=transcript)
        found.append(f"and as far as was countersigned in {signed.session} of run {signed.session.run}")
    return ", ".join(found) + "."


def remembered(sites: Path) -> set[str]:
    """The sources of all ledgers that hospitals in `sites` remember, whether or not the files are still there."""
    return {source for path in sites.glob("*/heads.json") for source in Heads(path.parent).sources()}


def _find(head: str, ledger: Ledger, *, keeper: Heads, transcript: Path) -> None:
    """A hospital may keep several ledgers, and the transcript tells only the head of one."""
    others = [Ledger(ledger.path.with_name(f"{source}.jsonl")) for source in keeper.sources() - {ledger.source}]
    there = [other for other in others if other.holds(head)]
    if there and not ledger.holds(head):
        raise PrivacyError(f"{transcript} is of a run on another source; hold it against {there[0].path} instead.")
    ledger.verify(head=head)


def _read(path: Path) -> Countersigned:
    try:
        return Countersigned.model_validate_json(path.read_bytes())
    except (OSError, ValidationError) as error:
        raise PrivacyError(f"{path} is no transcript; take ledger/transcript.json of a run's results.") from error
