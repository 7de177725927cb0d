"""Run a plan of stages, each in a time box, and bring back what they found.

    bash benchmarks/gpu/run.sh --plan first --output "$OUT"      # on a lent machine, with the bundle in .gpu
    python -m benchmarks.gpu --rehearse --output /tmp/rehearsal   # the same on a CPU, with tiny sizes

Stages run one after another; one that fails or runs out of time does not stop the next. The folder of results holds at
most 8 files of 15 MiB; ``summary.json`` in it is true at any moment. What stages hand on to later ones, and to a second
command on the same machine, is in --work.
"""

from __future__ import annotations

import argparse
import importlib
import json
import os
import platform
import shutil
import signal
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from benchmarks.gpu.boxes import Ended, run_box, tail
from benchmarks.gpu.plan import GRACE, PLANS, Plan, Stage, read_plan
from benchmarks.gpu.results import SUMMARY, Limits, enforce
from benchmarks.lib.paths import ROOT
from benchmarks.lib.results_page import write_json
from openmm_starmd.files.writing import sweep

RESERVE = 5.0  # seconds kept for the last summary


class Runner:
    """A plan being run.

    Parameters
    ----------
    plan : Plan
    bundle, output, work : Path
        What was carried, what goes back, and what stages leave for each other.
    device : str
        ``"cuda"`` or ``"cpu"``.
    began : float
        When the seconds of the plan began to count, by ``time.time()``.
    limits : Limits
    grace : float
        Seconds that a stage gets to end in.
    every : float
        Seconds between packings of what a running stage has.
    """

    def __init__(
        self,
        plan: Plan,
        bundle: Path,
        output: Path,
        work: Path,
        device: str,
        began: float | None = None,
        limits: Limits | None = None,
        grace: float = GRACE,
        every: float = 60.0,
    ) -> None:
        self.plan, self.bundle, self.output, self.work, self.device = plan, bundle, output, work, device
        self.began = time.time() if began is None else began
        self.limits, self.grace, self.every = limits or Limits(), grace, every
        self.summary: dict[str, Any] = {
            "status": "running",
            "device": device,
            "host": f"{platform.machine()}, {os.cpu_count()} cores, Python {platform.python_version()}",
            "seconds_planned": plan.seconds,
            "stages": [],
            "left_out": [],
        }

    @property
    def left(self) -> float:
        """Seconds left of the plan's."""
        return self.plan.seconds - (time.time() - self.began) - RESERVE

    def run(self) -> dict[str, Any]:
        """Run every stage there is time for; the summary, as written."""
        self.output.mkdir(parents=True, exist_ok=True)
        (self.work / "logs").mkdir(parents=True, exist_ok=True)
        log = self.work / "install.log"
        self.summary["install"] = {"tail": tail(log, 15), "seconds": time.time() - self.began}
        self._write()
        for number, stage in enumerate(self.plan.stages):
            later = sum(s.seconds for s in self.plan.stages[number + 1 :])
            # what comes later keeps its time; what is over goes to a stage that stretches
            box = max(stage.seconds, self.left - later) if stage.stretch else stage.seconds
            self._stage(stage, min(box, self.left) - self.grace)
            self._write()
        self.summary["status"] = "done"
        self._write()
        return self.summary

    def _stage(self, stage: Stage, seconds: float) -> None:
        entry: dict[str, Any] = {"name": stage.name, "status": "running", "seconds_allowed": round(seconds, 1)}
        self.summary["stages"].append(entry)
        if seconds <= 0:
            entry |= {"status": "skipped", "error": "no time left"}
            return
        self._write()
        log = self.work / "logs" / f"{stage.name}.log"
        collect = self._collector(stage, entry)
        ended = Ended("failed", -1, 0.0)
        try:
            ended = run_box(
                self._command(stage, seconds),
                log,
                seconds,
                self.grace,
                folder=ROOT,
                every=self.every,
                meanwhile=collect,
            )
        except OSError as error:
            entry["error"] = f"{type(error).__name__}: {error}"
        lines = tail(log)
        entry |= {"status": ended.status, "returncode": ended.returncode, "seconds": round(ended.seconds, 2)}
        if ended.status in ("stopped", "killed"):
            entry["error"] = f"its {seconds:.0f} s were over" + (", and it did not end" * (ended.status == "killed"))
        elif ended.status == "failed":
            # an exception's message is the last line of its traceback
            entry.setdefault("error", next((line for line in reversed(lines) if line.strip()), "died without a word"))
        entry["tail"] = lines
        collect()

    def _command(self, stage: Stage, seconds: float) -> list[str]:
        module = stage.module if "." in stage.module else f"benchmarks.gpu.{stage.module}"
        places = {"--bundle": self.bundle, "--output": self.output, "--work": self.work, "--device": self.device}
        command = [sys.executable, "-u", "-m", module, "--seconds", f"{seconds:.1f}"]
        for name, value in places.items():
            command += [name, str(value)]
        return [*command, "--options", json.dumps(dict(stage.options))]

    def _collector(self, stage: Stage, entry: dict[str, Any]) -> Callable[[], None]:
        """Packs what a stage has into the results, where it has a function ``collect`` for that."""

        def collect() -> None:
            try:
                module = None if "." in stage.module else importlib.import_module(f"benchmarks.gpu.{stage.module}")
                if hasattr(module, "collect"):
                    entry["collected"] = module.collect(self.work, self.output, dict(stage.options))
            except Exception as error:  # whatever it is, the next stage must run
                entry["collect_error"] = f"{type(error).__name__}: {error}"

        return collect

    def _write(self) -> None:
        sweep(self.output)
        self.summary["seconds"] = round(time.time() - self.began, 1)
        machine = self.work / "machine.json"
        if machine.exists():
            self.summary["machine"] = json.loads(machine.read_text())
        self.summary["left_out"] += enforce(self.output, self.limits, self.work / "left_out")
        others = (path for path in sorted(self.output.iterdir()) if path.name != SUMMARY)
        self.summary["files"] = {path.name: path.stat().st_size for path in others}
        write_json(self.output / SUMMARY, self.summary)


