"""The log stays small, whatever strangers do."""

import json
from pathlib import Path

from primia.diagnosis.service.events import EventLog


class Clock:
    now = 0.0

    def __call__(self) -> float:
        return self.now


def events(path: Path) -> list[dict]:
    return [json.loads(line) for line in path.read_text().splitlines()]


def test_strangers_get_some_lines_and_a_count_of_the_rest(tmp_path) -> None:
    clock = Clock()
    log = EventLog(tmp_path / "events.jsonl", clock=clock)
    for number in range(10_000):
        clock.now = number / 1000  # ten seconds
        log.write("request", anonymous=True, status=401)
    log.write("request", client="0a0b0c0d", status=200)
    log.close()
    written = events(tmp_path / "events.jsonl")
    of_strangers = [line for line in written if line.get("status") == 401]
    assert 100 <= len(of_strangers) <= 151
    assert len(of_strangers) + sum(line["lines"] for line in written if line["event"] == "left_out") == 10_000
    assert [line["client"] for line in written if "client" in line] == ["0a0b0c0d"]
    assert written[-1] == {**written[-1], "event": "left_out"}


def test_old_lines_go_before_the_disk_is_full(tmp_path) -> None:
    path = tmp_path / "events.jsonl"
    log = EventLog(path, file_bytes=2000)
    for number in range(500):
        log.write("request", client="0a0b0c0d", number=number)
    log.close()
    files = [tmp_path / "events.jsonl.2", tmp_path / "events.jsonl.1", path]
    assert sorted(tmp_path.iterdir()) == sorted(files)
    assert all(each.stat().st_size < 2200 and each.stat().st_mode & 0o777 == 0o600 for each in files)
    numbers = [line["number"] for each in files for line in events(each)]
    assert numbers == list(range(numbers[0], 500))
