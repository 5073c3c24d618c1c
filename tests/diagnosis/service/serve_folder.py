"""Run the service in a process of its own: state folder, bundle folder, then certificate and key if there are any."""

import sys
from pathlib import Path

from primia.diagnosis.service.release import Release
from primia.diagnosis.service.run import run_service
from primia.diagnosis.service.settings import ServiceSettings
from primia.errors import PrimiaError

if __name__ == "__main__":
    state, bundle, *tls = (Path(argument) for argument in sys.argv[1:])
    release = Release(name="chest", version="1", marks=None, folder=bundle)
    certificate, private_key = tls or (None, None)
    try:
        run_service(
            lambda: release,
            state=state,
            host="127.0.0.1",
            port=0,
            settings=ServiceSettings(workers=1, log=state / "events.jsonl"),
            certificate=certificate,
            private_key=private_key,
        )
    except PrimiaError as error:
        print(error, file=sys.stderr)
        sys.exit(1)
    assert not {"torch", "monai"} & set(sys.modules), "the service must not load torch"
    print("ended well")
