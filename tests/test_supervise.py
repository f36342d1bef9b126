"""A supervised command can be stopped well and leaves no process behind.

Real processes: a launcher that starts workers as torchrun does (a session each, RANK set), workers
that save on SIGTERM, grandchildren that sleep. Run: pytest tests/test_supervise.py
"""

import contextlib
import os
import signal
import subprocess
import sys
import textwrap
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import psutil
import pytest

from pipeline.errors import InterruptedRun, LaunchError
from pipeline.launch import supervise
from pipeline.launch.output import LineReader
from pipeline.launch.signals import StopRequests
from pipeline.launch.supervise import Outcome, run_supervised

# Starts two workers like torchrun: on SIGTERM it kills them, so it must not get one.
LAUNCHER = """
    import os, signal, subprocess, sys
    workers = [
        subprocess.Popen([sys.executable, "worker.py"], start_new_session=True,
                         env=os.environ | {"RANK": str(rank)})
        for rank in range(2)
    ]
    def kill(*_):
        open("launcher_was_signalled", "w").close()
        for worker in workers:
            worker.kill()
    signal.signal(signal.SIGTERM, kill)
    sys.exit(max(worker.wait() for worker in workers))
"""
SAVING_WORKER = """
    import os, signal, subprocess, sys, time
    rank = os.environ["RANK"]
    helper = subprocess.Popen(["sleep", "60"])
    def save(*_):
        time.sleep(0.3)
        assert helper.poll() is None, "the data loader is needed until the end"
        open(f"saved_{rank}", "w").close()
        helper.kill()
        sys.exit(75)
    signal.signal(signal.SIGTERM, save)
    open(f"ready_{rank}", "w").close()
    while True:
        time.sleep(0.05)
"""
STUBBORN_WORKER = """
    import os, signal, time
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    open("ready_" + os.environ["RANK"], "w").close()
    time.sleep(60)
"""


@pytest.fixture
def work(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("RANK", raising=False)
    monkeypatch.setattr(supervise, "TERM_SECONDS", 0.5)
    monkeypatch.setattr(supervise, "LEAVE_SECONDS", 0.3)
    yield tmp_path
    assert processes_in(tmp_path) == []


def processes_in(directory: Path) -> list[psutil.Process]:
    """Every live process that works in `directory`, whatever its parent and environment."""
    found = []
    for process in psutil.process_iter():
        with contextlib.suppress(psutil.Error):
            alive = process.status() != psutil.STATUS_ZOMBIE
            if alive and process.pid != os.getpid() and process.cwd() == str(directory):
                found.append(process)
    return found


def program(name: str, source: str) -> list[str]:
    Path(name).write_text(textwrap.dedent(source))
    return [sys.executable, name]


def run(argv: list[str], *, grace_seconds: float = 20, stop: StopRequests | None = None) -> Outcome:
    return run_supervised(
        argv,
        env=dict(os.environ),
        log_file=Path("logs/run.log"),
        run_id="run_001",
        grace_seconds=grace_seconds,
        echo=False,
        stop=stop,
    )


@contextlib.contextmanager
def when(condition: Callable[[], bool], *actions: Callable[[], None]) -> Iterator[None]:
    """In another thread: wait for the condition, then act, with pauses between the actions."""

    def act() -> None:
        deadline = time.monotonic() + 15
        while not condition() and time.monotonic() < deadline:
            time.sleep(0.02)
        for action in actions:
            action()
            time.sleep(0.7)

    thread = threading.Thread(target=act)
    thread.start()
    yield
    thread.join()


def both_ready() -> bool:
    return Path("ready_0").exists() and Path("ready_1").exists()


def send(number: signal.Signals) -> Callable[[], None]:
    return lambda: os.kill(os.getpid(), number)


def test_output_goes_to_log_tail_and_stderr(work: Path, capfd: pytest.CaptureFixture[str]) -> None:
    argv = program(
        "talk.py",
        r"""
        import os, sys
        print("id", os.environ["SFT_RUN_ID"], flush=True)
        sys.stderr.write("\r 10%\r 50%\r\x1b[32m100%\x1b[0m\n")
        sys.stderr.write("password=hunter2 caf\u00e9\r\n")
        sys.stderr.flush()
        os.write(2, b"\xff no line end")
        sys.exit(7)
        """,
    )
    outcome = run_supervised(
        argv,
        env=dict(os.environ) | {"PYTHONIOENCODING": "utf-8"},
        log_file=work / "logs" / "run.log",
        run_id="run_042",
        grace_seconds=1,
        echo=True,
    )
    lines = ["id run_042", "100%", "password=<redacted> caf\u00e9", "\ufffd no line end"]
    assert outcome == Outcome(7, None, killed=False, tail=lines)
    logged = (work / "logs" / "run.log").read_text().splitlines()
    assert [line.split(" ", 1)[1] for line in logged] == lines
    assert all(line[10] == "T" and line.split(" ")[0].endswith("Z") for line in logged)
    assert capfd.readouterr().err.splitlines() == lines


def test_tail_holds_the_last_200_lines(work: Path) -> None:
    outcome = run(program("many.py", "for i in range(1000): print(i)"))
    assert outcome.tail == [str(i) for i in range(800, 1000)]


def test_progress_bar_across_chunks_is_one_line() -> None:
    reader = LineReader()
    chunks = [b"\r 1%", b"\r 2", b"%\r", b"\n", b"a\r", b"\nb", b"\n\n", b"x" * (1 << 21)]
    lines = [line for chunk in chunks for line in reader.feed(chunk)]
    assert lines == [" 2%", "a", "b", "", "x" * (1 << 21)]
    assert reader.flush() == []


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGUSR1])
def test_workers_save_and_launcher_is_not_signalled(work: Path, number: signal.Signals) -> None:
    program("worker.py", SAVING_WORKER)
    with when(both_ready, send(number)):
        outcome = run(program("launcher.py", LAUNCHER))
    assert (outcome.returncode, outcome.signal_received) == (75, number.name)
    assert not outcome.killed
    assert (work / "saved_0").exists()
    assert (work / "saved_1").exists()
    assert not (work / "launcher_was_signalled").exists()


