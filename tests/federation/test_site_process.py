"""The loop that answers requests, in this process."""

import json
import logging
import socket
import threading

from federating import InProcessChannel, Joined, make_sites

from primia.federation import messages as m
from primia.federation import wire
from primia.federation.codec import decode_response, encode
from primia.federation.site_process import serve


def test_an_unforeseen_error_ends_one_answer_in_a_fixed_sentence_and_no_more(
    site_folders, params_with, tmp_path, caplog
):
    sites = make_sites(site_folders, tmp_path)
    plan = Joined(params_with(), InProcessChannel(sites), tmp_path).plan
    roster = tmp_path / "sites" / "north" / "roster.json"
    roster.write_text(json.dumps(sorted(plan.hospitals)))  # names alone: nothing in the program reckons with a list
    ours, theirs = socket.socketpair()
    hospital = threading.Thread(target=serve, args=(theirs, sites["north"]))
    hospital.start()
    answers = []
    for request in (m.Join(plan=plan.canonical()), m.Describe()):
        wire.send(ours, encode(request))
        answers.append(decode_response(wire.receive(ours)))
    ours.close()
    hospital.join(timeout=60)
    theirs.close()
    assert answers[0] == m.Refusal(kind="federation", reason="the hospital could not answer for a reason of its own.")
    assert answers[1].name == "north"
    # The log names the kind of error only: its text may quote what is in memory.
    assert [record.getMessage() for record in caplog.records if record.levelno >= logging.ERROR] == [
        "an unforeseen AttributeError"
    ]
