import os
import pickle
import shutil
import signal
import socket
import subprocess
import sys
import time

import psutil
import pytest
from federating import CLEAR, FIVE, NAMES, InProcessChannel, make_coordinator, make_sites, write_sites

from primia.errors import DataError, SiteRefusal
from primia.federation import messages as m
from primia.federation.channel import UnavailableError, exchange
from primia.federation.codec import encode
from primia.federation.local_channel import LocalChannel
from primia.federation.run import federate

pytestmark = pytest.mark.system  # starts a process per hospital


def local_channel(folders, state, names=NAMES):
    return LocalChannel(
        {name: folders / name for name in names},
        states={name: state / "sites" / name for name in names},
        ledgers=state / "ledgers",
    )


@pytest.fixture(scope="module")
def describing(site_folders, tmp_path_factory):
    with local_channel(site_folders, tmp_path_factory.mktemp("state"), names=["north"]) as channel:
        yield channel


@pytest.fixture(scope="module")
def uninterrupted(site_folders, params_with, tmp_path_factory):
    """The model that sites in this very process agree on."""
    state = tmp_path_factory.mktemp("state")
    return make_coordinator(params_with(), InProcessChannel(make_sites(site_folders, state)), state).run()


def test_processes_give_the_same_bits_to_a_coordinator_that_cannot_see_their_folders(
    uninterrupted, params_with, tmp_path, monkeypatch
):
    folders = write_sites(tmp_path / "hospitals")
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path / "elsewhere")
    processes, seen = [], []

    def remove_the_folders(record):
        seen.append(record)
        processes.extend(
            child for child in psutil.Process().children() if "primia.federation.site_process" in child.cmdline()
        )
        shutil.rmtree(folders, ignore_errors=True)

    result = federate(params_with(), sites=folders, state=tmp_path / "state", on_round=remove_the_folders)
    assert seen == list(result.records)
    assert result.digest == uninterrupted.digest
    assert result.model.digest() == uninterrupted.model.digest()
    assert len(set(processes)) == 3
    assert not any(process.is_running() for process in processes)


def test_a_site_that_dies_is_replaced_and_one_that_cannot_come_back_stops_the_run_until_it_is_mended(
    uninterrupted, site_folders, params_with, tmp_path, caplog
):
    roster = tmp_path / "sites" / "hill" / "roster.json"

    def harm(record):
        os.kill(channel.process_ids()["river" if record.round == 1 else "hill"], signal.SIGKILL)
        if record.round == 2:
            roster.write_text("{")

    with (
        local_channel(site_folders, tmp_path) as channel,
        pytest.raises(DataError, match=r"Hospital hill refuses the plan: .*roster.json is not valid JSON"),
    ):
        make_coordinator(params_with(), channel, tmp_path, on_round=harm).run()
    assert "hospital river: its process was ended by signal 9" in caplog.text

    roster.unlink()
    seen = []
    channel = InProcessChannel(make_sites(site_folders, tmp_path))  # another channel, the same run
    result = make_coordinator(params_with(), channel, tmp_path, on_round=seen.append).run()
    assert result.digest == uninterrupted.digest
    assert [record.round for record in seen] == [3]
    assert len(result.records) == 3


def test_a_hospital_without_images_says_so(tmp_path):
    with (
        local_channel(tmp_path / "nowhere", tmp_path, names=["hill"]) as channel,
        pytest.raises(DataError, match=r"Hospital hill refuses to start: .*train.safetensors is missing"),
    ):
        exchange(channel, {"hill": m.Describe()}, m.Description, step="to start", deadline_s=60)


def test_a_site_that_hangs_or_talks_nonsense_is_named_and_can_be_replaced(site_folders, tmp_path):
    hello = {"north": m.Describe()}
    with local_channel(site_folders, tmp_path, names=["north"]) as channel:
        site = channel._sites["north"]
        refusal = site.ask(b"\xc1nonsense", deadline_s=60)  # what a site cannot read it refuses, and lives
        assert "not a message" in refusal.reason
        os.kill(site.process.pid, signal.SIGSTOP)
        late = channel.ask(hello, deadline_s=0.2).failed
        assert late == {"north": "it gave no answer within 0.2 s (federation.deadline_s)"}
        assert channel.ask(hello, deadline_s=60).failed == late  # it stays down until it is replaced
        channel.restart("north")
        assert channel.ask(hello, deadline_s=60).received["north"].name == "north"
        received = channel.bytes_received()
        assert received > 2 * 4

        site = channel._sites["north"]
        site.hang_up()
        site._stream, theirs = socket.socketpair()
        with theirs:
            theirs.sendall(b"\x00\x00\x00\x03abc")
            answers = channel.ask(hello, deadline_s=60)
        assert answers.failed == {"north": "it answered nonsense: 3 bytes are not a message of protocol version 5."}
    assert str(UnavailableError(answers.failed, step="hello")).startswith("No usable answer to hello (hospital north")