def test_two_signals_of_a_closing_terminal_are_one_request(work: Path) -> None:
    program("worker.py", SAVING_WORKER)

    def hang_up() -> None:
        send(signal.SIGHUP)()
        time.sleep(0.05)
        send(signal.SIGHUP)()

    with when(both_ready, hang_up):
        outcome = run(program("launcher.py", LAUNCHER))
    assert (outcome.returncode, outcome.killed) == (75, False)


def test_workers_that_do_not_stop_are_killed_after_the_grace_period(work: Path) -> None:
    program("worker.py", STUBBORN_WORKER)
    with when(both_ready, send(signal.SIGTERM)):
        outcome = run(program("launcher.py", LAUNCHER), grace_seconds=0.3)
    assert outcome.killed
    assert outcome.signal_received == "SIGTERM"
    assert outcome.returncode != 0


def test_second_signal_kills_at_once(work: Path) -> None:
    program("worker.py", STUBBORN_WORKER)
    started = time.monotonic()
    with when(both_ready, send(signal.SIGINT), send(signal.SIGINT)):
        outcome = run(program("launcher.py", LAUNCHER), grace_seconds=60)
    assert outcome.killed
    assert outcome.signal_received == "SIGINT"
    assert time.monotonic() - started < 15


def test_without_workers_the_whole_tree_is_asked_to_stop(work: Path) -> None:
    argv = ["bash", "-c", "sleep 60 & touch ready_0 ready_1; wait"]
    with when(both_ready, send(signal.SIGTERM)):
        outcome = run(argv)
    assert outcome.returncode == -signal.SIGTERM
    assert not outcome.killed


def test_processes_that_outlive_the_command_are_stopped(work: Path) -> None:
    argv = ["bash", "-c", "setsid sleep 60 & (trap '' TERM; setsid sleep 61 &) ; exit 3"]
    assert run(argv).returncode == 3