def table(summary: dict[str, Any]) -> str:
    """What a person reads first: a line per stage, and what comes back."""
    lines = [
        f"{s['name']:12} {s['status']:9} {s.get('seconds', 0):7.1f} s  {s.get('error', '')[:120]}"
        for s in summary["stages"]
    ]
    lines += [f"{name}: {size / 2**20:.2f} MiB" for name, size in summary["files"].items()]
    lines += [f"left out: {name}" for name in summary["left_out"]]
    return "\n".join([*lines, f"{summary['seconds']:.0f} s in all"])


def _terminate(number: int, frame: object) -> None:
    raise SystemExit(128 + number)


def main() -> None:
    """Read the plan, run it, print the table; ends with 1 if a stage was not done."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.gpu", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--plan", default="first", help="a name in benchmarks/gpu/plans, or a JSON file")
    parser.add_argument("--output", type=Path, required=True, help="folder of results")
    parser.add_argument("--bundle", type=Path, default=ROOT / ".gpu", help="what `make gpu-bundle` made")
    parser.add_argument("--work", type=Path, default=Path("/tmp/starmd-gpu"), help="what stages leave for each other")
    parser.add_argument("--seconds", type=float, help="for all stages; the plan's own by default")
    parser.add_argument("--began", type=float, help="Unix time from which these count; now by default")
    parser.add_argument("--device", choices=["cuda", "cpu"], default="cuda")
    parser.add_argument("--stages", nargs="+", help="only these of the plan's")
    parser.add_argument(
        "--rehearse", action="store_true", help="everything, tiny, on the CPU; --work inside --output's parent"
    )
    arguments = parser.parse_args()
    signal.signal(signal.SIGTERM, _terminate)
    if arguments.rehearse:
        from benchmarks.gpu.rehearsal import small_bundle

        arguments.plan, arguments.device = "rehearsal", "cpu"
        arguments.work = arguments.output.parent / f"{arguments.output.name}-work"
        shutil.rmtree(arguments.work, ignore_errors=True)
        arguments.bundle = small_bundle(arguments.work / "bundle")
    try:
        path = Path(arguments.plan)
        plan = read_plan(path if path.suffix == ".json" else PLANS / f"{arguments.plan}.json")
        if arguments.stages:
            unknown = set(arguments.stages) - {stage.name for stage in plan.stages}
            if unknown:
                raise ValueError(f"the plan has no stages {', '.join(sorted(unknown))}")
            plan = Plan(plan.seconds, [stage for stage in plan.stages if stage.name in arguments.stages])
    except ValueError as error:
        parser.error(str(error))
    if arguments.seconds:
        plan = plan.scaled(arguments.seconds)
    runner = Runner(plan, arguments.bundle, arguments.output, arguments.work, arguments.device, arguments.began)
    summary = runner.run()
    print(table(summary), flush=True)
    sys.exit(any(stage["status"] != "done" for stage in summary["stages"]))


if __name__ == "__main__":
    main()