def test_a_hospital_that_hangs_is_left_out_of_the_round_and_brought_back(site_folders, params_with, tmp_path):
    def freeze(record):
        if record.round == 1:
            os.kill(channel.process_ids()["lake"], signal.SIGSTOP)

    params = params_with(preprocess__hospitals=list(FIVE), federation__rounds=2, federation__deadline_s=15.0)
    with local_channel(site_folders, tmp_path, names=FIVE) as channel:
        result = make_coordinator(params, channel, tmp_path, on_round=freeze).run()
    assert [record.participants for record in result.records] == [5, 4]
    train, evaluate = result.sessions[-2:]
    assert train.dropped == {"lake": "it gave no answer within 15 s (federation.deadline_s)"}
    assert len(evaluate.participants) == 5
    assert set(result.ledgers) == set(FIVE)


def test_a_run_in_clear_needs_the_owner_of_all_hospitals(uninterrupted, site_folders, params_with, tmp_path):
    params = params_with(secure_aggregation__scheme="none")
    with pytest.raises(SiteRefusal, match=r"Hospital north refuses the plan: .*allow_clear.*floors.json"):
        federate(params, sites=site_folders, state=tmp_path)
    result = federate(params, sites=site_folders, state=tmp_path, floors=CLEAR)
    assert result.digest == uninterrupted.digest
    assert not list(tmp_path.glob("sites/*/floors.json"))  # the consent was for this call


@pytest.mark.parametrize(
    "raw", [b"", b"\xc1nonsense", pickle.dumps(print), encode(m.Describe())[:-1], b"\x00" * 100_000]
)
def test_a_process_refuses_what_it_cannot_read_in_one_sentence_and_lives(describing, raw):
    refusal = describing._sites["north"].ask(raw, deadline_s=60)
    assert refusal.reason.endswith("bytes are not a message of protocol version 5.")
    assert describing.ask({"north": m.Describe()}, deadline_s=60).received["north"].name == "north"


def test_a_frame_beyond_the_limit_ends_the_process_and_nothing_else(site_folders, tmp_path):
    with local_channel(site_folders, tmp_path, names=["north"]) as channel:
        channel.ask({"north": m.Describe()}, deadline_s=60)
        site = channel._sites["north"]
        site._stream.sendall(b"\xff\xff\xff\xff")
        refusal = site.ask(encode(m.Describe()), deadline_s=60)
        assert "longer than" in refusal.reason
        channel.restart("north")
        assert channel.ask({"north": m.Describe()}, deadline_s=60).received["north"].name == "north"


COORDINATOR = """
import sys
from pathlib import Path
from federating import parameters
from primia.federation.run import federate

if __name__ == "__main__":
    repository, sites, state = map(Path, sys.argv[1:])
    federate(parameters(repository), sites=sites, state=state, on_round=lambda r: print(r.round, flush=True))
"""


def test_a_killed_coordinator_takes_its_sites_along_and_is_resumed(
    uninterrupted, site_folders, params_with, tmp_path, request
):
    here = request.path.parent
    repository = here.parents[1]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(here), str(repository)])}
    with subprocess.Popen(
        [sys.executable, "-c", COORDINATOR, str(repository), str(site_folders), str(tmp_path)],
        stdout=subprocess.PIPE,
        env=environment,
    ) as coordinator:
        assert coordinator.stdout.readline().strip() == b"1"
        sites = psutil.Process(coordinator.pid).children(recursive=True)
        assert len(sites) == 3
        coordinator.kill()
    until = time.monotonic() + 20
    while any(site.is_running() and site.status() != psutil.STATUS_ZOMBIE for site in sites):
        assert time.monotonic() < until, "a site outlives its coordinator"
        time.sleep(0.05)
    seen = []
    channel = InProcessChannel(make_sites(site_folders, tmp_path))  # another channel, the same run
    result = make_coordinator(params_with(), channel, tmp_path, on_round=seen.append).run()
    assert result.digest == uninterrupted.digest
    assert len(result.records) == 3
    assert 1 <= len(seen) <= 2