def test_signal_before_the_start_is_not_lost(work: Path) -> None:
    with StopRequests() as stop:
        send(signal.SIGTERM)()
        with pytest.raises(InterruptedRun, match="stopped by SIGTERM") as caught:
            run(["touch", "started"], stop=stop)
    assert caught.value.exit_code == 130
    assert not (work / "started").exists()


def test_signal_after_the_end_is_seen_by_the_next_check(work: Path) -> None:
    with StopRequests() as stop:
        assert run(["true"], stop=stop).signal_received is None
        stop.check()
        send(signal.SIGHUP)()
        with pytest.raises(InterruptedRun, match="SIGHUP"):
            stop.check()


def test_interruptible_block_ends_at_the_signal() -> None:
    with StopRequests() as stop:
        with pytest.raises(InterruptedRun, match="SIGINT"), stop.interruptible():
            os.kill(os.getpid(), signal.SIGINT)
        assert stop.first == "SIGINT"


def test_handlers_are_restored_and_ignored_ones_handled_but_nohup_honoured() -> None:
    previous = {n: signal.getsignal(n) for n in (signal.SIGINT, signal.SIGHUP, signal.SIGTERM)}
    try:
        signal.signal(signal.SIGINT, signal.SIG_IGN)
        signal.signal(signal.SIGHUP, signal.SIG_IGN)
        with StopRequests() as stop:
            send(signal.SIGHUP)()
            assert stop.first is None
            send(signal.SIGINT)()
            assert stop.first == "SIGINT"
        assert signal.getsignal(signal.SIGINT) == signal.SIG_IGN
        assert signal.getsignal(signal.SIGTERM) == previous[signal.SIGTERM]
    finally:
        for number, handler in previous.items():
            signal.signal(number, handler)


def test_forked_child_still_dies_of_a_signal() -> None:
    ready, is_ready = os.pipe()
    with StopRequests() as stop:
        child = os.fork()
        if child == 0:
            os.write(is_ready, b"x")
            time.sleep(20)
            os._exit(0)
        os.read(ready, 1)
        os.kill(child, signal.SIGTERM)
        status = os.waitpid(child, 0)[1]
    assert os.WTERMSIG(status) == signal.SIGTERM
    assert stop.first is None


@pytest.mark.skipif(sys.platform != "linux", reason="the parent-death signal is Linux's own")
def test_killing_the_supervisor_stops_the_command(work: Path) -> None:
    supervisor = program(
        "supervisor.py",
        """
        import os, pathlib
        from pipeline.launch.supervise import run_supervised
        run_supervised(["bash", "-c", "touch ready_0 ready_1; exec sleep 60"], env=dict(os.environ),
            log_file=pathlib.Path("log"), run_id="r", grace_seconds=60, echo=False)
        """,
    )
    root = str(Path(supervise.__file__).parents[2])
    process = subprocess.Popen(supervisor, env=os.environ | {"PYTHONPATH": root})
    with when(both_ready, process.kill):
        assert process.wait(20) == -signal.SIGKILL
    deadline = time.monotonic() + 5
    while processes_in(work) and time.monotonic() < deadline:
        time.sleep(0.05)


def test_missing_command_and_unwritable_log_are_launch_errors(work: Path) -> None:
    with pytest.raises(LaunchError, match="no-such-tool: command not found; run `bash scripts"):
        run(["no-such-tool"])
    (work / "logs").write_text("a file where the directory should be")
    with pytest.raises(LaunchError, match=r"logs/run.log: cannot write the log \(.*\); free disk"):
        run(["true"])


def test_a_closed_stderr_does_not_stop_the_command(
    work: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Gone:
        def write(self, text: str) -> int:
            raise BrokenPipeError

    monkeypatch.setattr(sys, "stderr", Gone())
    outcome = run_supervised(
        program("many.py", "for i in range(100_000): print(i)"),
        env=dict(os.environ),
        log_file=work / "log",
        run_id="r",
        grace_seconds=1,
        echo=True,
    )
    assert (outcome.returncode, outcome.tail[-1]) == (0, "99999")
